"""Reports that are due, acknowledged, refused, answered later or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manager.clock import CLOCK
from manager.core import Core
from manager.domain.model import InstanceKey, InstanceState, Job
from manager.domain.roots import Era, LinkState
from manager.root import doubts, watermark
from manager.root import reporter as module
from manager.root.backlog import Backlog
from manager.root.errors import ReportRefusedError, RootAwayError, RootBusyError
from manager.root.reporter import Reporter
from manager.roots import ACKNOWLEDGED, Roots
from testbed.cores import opened
from testbed.records import instance, spec

BAD = 3
COUNT = 8
Body = dict[str, Any]


def _job_id(number: int) -> str:
    return f"{number:024x}"


def _told(body: Body) -> list[tuple[str, int]]:
    return [(job["_id"], item["instance_number"]) for job in body["jobs"] for item in job["instance_list"]]


class _Root:
    """Takes reports, and does to those that `fails_on` picks what `error` says."""

    def __init__(self) -> None:
        self.told: list[list[tuple[str, int]]] = []
        self.believes: dict[tuple[str, int], str] = {}
        self.fails_on: Callable[[Body], bool] = lambda _body: False
        self.error: Exception = ReportRefusedError("the root answered 500 to a report")

    async def report(self, cluster_id: str, body: Body) -> None:
        self.told.append(_told(body))
        await asyncio.sleep(0)
        if self.fails_on(body):
            raise self.error
        for job in body["jobs"]:
            self.believes |= {(job["_id"], item["instance_number"]): item["status"] for item in job["instance_list"]}


@dataclass
class Rig:
    """A reporter of eight running instances, a root that takes whatever it is told, and a clock."""

    core: Core
    roots: Roots
    backlog: Backlog
    reporter: Reporter
    root: Any
    mono_s: float = 1000.0

    async def send(self) -> bool:
        """One report; whether more is due at once."""
        self.mono_s += 0.01
        return (await self.reporter.send(self.root)).has_more

    async def send_all(self) -> None:
        """One report after another, through failures, until nothing is due."""
        for _ in range(200):
            try:
                if not await self.send():
                    return
            except RootAwayError:
                pass
        raise AssertionError(f"reports never end: {self.root.told[-5:]}")

    async def pass_time(self, seconds: float) -> None:
        """A period begins later on."""
        self.mono_s += seconds
        self.backlog.begin_period(self.mono_s)

    async def put(self, number: int, state: InstanceState, job_id: str = "") -> None:
        """Save an instance of the root's."""
        key = InstanceKey(job_id or _job_id(number), number if job_id else 0)
        if key.job_id not in self.core.state.jobs:
            self.core.state.put_job(Job(id=key.job_id, spec=spec(), created_at_ms=0, owner="root"))
        self.core.state.put(replace(instance(), key=key, state=state, updated_at_ms=1))
        await self.core.saved()


@pytest.fixture(name="rig")
async def _rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    async with opened(tmp_path) as core:
        roots = Roots(core)
        roots.stand(state=LinkState.ATTACHED, era=Era.R3, cluster_id="c" * 24)
        backlog = Backlog(core, roots, 0)
        core.listen_instances(backlog.hear)
        rig = Rig(core, roots, backlog, Reporter(core, roots, backlog), _Root())
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: rig.mono_s))
        for number in range(COUNT):
            await rig.put(number, InstanceState.RUNNING)
        yield rig


def _holds(number: int) -> Callable[[Body], bool]:
    return lambda body: any(job["_id"] == _job_id(number) for job in body["jobs"])


def _others(number: int) -> set[str]:
    return {_job_id(item) for item in range(COUNT) if item != number}


async def test_what_was_acknowledged_is_not_told_again_within_a_period(rig: Rig) -> None:
    """The second report tells of no job: its size follows what changed."""
    assert not await rig.send()
    assert not await rig.send()
    assert [len(told) for told in rig.root.told] == [COUNT, 0]


async def test_instance_that_the_root_fails_on_holds_back_no_other(rig: Rig) -> None:
    """All others are acknowledged, the culprit is set aside, counted, and shown to the operator."""
    rig.root.fails_on = _holds(BAD)
    await rig.send_all()
    assert {job_id for job_id, _ in rig.root.believes} == _others(BAD)
    assert rig.core.counters["root_instances_set_aside"] == 1
    assert "fails on 1" in rig.reporter.trouble
    [event] = [entry for entry in rig.core.history.after(0) if entry.event.kind == "root_fails_on"]
    assert (event.subject, "500" in event.event.cause) == (f"instance:{_job_id(BAD)}/0", True)


async def test_what_is_set_aside_is_taken_when_the_root_can(rig: Rig) -> None:
    """It is tried again by time, whether it changed or not, and then is one of all again."""
    rig.root.fails_on = _holds(BAD)
    await rig.send_all()
    rig.root.fails_on = lambda _body: False
    await rig.pass_time(doubts.FIRST_PAUSE_S)
    await rig.send_all()
    assert rig.root.believes[_job_id(BAD), 0] == "RUNNING"
    assert rig.reporter.trouble == ""
    assert [entry.event.kind for entry in rig.core.history.after(0)][-1] == "root_takes_again"
    told = len(rig.root.told)
    await rig.pass_time(5)
    await rig.send_all()
    assert (_job_id(BAD), 0) in rig.root.told[told]


async def test_status_that_froze_at_one_503_is_told(rig: Rig) -> None:
    """Of one instance, at the very report that says that it runs: 503 is no verdict on it."""
    await rig.send_all()
    await rig.put(BAD, InstanceState.FAILED)
    rig.root.fails_on, rig.root.error = _holds(BAD), RootBusyError("the root answered 503 to a report")
    with pytest.raises(RootBusyError):
        await rig.send()
    rig.root.fails_on = lambda _body: False
    await rig.send_all()
    assert rig.root.believes[_job_id(BAD), 0] == "FAILED"
    assert rig.core.counters["root_instances_set_aside"] == 0


async def test_root_that_dies_of_an_instance_hears_of_all_others(rig: Rig) -> None:
    """It gives no answer, or a proxy says 502 for it, each time that it is told: the others get through."""
    rig.root.fails_on, rig.root.error = _holds(BAD), RootAwayError("the root does not answer")
    await rig.send_all()
    assert {job_id for job_id, _ in rig.root.believes} == _others(BAD)
    assert rig.core.counters["root_instances_set_aside"] == 1
    rig.root.fails_on = lambda _body: False
    await rig.pass_time(doubts.FIRST_PAUSE_S)
    await rig.send_all()
    assert rig.root.believes[_job_id(BAD), 0] == "RUNNING"


@pytest.mark.parametrize("error", [RootAwayError("no answer"), RootBusyError("503"), ReportRefusedError("500")])
async def test_ill_root_is_not_the_fault_of_an_instance(rig: Rig, error: Exception) -> None:
    """Where a report of numbers alone fails as well, the root is away, for however long, and nothing is blamed."""
    rig.root.fails_on, rig.root.error = lambda _body: True, error
    for _ in range(50):
        with pytest.raises(RootAwayError):
            await rig.send()
    rig.root.fails_on = lambda _body: False
    await rig.send_all()
    assert len(rig.root.believes) == COUNT
    assert rig.core.counters["root_instances_set_aside"] == 0


async def test_refused_report_of_numbers_alone_is_a_root_that_is_busy(rig: Rig) -> None:
    """It is no reason to stumble, nor to register anew; with a root of an unknown era likewise."""
    await rig.send_all()
    rig.root.fails_on = lambda body: not body["jobs"]
    for era in (Era.R3, Era.UNDECIDED):
        rig.roots.stand(era=era)
        with pytest.raises(RootBusyError, match="500"):
            await rig.send()
    rig.root.fails_on = lambda _body: False
    assert not await rig.send()


async def test_empty_report_refused_once_is_taken_the_next_time(rig: Rig) -> None:
    """Refused with nothing in it and taken a moment later: nothing is set aside, for there was nothing."""
    await rig.send_all()
    refusals = [True]
    rig.root.fails_on = lambda _body: bool(refusals and refusals.pop())
    with pytest.raises(RootBusyError):
        await rig.send()
    assert not await rig.send()
    assert rig.core.counters["root_instances_set_aside"] == 0


async def test_root_that_takes_no_instance_is_told_the_numbers(rig: Rig) -> None:
    """Its cluster stays fresh there; instead of blaming all instances the link waits, and tells all when it can."""
    rig.root.fails_on = lambda body: bool(body["jobs"])
    for _ in range(10):
        await rig.send_all()
        await rig.pass_time(5)
    assert rig.core.counters["root_instances_set_aside"] < COUNT
    assert "none about its instances" in rig.reporter.trouble
    refused = sum(1 for told in rig.root.told if told)
    assert refused < 30
    rig.root.fails_on = lambda _body: False
    await rig.pass_time(doubts.LONGEST_HOLD_S)
    await rig.send_all()
    await rig.pass_time(doubts.LONGEST_PAUSE_S)
    await rig.send_all()
    assert len(rig.root.believes) == COUNT
    assert rig.reporter.trouble == ""


async def test_job_that_the_root_fails_on_costs_few_reports(rig: Rig) -> None:
    """A hundred instances of one job that R3 answers with 500: the job is set aside, not each of them in turn."""
    bad = _job_id(99)
    for number in range(100):
        await rig.put(number, InstanceState.RUNNING, bad)
    rig.root.fails_on = lambda body: any(job["_id"] == bad for job in body["jobs"])
    await rig.send_all()
    assert {job_id for job_id, _ in rig.root.believes} == {_job_id(number) for number in range(COUNT)}
    assert len(rig.root.told) < 60
    rig.root.fails_on = lambda _body: False
    await rig.pass_time(doubts.FIRST_PAUSE_S)
    await rig.send_all()
    assert len(rig.root.believes) == COUNT + 100


async def test_slow_root_gets_smaller_portions(rig: Rig) -> None:
    """An answer that takes long halves them, a quick one to a full portion doubles them again."""
    for number in range(COUNT, 600):
        rig.core.state.put_job(Job(id=_job_id(number), spec=spec(), created_at_ms=0, owner="root"))
        item = replace(instance(), key=InstanceKey(_job_id(number), 0), state=InstanceState.RUNNING, updated_at_ms=1)
        rig.core.state.put(item)
    await rig.core.saved()
    seconds = [6.0, 6.0, 0.1]

    def slow(_body: Body) -> bool:
        rig.mono_s += seconds.pop(0) if seconds else 0.1
        return False

    rig.root.fails_on = slow
    await rig.send_all()
    assert [len(told) for told in rig.root.told] == [200, 100, 50, 100, 150]


async def test_root_far_away_is_not_told_one_by_one(rig: Rig) -> None:
    """Where every answer takes long, whatever it holds, a report tells of a few, also after some got no answer."""
    for number in range(COUNT, 100):
        await rig.put(number, InstanceState.RUNNING)

    def far(_body: Body) -> bool:
        rig.mono_s += 8.0
        return False

    rig.root.fails_on = far
    rig.reporter._limit = 1
    await rig.send_all()
    assert [len(told) for told in rig.root.told][:6] == [1, 2, 4, 8, 16, module.FEW_INSTANCES]


async def test_nothing_is_purged_before_the_root_heard_of_it(rig: Rig) -> None:
    """An ended instance is kept until a report with it was taken; what the root never hears of is no obstacle."""
    key = InstanceKey(_job_id(0), 0)
    await rig.put(0, InstanceState.STOPPED)
    assert not rig.backlog.may_purge(key)
    await rig.send_all()
    assert rig.backlog.may_purge(key)
    assert rig.backlog.may_purge(InstanceKey("gone", 0))
    other = InstanceKey(_job_id(1), 0)
    await rig.put(1, InstanceState.FAILED)
    assert not rig.backlog.may_purge(other)
    rig.core.state.put_job(replace(rig.core.state.jobs[other.job_id], owner="operator"))
    await rig.core.saved()
    assert rig.backlog.may_purge(other)


async def test_what_the_root_fails_on_for_ever_is_not_kept_for_ever(rig: Rig) -> None:
    """After ten tries over more than half an hour an ended instance may go."""
    await rig.put(BAD, InstanceState.STOPPED)
    rig.root.fails_on = _holds(BAD)
    tried_s = 0.0
    while not rig.backlog.may_purge(InstanceKey(_job_id(BAD), 0)):
        await rig.send_all()
        await rig.pass_time(30)
        tried_s += 30
    assert 1800 < tried_s < 7200


async def test_undecided_root_is_told_of_no_job(rig: Rig) -> None:
    """Until the era is known reports hold the numbers alone; then all is told."""
    rig.roots.stand(era=Era.UNDECIDED)
    assert not await rig.send()
    assert rig.root.told == [[]]
    rig.roots.stand(era=Era.R3)
    await rig.send_all()
    assert len(rig.root.believes) == COUNT


async def test_another_root_is_told_everything(rig: Rig) -> None:
    """A root that gave another id knows nothing of what the one before was told."""
    await rig.send_all()
    rig.backlog.meet_another_root()
    assert not await rig.send()
    assert [len(told) for told in rig.root.told] == [COUNT, COUNT]


async def test_restart_tells_what_is_new_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged before the moment that was saved is told again only as what runs, behind what is new."""
    monkeypatch.setattr(watermark, "PERIOD_MS", -1)
    await rig.put(0, InstanceState.STOPPED)
    for _ in range(3):
        await rig.send_all()
    await rig.core.saved()
    assert rig.roots.acknowledged_ms > 1
    later = replace(rig.core.state.instances[InstanceKey(_job_id(5), 0)], state=InstanceState.FAILED)
    rig.core.state.put(replace(later, updated_at_ms=rig.roots.acknowledged_ms + 1))
    await rig.core.saved()
    again = Backlog(rig.core, rig.roots, 0)
    again.begin_period(rig.mono_s)
    rig.reporter = Reporter(rig.core, rig.roots, again)
    rig.root.told.clear()
    assert not await rig.send()
    assert rig.root.told[0][0] == (_job_id(5), 0)
    assert {job_id for job_id, _ in rig.root.told[0]} == _others(0)


async def test_moment_is_not_saved_while_something_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set aside, or changed and is not durable yet, would be lost to the root by a restart."""
    monkeypatch.setattr(watermark, "PERIOD_MS", -1)
    rig.root.fails_on = _holds(BAD)
    for _ in range(3):
        await rig.send_all()
    assert ACKNOWLEDGED not in rig.core.settings
    rig.root.fails_on = lambda _body: False
    await rig.pass_time(doubts.FIRST_PAUSE_S)
    await rig.send_all()
    changed_ms = CLOCK.now_ms()
    failed = replace(instance(), key=InstanceKey(_job_id(1), 0), state=InstanceState.FAILED, updated_at_ms=changed_ms)
    rig.core.state.put(failed)
    saved = rig.core.commit()
    while not saved.done():
        await rig.send()
        assert rig.roots.acknowledged_ms < changed_ms
    while rig.roots.acknowledged_ms < changed_ms:
        await rig.send_all()
        await rig.core.saved()
    assert rig.root.believes[_job_id(1), 0] == "FAILED"
