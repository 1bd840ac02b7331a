"""What the root has yet to hear of."""

from __future__ import annotations

from dataclasses import replace

from manager.domain.model import InstanceKey, InstanceState, Job
from manager.root.ledger import Ledger, reportable
from testbed.records import instance, spec

S = InstanceState
JOB_ID = "6b03249ed8ac74488c0dbc49"


def test_changed_instances_are_due_until_they_are_acknowledged() -> None:
    """What was acknowledged is not told again until it changes; measurements change nothing."""
    ledger, item = Ledger(0), instance()
    assert ledger.due([item], 0, 60) == [item]
    ledger.acknowledge([item], 0)
    assert ledger.due([replace(item, version=9)], 1, 60) == []
    moved = replace(item, state=S.RUNNING)
    assert ledger.due([moved], 1, 60) == [moved]


def test_living_instances_are_refreshed_slowly_and_ended_ones_never() -> None:
    """What lives is told again after a while; what ended was told once."""
    living = replace(instance(0), state=S.RUNNING)
    ended = replace(instance(1), state=S.STOPPED)
    ledger = Ledger(0)
    ledger.acknowledge([living, ended], 0)
    assert ledger.due([living, ended], 59, 60) == []
    assert ledger.due([living, ended], 60, 60) == [living]


def test_changes_come_first_and_the_oldest_of_them_at_the_front() -> None:
    """A portion holds what the root has waited for longest."""
    old, new, stale = (replace(instance(n), updated_at_ms=at) for n, at in ((0, 1), (1, 2), (2, 0)))
    ledger = Ledger(0)
    stale = replace(stale, state=S.RUNNING)
    ledger.acknowledge([stale], 0)
    assert ledger.due([stale, new, old], 100, 60) == [old, new, stale]


def test_restart_tells_all_that_lives_and_of_the_ended_only_what_is_new() -> None:
    """What ended before the saved moment was acknowledged; what ended after it is told."""
    living = replace(instance(0), state=S.RUNNING, updated_at_ms=5)
    before, after = (replace(instance(n), state=S.STOPPED, updated_at_ms=at) for n, at in ((1, 10), (2, 11)))
    assert Ledger(10).due([living, before, after], 0, 60) == [living, after]
    assert Ledger(10).is_settled(before)


def test_failure_that_is_tried_again_is_not_over() -> None:
    """A FAILED instance with a retry ahead is refreshed as a living one."""
    waiting = replace(instance(), state=S.FAILED, retry_at_ms=99, updated_at_ms=1)
    assert Ledger(10).due([waiting], 0, 60) == [waiting]


def test_what_a_root_fails_on_waits_for_a_change() -> None:
    """An instance that was set aside is left out until it changes."""
    item, ledger = replace(instance(), state=S.RUNNING), Ledger(0)
    ledger.set_aside([item])
    assert ledger.due([item], 1000, 60) == []
    changed = replace(item, detail="other")
    assert ledger.due([changed], 1000, 60) == [changed]


def test_another_root_knows_nothing() -> None:
    """After `forget_all` everything that lives is due."""
    item, ledger = replace(instance(), state=S.RUNNING), Ledger(0)
    ledger.acknowledge([item], 0)
    ledger.forget_all()
    assert ledger.due([item], 1, 60) == [item]


def test_only_the_roots_own_instances_are_told() -> None:
    """Not the operator's jobs, replicas made here, ids that no root gives, nor what the guard keeps from it."""

    def job(job_id: str, owner: str = "root") -> Job:
        return Job(id=job_id, spec=spec(), created_at_ms=0, owner=owner)

    other, kept = JOB_ID[::-1], "a" * 24
    keys = [(JOB_ID, 0), (JOB_ID, 1_000_000), (other, 0), ("web", 0), (kept, 0), ("b" * 24, 0)]
    instances = [replace(instance(), key=InstanceKey(*key)) for key in keys]
    jobs = {item.id: item for item in (job(JOB_ID), job(other, "operator"), job("web"), job(kept))}
    assert [item.key for item in reportable(instances, jobs, {kept})] == [(JOB_ID, 0)]
