"""The cluster under random faults on virtual time; every seed is a schedule of its own and replays exactly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
EVERY_TIME = 500
NIGHTLY = 10_000


def _play(seeds: str, *options: str) -> str:
    """Play in a process whose hashes are no accident; answers what it printed."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "simulation", seeds, *options]
    played = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
    return played.stdout


@pytest.mark.parametrize("first", range(0, EVERY_TIME, 50))
def test_faults_leave_nothing_behind(first: int) -> None:
    """Whatever is lost, doubled, late, cut off or crashed: no healthy instance is touched, and what is said is true."""
    _play(f"{first}:{first + 50}")


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(EVERY_TIME, EVERY_TIME + NIGHTLY, 500))
def test_faults_leave_nothing_behind_in_ten_thousand_schedules(first: int) -> None:
    """The same for 10,000 schedules."""
    _play(f"{first}:{first + 500}", "--go-on")


def test_a_seed_decides_everything() -> None:
    """The same seed plays the same schedule to the same end, in any process."""
    assert _digests("3:12") == _digests("3:12")


def _digests(seeds: str) -> list[str]:
    return [line for line in _play(seeds, "--digest").splitlines() if not line.startswith("{")]
