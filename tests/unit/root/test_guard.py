"""The guard over workloads that a root lost, and what the manager keeps of its root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UnavailableError
from cluster.v1 import manager_pb2 as pb
from cluster.v1 import root_pb2
from manager.domain.model import InstanceKey
from manager.domain.roots import Era, Guard, LinkState, Route
from manager.ports import Store, StoreError
from manager.roots import ACKNOWLEDGED, ERA, GUARD, Roots
from manager.rpc.root_servicer import RootServicer
from manager.store.factory import make_store
from testbed.cores import opened
from testbed.stores import sqlite_url
from testbed.waiting import wait_until_async

ALL = -1


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    return make_store(sqlite_url(tmp_path))


@pytest.fixture(name="roots")
async def _roots(tmp_path: Path, store: Store) -> AsyncIterator[Roots]:
    async with opened(tmp_path, store) as core:
        yield Roots(core)


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


@pytest.mark.parametrize("decision", [root_pb2.ROOT_DECISION_KEEP, root_pb2.ROOT_DECISION_CONFIRM_DELETES])
async def test_decision_that_could_not_be_saved_is_none(
    roots: Roots, store: Store, monkeypatch: pytest.MonkeyPatch, decision: root_pb2.RootDecision.ValueType
) -> None:
    """The operator hears that it failed, the guard protects as before, and the history tells of no decision."""
    core = roots._core
    await roots.arm(["a"])
    write, failures = store.write, [StoreError("the disk is full")]

    def write_or_fail(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return write(*arguments)

    monkeypatch.setattr(store, "write", write_or_fail)
    decide: Any = RootServicer(core, roots).DecideRootDeletes
    with pytest.raises(UnavailableError):
        await decide(pb.DecideRootDeletesRequest(decision=decision), None)
    await wait_until_async(lambda: not core.writer.failure and roots.guard == Guard(guarded=frozenset("a")))
    assert roots.admit_deletes([InstanceKey("a", ALL)], "root") == []
    kinds = {entry.event.kind for entry in core.history.after(0)}
    assert not kinds & {"root_workloads_kept", "root_deletes_confirmed"}
    await decide(pb.DecideRootDeletesRequest(decision=decision), None)
    assert roots.guard.guarded == frozenset()


async def test_guard_that_could_not_be_saved_is_not_told(roots: Roots) -> None:
    """While the store is away the guard cannot be armed; the link tries again, and says it once it is durable."""
    core = roots._core
    core.writer.failure = "the disk is full"
    with pytest.raises(UnavailableError):
        await roots.arm(["a"])
    assert not any(entry.event.kind == "root_lost_its_database" for entry in core.history.after(0))
    core.writer.failure = ""
    core.settings.pop(GUARD, None)
    await roots.arm(["a"])
    assert [entry.event.kind for entry in core.history.after(0)] == ["root_lost_its_database"]
    assert roots.guard.guarded == {"a"}


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"guarded": 7}', '{"newer": ["a"]}'])
async def test_saved_values_that_cannot_be_read_end_nothing(roots: Roots, text: str) -> None:
    """A guard, an era or a moment that another version wrote is passed over: the manager starts."""
    core = roots._core
    for name in (GUARD, ERA, ACKNOWLEDGED):
        core.put_setting(name, text)
    roots = Roots(core)
    assert (roots.guard, roots.last_era) == (Guard(), None)
    assert roots.acknowledged_ms == (7 if text == "7" else 0)


async def test_root_that_deploys_a_job_knows_it(roots: Roots) -> None:
    """A deploy by a root's route takes a job out of the guard; one of the operator does not."""
    await roots.arm(["a", "b"])
    roots.note_route(Route.NONE, ["a"])
    assert roots.guard.guarded == {"a", "b"}
    roots.note_route(Route.SERVICE, ["a"])
    assert roots.guard.guarded == {"b"}


async def test_guard_forgets_jobs_that_are_gone(roots: Roots) -> None:
    """What the operator deleted meanwhile waits for no decision."""
    await roots.arm(["a", "b"])
    roots.admit_deletes([InstanceKey("a", ALL)], "root")
    roots.forget_job("a")
    roots.forget_job("never known")
    assert roots.guard == Guard(guarded=frozenset("b"))


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
