"""The guard over workloads that a root lost, and what the manager keeps of its root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manager.domain.model import InstanceKey
from manager.domain.roots import Era, Guard, LinkState, Route
from manager.roots import ERA, GUARD, Roots
from testbed.live_core import live_core

ALL = -1


@pytest.fixture(name="roots")
async def _roots(tmp_path: Path) -> AsyncIterator[Roots]:
    async with live_core(tmp_path) as live:
        yield Roots(live.core)


async def test_deletes_of_all_of_a_guarded_job_are_held(roots: Roots) -> None:
    """Only a root's -1 for a guarded job is held; all else goes through."""
    await roots.arm(["a", "b"])
    keys = [InstanceKey("a", ALL), InstanceKey("a", 0), InstanceKey("c", ALL)]
    assert roots.admit_deletes(keys, "root") == keys[1:]
    assert roots.admit_deletes(keys, "operator") == keys
    assert roots.guard == Guard(guarded=frozenset("ab"), held=frozenset("a"))
    assert roots.guard.unknown_to_root == {"a"}


async def test_operator_lets_the_deletes_through(roots: Roots) -> None:
    """What was held is answered, and nothing is guarded any more."""
    await roots.arm(["a", "b"])
    roots.admit_deletes([InstanceKey("a", ALL)], "root")
    assert roots.release() == ["a"]
    assert roots.guard == Guard()


async def test_operator_keeps_the_workloads(roots: Roots) -> None:
    """They stay out of reports and of the reach of the root, through a restart and a further loss."""
    await roots.arm(["a"])
    assert roots.keep() == ["a"]
    assert roots.admit_deletes([InstanceKey("a", ALL)], "root") == []
    await roots.arm(["a", "b"])
    assert roots.guard == Guard(guarded=frozenset("b"), kept=frozenset("a"))
    assert Roots(roots._core).guard == roots.guard
    assert roots.saved(GUARD)


async def test_root_that_deploys_a_job_knows_it(roots: Roots) -> None:
    """A deploy by a root's route takes a job out of the guard; one of the operator does not."""
    await roots.arm(["a", "b"])
    roots.note_route(Route.NONE, ["a"])
    assert roots.guard.guarded == {"a", "b"}
    roots.note_route(Route.SERVICE, ["a"])
    assert roots.guard.guarded == {"b"}


async def test_first_deploy_shows_the_era_and_later_ones_do_not_change_it(roots: Roots) -> None:
    """The route tells R2 from R3, is saved, and a stray call on the other route changes nothing."""
    roots.stand(state=LinkState.ATTACHED, era=Era.UNDECIDED)
    roots.note_route(Route.DEPLOY, [])
    roots.note_route(Route.SERVICE, [])
    assert roots.standing.era is Era.R2
    assert roots.saved(ERA) == "r2"


async def test_standing_is_told_once_in_history(roots: Roots) -> None:
    """A repeated failure is one event."""
    for _ in range(3):
        roots.stand(state=LinkState.LOST, detail="no answer")
    kinds = [entry.event.kind for entry in roots._core.history.after(0)]
    assert kinds == ["root_lost"]
    assert roots.words.startswith("lost")
