"""Samples of what mutmut changes in one area of the source, tried with the unit tests that touch it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mutants.grave import ROOT, copy_tree

WORK: Final = ROOT / ".cache" / "mutants"
SOURCES: Final = ("cluster", "manager", "scheduler", "gateway", "worker", "clusterctl")
NO_MUTANT: Final = "no-such-mutant"
_TEXT: Final = re.compile(r"""[rbf]*("[^"]*"|'[^']*')""")
KILLED: Final = ("killed", "timeout")
_SHELL_TESTS: Final = ("bridge", "core", "detector", "intake", "moves", "planning", "reading", "reconciler", "writer")


@dataclass(frozen=True, kw_only=True)
class Area:
    """Files that are changed (globs), less those that only real parts run, and the tests that must notice.

    The `ignored` tests are about something else and would only take time.
    """

    mutated: tuple[str, ...]
    tests: tuple[str, ...]
    spared: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


AREAS: Final = {
    "domain": Area(
        mutated=("manager/domain/*.py",),
        tests=("tests/unit/manager", "tests/unit/engines", "tests/unit/root/test_guard.py"),
        ignored=tuple(f"tests/unit/manager/test_{name}.py" for name in _SHELL_TESTS),
    ),
    "shell": Area(
        mutated=("manager/*.py",),
        spared=("manager/domain/*", "manager/__main__.py", "manager/parts.py", "manager/store/mongo.py"),
        tests=("tests/unit/manager", "tests/unit/engines", "tests/unit/root", "tests/unit/store"),
    ),
    "scheduler": Area(
        mutated=("scheduler/*.py",),
        spared=("scheduler/__main__.py", "scheduler/servicer.py"),
        tests=("tests/unit/scheduler",),
    ),
    "cluster": Area(
        mutated=("cluster/*.py",),
        spared=("cluster/v1/*",),
        tests=("tests/unit/cluster", "tests/unit/manager/test_checks.py", "tests/unit/worker/test_messages.py"),
    ),
    "worker": Area(
        mutated=tuple(f"worker/{name}.py" for name in ("handover", "machine", "policy", "records", "slots")),
        tests=("tests/unit/worker",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a sample: how many mutants there are, and the status of each that was tried."""

    area: str
    total: int
    status: dict[str, str]

    @property
    def alive(self) -> list[str]:
        """The names of those that no test noticed."""
        return sorted(name for name, status in self.status.items() if status not in KILLED)

    @property
    def share(self) -> float:
        """How much of the sample was killed, 0 to 1."""
        return 1 - len(self.alive) / max(1, len(self.status))

    @property
    def line(self) -> str:
        """For the table."""
        counts = ", ".join(f"{count} {status}" for status, count in Counter(self.status.values()).most_common())
        return f"{self.area:10} {len(self.status):4} of {self.total:6}  {self.share:6.1%} killed  ({counts})"


class Bench:
    """A copy of the tree in which mutmut tries an area."""

    def __init__(self, name: str, *, with_simulation: bool = False) -> None:
        self.name = name
        self.folder = WORK / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        copy_tree(self.folder)
        with (self.folder / "pyproject.toml").open("a") as file:
            file.write(_settings(AREAS[name], with_simulation=with_simulation))

    def try_sample(self, count: int, seed: int) -> Outcome:
        """Make all mutants, find out which test touches which function, and try some. Raises RuntimeError."""
        report = self._mutmut("run", "--max-children", "2", NO_MUTANT)
        names = sorted(self._codes())
        if not names or "nothing matches" not in report:
            raise RuntimeError(f"mutmut does not get as far as trying mutants of {self.name}: {report[-3000:]}")
        chosen = random.Random(seed).sample(names, min(count, len(names)))
        report = self._mutmut("run", "--max-children", "2", *chosen)
        codes = self._codes()
        if any(codes[name] is None for name in chosen):
            raise RuntimeError(f"mutmut did not try all of the sample of {self.name}: {report[-3000:]}")
        return Outcome(area=self.name, total=len(names), status={name: _status(codes[name]) for name in chosen})

    def show(self, name: str) -> str:
        """What a mutant changes."""
        return self._mutmut("show", name)

    def _codes(self) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for path in (self.folder / "mutants").rglob("*.meta"):
            found |= json.loads(path.read_text())["exit_code_by_key"]
        return found

    def _mutmut(self, *arguments: str) -> str:
        program = str(Path(sys.executable).parent / "mutmut")
        environment = {**os.environ, "PYTHONPATH": ""}
        result = subprocess.run(
            [program, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        return re.sub(r"[^\n]*\r", "", result.stdout + result.stderr)


def changes_words_only(diff: str) -> bool:
    """Whether a mutant differs from the source in nothing but texts: what is shown, logged or told, or a name."""
    before, after = (
        [_TEXT.sub('""', line[1:]) for line in diff.splitlines() if re.match(rf"\{sign}(?!\{sign})", line)]
        for sign in "-+"
    )
    return bool(before) and before == after


def _status(code: int | None) -> str:
    from mutmut.stats import status_by_exit_code

    return str(status_by_exit_code[code])


def _settings(area: Area, *, with_simulation: bool) -> str:
    ignored = area.ignored if with_simulation else (*area.ignored, "tests/unit/manager/test_simulation.py")
    options = ["-n", "0", "-p", "no:cacheprovider", "--timeout=60", *(f"--ignore={path}" for path in ignored)]
    settings = {
        "source_paths": list(SOURCES),
        "also_copy": ["protos"],
        "only_mutate": list(area.mutated),
        "do_not_mutate": list(area.spared),
        "pytest_add_cli_args": options,
        "pytest_add_cli_args_test_selection": list(area.tests),
        "process_isolation": "forkserver",
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(["", "[tool.mutmut]", *lines, "use_git_change_detection = false", ""])
