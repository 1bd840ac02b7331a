"""Mutants by hand: edits of the source that no test run may survive, and the copy of the tree to try them in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LIST: Final = ROOT / "tests" / "mutants" / "grave.toml"
COPIED: Final = (
    "cluster", "manager", "scheduler", "gateway", "worker", "clusterctl", "protos", "tests", "pyproject.toml",
)  # fmt: skip
TESTS_FAILED: Final = 1
LONGEST_RUN_S: Final = 600


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A text that stands exactly once in a file, and what is put in its place."""

    file: str
    search: str
    replace: str

    def count_in(self, root: Path) -> int:
        """How often the text stands there."""
        return (root / self.file).read_text().count(self.search)

    def apply(self, root: Path) -> None:
        """Edit the file. Raises ValueError where the text does not stand there exactly once."""
        if (count := self.count_in(root)) != 1:
            raise ValueError(f"{self.file} holds {self.search!r} {count} times: carry the mutant along with the source")
        path = root / self.file
        path.write_text(path.read_text().replace(self.search, self.replace))


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mistake, the harm it would do, and the tests (pytest's node ids) of which each fails with it."""

    name: str
    harm: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]

    def apply(self, root: Path) -> None:
        """Make the mistake in a copy of the tree."""
        for edit in self.edits:
            edit.apply(root)


def load(path: Path = LIST) -> list[Mutant]:
    """The list."""
    tables = tomllib.loads(path.read_text())["mutant"]
    return [
        Mutant(
            name=table["name"],
            harm=table["harm"],
            tests=tuple(table["tests"]),
            edits=tuple(Edit(**edit) for edit in table["edits"]),
        )
        for table in tables
    ]


def copy_tree(folder: Path) -> Path:
    """What the tests import, in a folder of its own, so that the source itself is never touched."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return folder


def run(tests: tuple[str, ...], root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy of the tree; the installed package, which is the source itself, comes behind it."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_RUN_S
    )


def failed(report: str) -> set[str]:
    """The tests that pytest's summary calls failed, with and without their parameters."""
    found = re.findall(r"^FAILED (\S+?::\w+)(\[.*?\])?(?= - |$)", report, re.MULTILINE)
    return {name + given for name, parameters in found for given in ("", parameters)}
