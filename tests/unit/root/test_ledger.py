"""What the root has yet to hear of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from manager.domain.model import Instance, InstanceKey, InstanceState, Job
from manager.root.ledger import Ledger, is_of_root
from testbed.records import instance, spec

S = InstanceState
JOB_ID = "6b03249ed8ac74488c0dbc49"
LATER = 1000.0


def _noted(ledger: Ledger, *items: Instance) -> Ledger:
    for item in items:
        ledger.note(item)
    return ledger


def _tell(ledger: Ledger, at_mono_s: float, *items: Instance) -> None:
    for item in items:
        ledger.acknowledge(item, {item.key: item}, at_mono_s)


def _numbers(keys: Iterable[InstanceKey]) -> list[int]:
    return [key.number for key in keys]


def _running(number: int = 0, **fields: object) -> Instance:
    return replace(instance(number), state=S.RUNNING, **fields)  # type: ignore[arg-type]


def test_changed_instances_wait_until_they_are_acknowledged() -> None:
    """What was acknowledged is not told again until it changes; measurements change nothing."""
    item = replace(instance(), updated_at_ms=1)
    ledger = _noted(Ledger(0), item)
    assert _numbers(ledger.changes()) == [0]
    _tell(ledger, 0, item)
    assert not _noted(ledger, replace(item, version=9)).has_changes
    assert _numbers(_noted(ledger, replace(item, state=S.RUNNING)).changes()) == [0]


def test_change_during_a_report_is_told_with_the_next() -> None:
    """The root took what was composed, not what became of it meanwhile."""
    old = _running(updated_at_ms=1)
    new = replace(old, state=S.FAILED)
    ledger = _noted(Ledger(0), old)
    ledger.acknowledge(old, {new.key: new}, 0)
    assert _numbers(ledger.changes()) == [0]
    assert not ledger.is_settled(new)
    ledger.acknowledge(new, {}, 0)
    assert not ledger.has_changes


def test_living_instances_are_told_again_and_ended_ones_never() -> None:
    """Least recently told first; what runs before what waits; what ended was told once."""
    waiting, first, second = replace(instance(0), state=S.PENDING), _running(1), _running(2)
    ended = replace(instance(3), state=S.STOPPED)
    ledger = Ledger(0)
    _tell(ledger, 1, waiting, ended, first)
    _tell(ledger, 2, second)
    assert _numbers(ledger.refreshes(1, 1)) == []
    assert _numbers(ledger.refreshes(2, 1)) == [1]
    assert _numbers(ledger.refreshes(LATER, LATER)) == [1, 2, 0]
    _tell(ledger, 3, first)
    assert _numbers(ledger.refreshes(LATER, LATER)) == [2, 1, 0]


def test_changes_are_told_the_one_first_that_waits_longest() -> None:
    """A further change does not send it to the back."""
    items = [_running(n, updated_at_ms=1) for n in range(3)]
    ledger = _noted(Ledger(0), *items, replace(items[0], detail="other"))
    assert _numbers(ledger.changes()) == [0, 1, 2]


def test_restart_tells_what_is_new_first_and_then_again_what_lives() -> None:
    """What had changed before the saved moment was acknowledged: what ended is not told again, what lives soon is."""
    living, untold = _running(0, updated_at_ms=5), _running(3, updated_at_ms=11)
    before, after = (replace(instance(n), state=S.STOPPED, updated_at_ms=at) for n, at in ((1, 10), (2, 11)))
    ledger = _noted(Ledger(10), living, before, after, untold)
    assert _numbers(ledger.changes()) == [2, 3]
    assert _numbers(ledger.refreshes(0, 0)) == [0]
    assert [ledger.is_settled(item) for item in (living, before, after)] == [True, True, False]


def test_failure_that_is_tried_again_is_not_over() -> None:
    """A FAILED instance with a retry ahead is told again as a living one."""
    waiting = replace(instance(), state=S.FAILED, retry_at_ms=99, updated_at_ms=1)
    assert _numbers(_noted(Ledger(10), waiting).refreshes(0, 0)) == [0]


def test_what_is_left_out_comes_back_when_it_is_noted() -> None:
    """Told before or not, changed since or not."""
    item, ledger = _running(updated_at_ms=1), Ledger(0)
    _noted(ledger, item).leave_out(item.key)
    assert not ledger.has_changes
    assert _numbers(_noted(ledger, item).changes()) == [0]
    _tell(ledger, 5, item)
    ledger.leave_out(item.key)
    assert _numbers(ledger.refreshes(LATER, LATER)) == []
    assert _numbers(_noted(ledger, item).refreshes(LATER, LATER)) == [0]


def test_another_root_knows_nothing() -> None:
    """What lives is told anew, also what changed before the saved moment; what had ended is none of its business."""
    living, ended = _running(0, updated_at_ms=1), replace(instance(1), state=S.STOPPED, updated_at_ms=1)
    ledger = Ledger(10)
    _tell(ledger, 0, living)
    ledger.forget_all()
    assert _numbers(_noted(ledger, living, ended).changes()) == [0]


def test_dropped_instances_are_forgotten() -> None:
    """What is gone is neither told nor remembered."""
    item, ledger = _running(updated_at_ms=1), Ledger(0)
    _tell(ledger, 0, item)
    ledger.drop(item.key)
    assert _numbers(ledger.refreshes(LATER, LATER)) == []
    assert not ledger.is_settled(item)


def test_only_the_roots_own_instances_are_told() -> None:
    """Not the operator's jobs, replicas made here, ids that no root gives, nor what the guard keeps from it."""
    other, kept = JOB_ID[::-1], "a" * 24
    jobs = {
        job_id: Job(id=job_id, spec=spec(), created_at_ms=0, owner=owner)
        for job_id, owner in ((JOB_ID, "root"), (other, "operator"), ("web", "root"), (kept, "root"))
    }
    keys = [(JOB_ID, 0), (JOB_ID, 1_000_000), (other, 0), ("web", 0), (kept, 0), ("b" * 24, 0)]
    instances = [replace(instance(), key=InstanceKey(*key)) for key in keys]
    told = [item.key for item in instances if is_of_root(item, jobs.get(item.key.job_id), {kept})]
    assert told == [(JOB_ID, 0)]
