"""What the next report tells: changes first, then what lives, within bounds, and without a look at all there is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest

from cluster.errors import UnavailableError
from cluster.payloads import ResourceEntry
from manager.core import Core
from manager.domain.model import Instance, InstanceKey, InstanceState, Job
from manager.domain.roots import Era, LinkState, Route
from manager.ports import StoreError
from manager.root import backlog as module
from manager.root.backlog import MAX_REFRESH_BYTES, MAX_REFRESHES, WAITING_REFRESH_S, Backlog
from manager.root.portion import MAX_BYTES, MAX_INSTANCES, Portion
from manager.root.report import ReportedInstance, report_body
from manager.root.totals import Totals
from manager.roots import Roots
from manager.store.factory import make_store
from testbed.cores import opened
from testbed.records import instance, spec
from testbed.stores import sqlite_url
from testbed.waiting import wait_until_async

S = InstanceState
JOB_ID = f"{1:024x}"
KEPT_ID = f"{2:024x}"


@pytest.fixture(name="core")
async def _core(tmp_path: Path) -> AsyncIterator[Core]:
    async with opened(tmp_path) as core:
        yield core


@pytest.fixture(name="roots")
async def _roots(core: Core) -> Roots:
    roots = Roots(core)
    roots.stand(state=LinkState.ATTACHED, era=Era.R3, cluster_id="c" * 24)
    return roots


@pytest.fixture(name="backlog")
async def _backlog(core: Core, roots: Roots) -> Backlog:
    backlog = Backlog(core, roots, 0)
    core.listen_instances(backlog.hear)
    return backlog


async def _put(core: Core, *items: Instance) -> None:
    """Save instances, and their jobs as the root's."""
    for item in items:
        job_id = item.key.job_id
        if job_id not in core.state.jobs:
            core.state.put_job(Job(id=job_id, spec=spec(), created_at_ms=0, owner="root"))
        core.state.put(item)
    await core.saved()


def _running(number: int = 0, job_id: str = JOB_ID, **fields: Any) -> Instance:
    facts = {"state": S.RUNNING, "updated_at_ms": 1, **fields}
    return replace(instance(), key=InstanceKey(job_id, number), **facts)


def _take_all(backlog: Backlog, at_mono_s: float) -> Iterator[Portion]:
    """Let the root take one report after another."""
    while backlog.has_more(at_mono_s):
        portion = backlog.next_portion(at_mono_s, MAX_INSTANCES)
        backlog.acknowledge(portion)
        yield portion


def _numbers(portion: Portion) -> list[int]:
    return [key.number for key in portion.keys]


async def test_every_running_instance_is_told_once_a_period(core: Core, backlog: Backlog) -> None:
    """A second report of a period tells nothing again; the next period tells all again, whatever changed."""
    await _put(core, *(_running(number) for number in range(450)))
    await backlog.absorb()
    for period in range(3):
        backlog.begin_period(period * 5.0)
        told = [_numbers(portion) for portion in _take_all(backlog, period * 5.0 + 0.1)]
        assert [len(numbers) for numbers in told] == [200, 200, 50]
        assert sorted(number for numbers in told for number in numbers) == list(range(450))
        assert not backlog.next_portion(period * 5.0 + 4.9, MAX_INSTANCES).told


async def test_refreshes_of_a_period_are_bounded_and_take_turns(core: Core, backlog: Backlog) -> None:
    """Of more instances than a period has room for the least recently told come first: none is left behind."""
    count = MAX_REFRESHES * 2 + 500
    await _put(core, *(_running(number) for number in range(count)))
    await backlog.absorb()
    assert sum(len(portion.told) for portion in _take_all(backlog, 0)) == count
    counts = [0] * count
    for period in range(1, 10):
        backlog.begin_period(period * 5.0)
        told = [number for portion in _take_all(backlog, period * 5.0) for number in _numbers(portion)]
        assert len(told) == MAX_REFRESHES
        for number in told:
            counts[number] += 1
    assert {min(counts), max(counts)} == {4}


async def test_reports_are_bounded_in_bytes(core: Core, backlog: Backlog) -> None:
    """Last words of control signs, details of four bytes a letter: no report grows beyond its bound, no period its."""
    backlog.begin_period(0)
    items = [
        _running(0, f"{number:024x}", detail="\U0001f600" * 1024, spec=spec("n" * 200)) for number in range(1, 600)
    ]
    await _put(core, *items)
    for item in items:
        core.usages[item.key] = ResourceEntry(job_name="web", number=0, logs="\x01" * 1024)
    await backlog.absorb()
    first = list(_take_all(backlog, 0))
    assert sum(len(portion.told) for portion in first) == len(items)
    backlog.begin_period(5)
    again = list(_take_all(backlog, 5))
    assert sum(portion.refresh_bytes for portion in again) < MAX_REFRESH_BYTES + MAX_BYTES
    sizes = [len(orjson.dumps(report_body(Era.R3, Totals(), backlog.jobs(portion)))) for portion in (*first, *again)]
    assert max(sizes) < MAX_BYTES + 1024
    assert max(sizes) > MAX_BYTES / 2


async def test_changes_go_before_refreshes(core: Core, backlog: Backlog) -> None:
    """A root that is told of thousands again hears of a change with the very next report."""
    await _put(core, *(_running(number) for number in range(1000)))
    await backlog.absorb()
    list(_take_all(backlog, 0))
    backlog.begin_period(5)
    backlog.acknowledge(backlog.next_portion(5, MAX_INSTANCES))
    await _put(core, _running(777, state=S.FAILED))
    await backlog.absorb()
    assert backlog.next_portion(5, MAX_INSTANCES).keys[0].number == 777


async def test_changes_are_not_bounded_by_the_period(core: Core, backlog: Backlog) -> None:
    """What changed is told as fast as the root takes it."""
    count = MAX_REFRESHES + 1000
    await _put(core, *(_running(number) for number in range(count)))
    await backlog.absorb()
    assert sum(len(portion.told) for portion in _take_all(backlog, 0)) == count


async def test_what_waits_is_told_again_slowly_and_what_ended_never(core: Core, backlog: Backlog) -> None:
    """Only what runs is measured; what waits for a node or starts is told again once a minute."""
    states = [S.PENDING, S.STARTING, S.UNKNOWN, S.STOPPED, S.COMPLETED]
    await _put(core, *(_running(number, state=state) for number, state in enumerate(states)))
    await backlog.absorb()
    list(_take_all(backlog, 0))
    backlog.begin_period(WAITING_REFRESH_S)
    assert list(_take_all(backlog, WAITING_REFRESH_S)) == []
    backlog.begin_period(WAITING_REFRESH_S + 5)
    [portion] = _take_all(backlog, WAITING_REFRESH_S + 5)
    assert _numbers(portion) == [0, 1, 2]


async def test_refresh_setting_is_the_least_time_between(core: Core, roots: Roots) -> None:
    """ROOT_REFRESH_S of 60 tells an unchanged instance once a minute, as it did before charts were told."""
    backlog = Backlog(core, roots, 60)
    core.listen_instances(backlog.hear)
    await _put(core, _running())
    await backlog.absorb()
    told_s = []
    for at_s in range(0, 200, 5):
        backlog.begin_period(at_s)
        told_s += [at_s for portion in _take_all(backlog, at_s) if portion.told]
    assert told_s == [0, 65, 130, 195]


class _Unwalkable(dict[InstanceKey, Instance]):
    """A dictionary that may be asked, and not walked."""

    def _refuse(self, *_: object) -> NoReturn:
        raise AssertionError("a report walked all instances")

    __iter__ = values = items = keys = _refuse


async def test_cost_follows_what_changed(core: Core, roots: Roots, backlog: Backlog) -> None:
    """Of thousands of instances, all of one job, ten change: a report looks at those ten, and knows the job's word."""
    await _put(core, *(_running(number) for number in range(3000)))
    await backlog.absorb()
    list(_take_all(backlog, 0))
    changed = [_running(number, state=S.FAILED, detail=f"failure {number}") for number in range(10, 20)]
    await _put(core, *changed)
    state = core.state
    state.instances = _Unwalkable(state.instances)
    numbers, state.of_job[JOB_ID] = state.of_job[JOB_ID], _Unwalkable()  # type: ignore[assignment]
    await backlog.absorb()
    portion = backlog.next_portion(1, MAX_INSTANCES)
    assert _numbers(portion) == list(range(10, 20))
    [job] = backlog.jobs(portion)
    assert (job.status, job.detail) == ("FAILED", "failure 19")
    backlog.acknowledge(portion)
    assert not backlog.has_more(1)
    assert backlog.is_told
    assert backlog.may_purge(InstanceKey(JOB_ID, 10))
    state.instances, state.of_job[JOB_ID] = dict(dict.items(state.instances)), numbers


async def test_only_what_is_durable_is_told(core: Core, backlog: Backlog) -> None:
    """A change that is not saved yet is told by nobody: neither of its instance nor in the word of its job."""
    await _put(core, _running(0), _running(1))
    await backlog.absorb()
    list(_take_all(backlog, 0))
    core.state.put(_running(0, state=S.FAILED, detail="it failed"))
    backlog.begin_period(5)
    portion = backlog.next_portion(5, MAX_INSTANCES)
    assert [item.state for item in portion.told] == [S.RUNNING, S.RUNNING]
    assert backlog.jobs(portion)[0].status == "RUNNING"
    backlog.acknowledge(portion)
    await core.saved()
    await backlog.absorb()
    [portion] = _take_all(backlog, 6)
    assert [item.state for item in portion.told] == [S.FAILED]
    assert backlog.jobs(portion)[0].status == "FAILED"
    assert backlog.is_told


async def test_instance_that_we_stumble_over_holds_back_no_other(
    core: Core, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its word or its document cannot be made: it is logged and counted, the others are told."""
    bad = [InstanceKey(JOB_ID, 1), InstanceKey(JOB_ID, 2)]
    word, document = module.status_word, module.instance_document

    def stumbling_word(item: Instance, era: Era) -> str:
        return word(item, era) if item.key != bad[0] else {}["no word"]

    def stumbling_document(era: Era, item: ReportedInstance) -> dict[str, Any]:
        return document(era, item) if item.instance.key != bad[1] else {"amount": 2**70}

    monkeypatch.setattr(module, "status_word", stumbling_word)
    monkeypatch.setattr(module, "instance_document", stumbling_document)
    await _put(core, *(_running(number) for number in range(4)))
    await backlog.absorb()
    [portion] = _take_all(backlog, 0)
    assert _numbers(portion) == [0, 3]
    assert core.counters["root_instances_passed_over"] == 2
    assert not backlog.may_purge(bad[0])


async def test_removed_instances_are_forgotten(core: Core, backlog: Backlog) -> None:
    """What was purged is neither told nor counted for its job."""
    await _put(core, _running(0), _running(1, state=S.STOPPED))
    await backlog.absorb()
    list(_take_all(backlog, 0))
    core.state.purge(InstanceKey(JOB_ID, 1))
    await core.saved()
    await backlog.absorb()
    backlog.begin_period(5)
    [portion] = _take_all(backlog, 5)
    assert _numbers(portion) == [0]


async def test_instance_that_is_purged_while_it_waits_is_passed_over(core: Core, backlog: Backlog) -> None:
    """It is told as long as its removal may still be taken back, and not a moment longer."""
    await _put(core, _running(0), _running(1))
    await backlog.absorb()
    core.state.purge(InstanceKey(JOB_ID, 0))
    assert _numbers(backlog.next_portion(0, MAX_INSTANCES)) == [0, 1]
    await core.saved()
    assert _numbers(backlog.next_portion(0, MAX_INSTANCES)) == [1]


async def test_last_instance_of_a_job_that_is_purged_while_it_waits(core: Core, backlog: Backlog) -> None:
    """Its job goes with it: both are told by what is saved."""
    await _put(core, _running(0))
    await backlog.absorb()
    core.state.purge(InstanceKey(JOB_ID, 0))
    portion = backlog.next_portion(0, MAX_INSTANCES)
    assert [job.name for job in backlog.jobs(portion)] == [spec().name]


async def test_what_a_failed_save_takes_back_is_never_told(tmp_path: Path) -> None:
    """Neither the change that never became durable nor the instance that never was."""
    store = make_store(sqlite_url(tmp_path))
    async with opened(tmp_path, store) as core:
        roots = Roots(core)
        roots.stand(state=LinkState.ATTACHED, era=Era.R3, cluster_id="c" * 24)
        backlog = Backlog(core, roots, 0)
        core.listen_instances(backlog.hear)
        await _put(core, _running(0, state=S.STOPPING))
        await backlog.absorb()
        list(_take_all(backlog, 0))
        core.state.put(_running(0, state=S.STOPPED))
        core.state.put(_running(1))
        write, failures = store.write, [StoreError("the disk is full")]

        def write_or_fail(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return write(*arguments)

        store.write = write_or_fail  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            await core.saved()
        await wait_until_async(lambda: core.state.instances[InstanceKey(JOB_ID, 0)].state is S.STOPPING)
        backlog.begin_period(5)
        await backlog.absorb()
        told = [(item.key.number, item.state) for portion in _take_all(backlog, 5) for item in portion.told]
        assert set(told) <= {(0, S.STOPPING)}


async def test_jobs_that_the_root_does_not_know_are_left_out_until_it_does(
    core: Core, roots: Roots, backlog: Backlog
) -> None:
    """Held by the guard, they are told again once the root deploys them anew."""
    await _put(core, _running(0), _running(0, KEPT_ID), _running(1, KEPT_ID))
    await roots.arm([KEPT_ID])
    roots.admit_deletes([InstanceKey(KEPT_ID, -1)], "root")
    await backlog.absorb()
    [portion] = _take_all(backlog, 0)
    assert {key.job_id for key in portion.keys} == {JOB_ID}
    roots.note_route(Route.SERVICE, [KEPT_ID])
    await backlog.absorb()
    [portion] = _take_all(backlog, 1)
    assert portion.keys == (InstanceKey(KEPT_ID, 0), InstanceKey(KEPT_ID, 1))


async def test_guarded_job_that_is_removed_waits_for_no_decision(core: Core, roots: Roots, backlog: Backlog) -> None:
    """The operator deleted it: the guard lets go of it once it is purged."""
    await _put(core, _running(0, KEPT_ID, state=S.STOPPED))
    await roots.arm([KEPT_ID])
    await backlog.absorb()
    core.state.purge(InstanceKey(KEPT_ID, 0))
    await core.saved()
    await backlog.absorb()
    assert roots.guard.guarded == frozenset()


async def test_nothing_is_kept_of_what_came_and_went_unheard(core: Core, roots: Roots, backlog: Backlog) -> None:
    """Below a root that is never reached nothing piles up; when its era is known all is looked at."""
    roots.stand(era=None)
    for number in range(50):
        await _put(core, _running(number))
        if number:
            core.state.purge(InstanceKey(JOB_ID, number))
            await core.saved()
    assert not backlog._heard
    for era in (Era.R1, Era.UNDECIDED, Era.R1):
        roots.stand(era=era)
        await _put(core, _running(0, detail=f"in {era}"))
        await backlog.absorb()
    [portion] = _take_all(backlog, 0)
    assert [(item.key.number, item.detail) for item in portion.told] == [(0, "in r1")]


async def test_era_that_becomes_known_later_makes_the_words(core: Core, roots: Roots, backlog: Backlog) -> None:
    """An instance that starts is NODE_SCHEDULED to R2 and CREATED to R3, and so is its job."""
    roots.stand(era=Era.R2)
    await _put(core, _running(0, state=S.STARTING))
    await backlog.absorb()
    assert backlog.jobs(backlog.next_portion(0, MAX_INSTANCES))[0].status == "NODE_SCHEDULED"
    roots.stand(era=Era.R3)
    await backlog.absorb()
    assert backlog.jobs(backlog.next_portion(0, MAX_INSTANCES))[0].status == "CREATED"


@pytest.mark.parametrize("seed", range(20))
async def test_root_ends_up_believing_what_is_true(core: Core, backlog: Backlog, seed: int) -> None:
    """Whatever changes, fails and is removed in any order: in the end the root was told the last of everything."""
    dice, believed = random.Random(seed), dict[InstanceKey, str]()
    numbers = range(12)
    at_mono_s = 0.0
    for _ in range(120):
        at_mono_s += dice.choice([0.1, 1, 5, 20])
        number = dice.choice(numbers)
        item = _running(number, f"{number % 3 + 1:024x}", state=dice.choice([S.RUNNING, S.FAILED, S.PENDING]))
        await _put(core, replace(item, detail=str(dice.random())))
        if dice.random() < 0.3:
            await backlog.absorb()
            backlog.begin_period(at_mono_s)
        portion = backlog.next_portion(at_mono_s, dice.choice([1, 3, 200]))
        match dice.choice(["taken", "refused", "unanswered", "lost"]):
            case "taken":
                believed.update((told.key, told.detail) for told in portion.told)
                backlog.acknowledge(portion)
            case "refused" | "unanswered" as outcome if portion.told:
                backlog.blame(portion.keys, at_mono_s, was_answered=outcome == "refused")
    for _ in range(300):
        at_mono_s += 700
        await backlog.absorb()
        backlog.begin_period(at_mono_s)
        for portion in _take_all(backlog, at_mono_s):
            believed.update((told.key, told.detail) for told in portion.told)
            await backlog.absorb()
        if backlog.is_told:
            break
    assert believed == {key: item.detail for key, item in core.state.instances.items()}
