"""Promises between a plan and the manager's word on it."""

from cluster.jobs import Resources
from scheduler.columns import NodeFacts
from scheduler.ledger import ASSUMPTION_LIFE_S, Ledger, PlanKey

TEN = Resources(cpu_millicores=10)


def _node(name: str) -> NodeFacts:
    return NodeFacts(id=name, name=name, capacity=Resources(cpu_millicores=100))


def _ledger(*names: str) -> Ledger:
    ledger = Ledger()
    ledger.replace([(_node(name), 0) for name in names], ledger.mark())
    return ledger


def _free(ledger: Ledger, name: str) -> float:
    row = ledger.columns.row_of(name)
    assert row is not None
    return float(ledger.columns.free_cpu[row])


def test_a_delta_settles_all_plans_up_to_its_sequence() -> None:
    """Older and equal sequences are dropped on that node alone, newer ones stay."""
    ledger = _ledger("a", "b")
    for sequence in (1, 2, 3):
        ledger.hold(PlanKey(sequence, "job", 0), 0, TEN, 1, 0.0)
    ledger.hold(PlanKey(1, "job", 1), 1, TEN, 1, 0.0)
    ledger.upsert(_node("a"), 2)
    assert (_free(ledger, "a"), _free(ledger, "b")) == (90, 90)
    assert ledger.open_count == 2


def test_a_snapshot_drops_what_was_promised_before_it_began() -> None:
    """Promises made while the snapshot arrives are newer than it and stay."""
    ledger = _ledger("a")
    ledger.hold(PlanKey(8, "before", 0), 0, TEN, 1, 0.0)
    mark = ledger.mark()
    ledger.hold(PlanKey(9, "meanwhile", 0), 0, TEN, 1, 0.0)
    ledger.replace([(_node("a"), 8)], mark)
    assert _free(ledger, "a") == 90
    assert ledger.open_count == 1


def test_a_promise_that_a_snapshot_keeps_is_still_settled_by_its_plan() -> None:
    """It is known by its key as before: a delta, the same promise again or its withdrawal ends it."""
    ledger = _ledger("a")
    mark = ledger.mark()
    for number in range(3):
        ledger.hold(PlanKey(9, "job", number), 0, TEN, 1, 0.0)
    ledger.replace([(_node("a"), 8)], mark)
    assert (_free(ledger, "a"), ledger.open_count) == (70, 3)
    ledger.withdraw(PlanKey(9, "job", 0))
    assert (_free(ledger, "a"), ledger.open_count) == (80, 2)
    ledger.upsert(_node("a"), 9)
    assert (_free(ledger, "a"), ledger.open_count) == (100, 0)


def test_a_snapshot_settles_what_it_accounts_for() -> None:
    """A promise made meanwhile is dropped where the snapshot's node already counts it."""
    ledger = _ledger("a")
    mark = ledger.mark()
    ledger.hold(PlanKey(9, "meanwhile", 0), 0, TEN, 1, 0.0)
    ledger.replace([(_node("a"), 9)], mark)
    assert _free(ledger, "a") == 100


def test_a_snapshot_without_a_node_drops_its_promises() -> None:
    """What was promised of a node that is gone is forgotten."""
    ledger = _ledger("a")
    mark = ledger.mark()
    ledger.hold(PlanKey(1, "job", 0), 0, TEN, 1, 0.0)
    ledger.replace([(_node("b"), 0)], mark)
    assert ledger.open_count == 0


def test_promises_end_with_their_node() -> None:
    """A node that comes back after a removal starts without promises."""
    ledger = _ledger("a", "b")
    ledger.hold(PlanKey(1, "job", 0), 0, TEN, 1, 0.0)
    ledger.remove("a")
    ledger.upsert(_node("a"), 0)
    assert _free(ledger, "a") == 100
    assert ledger.open_count == 0


def test_promises_expire_oldest_first() -> None:
    """Each promise lives its own time."""
    ledger = _ledger("a")
    ledger.hold(PlanKey(1, "job", 0), 0, TEN, 1, 0.0)
    ledger.hold(PlanKey(2, "job", 0), 0, TEN, 1, 10.0)
    assert ledger.expire(ASSUMPTION_LIFE_S) == 1
    assert _free(ledger, "a") == 90


def test_the_same_promise_counts_once() -> None:
    """A promise under the same key replaces the former one, on whatever node."""
    ledger = _ledger("a", "b")
    ledger.hold(PlanKey(1, "job", 0), 0, TEN, 1, 0.0)
    ledger.hold(PlanKey(1, "job", 0), 1, TEN, 1, 0.0)
    assert (_free(ledger, "a"), _free(ledger, "b")) == (100, 90)


def test_a_snapshot_is_a_change_to_every_reader() -> None:
    """What was ranked before a snapshot is never taken for what it holds, however few changes there were."""
    ledger = _ledger("a")
    version = ledger.columns.version
    ledger.replace([(_node("b"), 0)], ledger.mark())
    assert ledger.columns.version > version
    assert ledger.columns.changed_since(version) is None
