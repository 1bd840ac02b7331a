"""The numbers of plans: a promise ends when its plan and all before it are carried out or dropped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConflictError
from manager.sequences import PlanSequences


class Told:
    """Which nodes were told of, each time."""

    def __init__(self) -> None:
        self.nodes: list[set[str]] = []
        self.sequences = PlanSequences(lambda node_ids: self.nodes.append(set(node_ids)))


def test_numbers_grow_and_settle_one_after_the_other() -> None:
    """A plan under way is not settled, and its end is told with its nodes."""
    told = Told()
    assert told.sequences.settled == 0
    for number in (1, 2):
        with told.sequences.plan() as plan:
            assert (plan.number, told.sequences.settled) == (number, number - 1)
            plan.node_ids.add(f"n{number}")
        assert told.sequences.settled == number
    assert told.nodes == [{"n1"}, {"n2"}]


def test_a_plan_that_fails_is_settled_as_well() -> None:
    """Its promises hold nothing up."""
    told = Told()

    def fail() -> None:
        with told.sequences.plan() as plan:
            plan.node_ids.add("n")
            raise ConflictError("the scheduler is away")

    with pytest.raises(ConflictError):
        fail()
    assert (told.sequences.settled, told.nodes) == (1, [{"n"}])


def test_a_plan_about_no_node_tells_nobody() -> None:
    """There is no view to send again."""
    told = Told()
    with told.sequences.plan():
        pass
    assert (told.sequences.settled, told.nodes) == (1, [])


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_nothing_is_settled_before_all_that_began_earlier(ends: list[int]) -> None:
    """Plans that overlap end in any order: each node is told of once, when the number covers its plan."""
    told, open_plans, count = Told(), dict[int, object](), 0
    ended: set[int] = set()
    for choice in ends:
        if choice >= len(open_plans):
            context = told.sequences.plan()
            plan = context.__enter__()
            plan.node_ids.add(str(plan.number))
            open_plans[plan.number], count = context, count + 1
        else:
            number = sorted(open_plans)[choice]
            open_plans.pop(number).__exit__(None, None, None)  # type: ignore[attr-defined]
            ended.add(number)
        settled = min(open_plans, default=count + 1) - 1
        assert told.sequences.settled == settled
        assert sorted(int(node_id) for nodes in told.nodes for node_id in nodes) == list(range(1, settled + 1))
