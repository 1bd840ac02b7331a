"""Sending reports to a root that is slow, ill or fails on one instance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager.core import Core
from manager.domain.model import InstanceKey, InstanceState, Job
from manager.domain.policy import Policy
from manager.domain.roots import Era, LinkState
from manager.root.errors import ReportRefusedError, RootAwayError
from manager.root.reporter import Reporter
from manager.roots import Roots
from manager.store.factory import make_store
from testbed.records import instance, spec
from testbed.stores import sqlite_url

BAD = 3


def _job_id(number: int) -> str:
    return f"{number:024x}"


class _Root:
    """Takes reports; fails on those that hold the job `bad`."""

    def __init__(self, bad: str = "") -> None:
        self.bad = bad
        self.told: list[list[str]] = []
        self.is_ill = False
        self.is_away = False

    async def report(self, cluster_id: str, body: dict[str, Any]) -> None:
        ids = [job["_id"] for job in body["jobs"]]
        self.told.append(ids)
        if self.is_away:
            raise RootAwayError("away")
        if self.is_ill or self.bad in ids:
            raise ReportRefusedError("500")


@pytest.fixture(name="reporter")
async def _reporter(tmp_path: Path) -> Reporter:
    core = Core(make_store(sqlite_url(tmp_path)), Policy())
    roots = Roots(core)
    roots.stand(state=LinkState.ATTACHED, era=Era.R3, cluster_id="c" * 24)
    for number in range(8):
        job_id = _job_id(number)
        core.state.jobs[job_id] = Job(id=job_id, spec=spec(), created_at_ms=0, owner="root")
        item = replace(instance(), key=InstanceKey(job_id, 0), state=InstanceState.RUNNING)
        core.state.instances[item.key] = item
        core.state.of_job[job_id][0] = None
    return Reporter(core, roots, 60)


async def test_what_was_acknowledged_is_not_told_again(reporter: Reporter) -> None:
    """The second report tells of no job: its size follows what changed."""
    root: Any = _Root()
    assert not await reporter.send(root)
    assert not await reporter.send(root)
    assert [len(ids) for ids in root.told] == [8, 0]


async def test_instance_that_the_root_fails_on_holds_back_no_other(reporter: Reporter) -> None:
    """All others are acknowledged, the culprit is set aside and counted."""
    root: Any = _Root(_job_id(BAD))
    for _ in range(20):
        if not await reporter.send(root):
            break
    assert reporter.due() == []
    assert reporter._core.counters["root_instances_set_aside"] == 1
    good = [ids for ids in root.told if _job_id(BAD) not in ids]
    assert {job_id for ids in good for job_id in ids} == {_job_id(n) for n in range(8) if n != BAD}


async def test_ill_root_is_not_the_fault_of_an_instance(reporter: Reporter) -> None:
    """Where an empty report fails as well, the root is away and nothing is forgotten."""
    root: Any = _Root()
    root.is_ill = True
    with pytest.raises(RootAwayError):
        await reporter.send(root)
    assert len(reporter.due()) == 8


async def test_slow_root_gets_smaller_portions(reporter: Reporter) -> None:
    """After reports without an answer the portions shrink, and grow again when one is taken."""
    root: Any = _Root()
    root.is_away = True
    for _ in range(8):
        with pytest.raises(RootAwayError):
            await reporter.send(root)
    root.is_away = False
    while await reporter.send(root):
        pass
    assert [len(ids) for ids in root.told][8:] == [1, 2, 4, 1]


async def test_nothing_is_purged_before_the_root_heard_of_it(reporter: Reporter) -> None:
    """An ended instance is kept until a report with it was taken; what the root never hears of is no obstacle."""
    key = InstanceKey(_job_id(0), 0)
    state = reporter._core.state
    state.instances[key] = replace(state.instances[key], state=InstanceState.STOPPED, updated_at_ms=5)
    assert not reporter.may_purge(key)
    await reporter.send(_Root())  # type: ignore[arg-type]
    reporter.ledger.acknowledge(state.instances.values(), 0)
    assert reporter.may_purge(key)
    state.jobs[_job_id(1)] = replace(state.jobs[_job_id(1)], owner="operator")
    assert reporter.may_purge(InstanceKey(_job_id(1), 0))


async def test_undecided_root_is_told_of_no_job(reporter: Reporter) -> None:
    """Until the era is known reports hold the numbers alone."""
    reporter._roots.stand(era=Era.UNDECIDED)
    root: Any = _Root()
    assert not await reporter.send(root)
    assert root.told == [[]]
