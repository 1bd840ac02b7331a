"""What becomes of a test whose real part is missing, here and in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import requirement

ROOT = Path(__file__).resolve().parents[2]
WANTING = """
import pytest
from testbed import requirement

pytestmark = {mark}

@pytest.fixture
def part():
    {fixture}

def test_it({argument}):
    {body}
"""


def outcome(folder: Path, *, required: str, ways: dict[str, dict[str, str]]) -> str:
    """What pytest says, with this project's conftest, of tests that do not run for want of something."""
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    for name, parts in ways.items():
        lines = {"mark": "[]", "fixture": "return", "argument": "", "body": "pass"} | parts
        (folder / f"test_{name}.py").write_text(WANTING.format(**lines))
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)]
    done = subprocess.run(
        [*command, "--continue-on-collection-errors"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "REQUIRE_REAL_PARTS": required},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


NO_PART = "requirement._probes = lambda: {'engine': lambda: 'not installed: engined'}"
WAYS = {
    "asked_for_in_the_test": {"body": f"{NO_PART}; requirement.require('engine')"},
    "asked_for_by_a_fixture": {"argument": "part", "fixture": f"{NO_PART}; requirement.require('engine')"},
    "marked": {"mark": "[pytest.mark.real('engine')]\n" + NO_PART},
    "skipped_by_itself": {"body": "pytest.skip('needs root')"},
    "marked_as_skipped": {"mark": "[pytest.mark.skip(reason='needs root')]"},
    "skipped_as_a_module": {"mark": "[]\npytest.importorskip('no_such_module')"},
}


@pytest.mark.parametrize("unset", ["", "0"])
def test_a_missing_part_skips_here(unset: str, tmp_path: Path) -> None:
    """Where real parts are not required, each test that lacks one is skipped."""
    said = outcome(tmp_path, required=unset, ways=WAYS).splitlines()[-1]
    assert f"{len(WAYS)} skipped" in said
    assert "failed" not in said


def test_a_missing_part_fails_in_ci(tmp_path: Path) -> None:
    """However a test comes to be skipped, it fails where real parts are required, and says why."""
    said = outcome(tmp_path, required="1", ways=WAYS)
    lines = {way: [line for line in said.splitlines() if f"test_{way}.py" in line] for way in WAYS}
    unfailed = [way for way, of_it in lines.items() if not any(line.startswith(("FAILED", "ERROR")) for line in of_it)]
    assert unfailed == []
    assert "skipped" not in said.splitlines()[-1]
    assert all(reason in said for reason in ("not installed: engined", "needs root", "no_such_module"))


def test_an_expected_failure_is_none_in_ci(tmp_path: Path) -> None:
    """A test that is known to fail is no skipped one."""
    known = {"known": {"mark": "[pytest.mark.xfail]", "body": "assert False"}}
    assert "1 xfailed" in outcome(tmp_path, required="1", ways=known)


def test_what_falls_back_does_not_do_so_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking whether a part is there fails where it must be."""
    monkeypatch.setattr(requirement, "_probes", lambda: {"broker": lambda: "not installed: broker"})
    monkeypatch.setenv("REQUIRE_REAL_PARTS", "0")
    assert not requirement.available("broker")
    monkeypatch.setenv("REQUIRE_REAL_PARTS", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed: broker"):
        requirement.available("broker")


@pytest.mark.parametrize("part", list(requirement._probes()))
def test_each_probe_tells_why_not(part: str) -> None:
    """Whether there or not, a part is judged in words: none where it is there."""
    assert isinstance(requirement._probes()[part](), str)
