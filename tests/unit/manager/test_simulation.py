"""The cluster under random faults on virtual time; every seed is a schedule of its own and replays exactly."""

import os
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.schedule import play

REPLAY = os.environ.get("SIMULATION_SEED")
EVERY_TIME = 500
NIGHTLY = 10_000


def _play(seeds: Iterable[int]) -> None:
    for seed in [int(REPLAY)] if REPLAY else seeds:
        try:
            play(seed)
        except BaseException:
            print(f"replay with: SIMULATION_SEED={seed} .venv/bin/python -m pytest {__file__}")
            raise


@pytest.mark.parametrize("hundred", range(0, EVERY_TIME, 100))
def test_faults_leave_nothing_behind(hundred: int) -> None:
    """Whatever is lost, doubled, late, cut off or crashed: once it is over, what was acknowledged is true."""
    _play(range(hundred, hundred + 100))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(min_value=EVERY_TIME + NIGHTLY, max_value=2**63))
def test_faults_of_schedules_that_hypothesis_draws_leave_nothing_behind(seed: int) -> None:
    """The same for schedules far from those that are numbered in a row."""
    _play([seed])


@pytest.mark.nightly
@pytest.mark.parametrize("thousand", range(EVERY_TIME, EVERY_TIME + NIGHTLY, 1000))
def test_faults_leave_nothing_behind_in_ten_thousand_schedules(thousand: int) -> None:
    """The same for 10,000 schedules."""
    _play(range(thousand, thousand + 1000))


def test_a_seed_decides_everything() -> None:
    """The same seed plays the same schedule to the same end."""
    assert play(7) == play(7)
