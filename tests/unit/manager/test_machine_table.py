"""The table of the life cycle is complete, and no event does to any instance what none may do."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.jobs import OnDisconnect, RestartPolicy
from manager.domain.events import InstanceEvent, MovePlanned, Seen
from manager.domain.machine import TABLE, IllegalTransitionError
from manager.domain.model import MAX_EVENTS, InstanceState
from simulation.lives import Life

S = InstanceState
EVENTS = get_args(InstanceEvent)
LIVES = {
    S.REQUESTED: Life,
    S.PENDING: lambda: Life().refuse(),
    S.SCHEDULED: lambda: Life().place(),
    S.STARTING: lambda: Life().place().see(Seen.STARTING),
    S.RUNNING: lambda: Life().run(),
    S.RESTARTING: lambda: Life().run().see(Seen.STARTING, detail="it trapped", is_news=True),
    S.UNKNOWN: lambda: Life(on_disconnect=OnDisconnect.KEEP).run().node_down(),
    S.STOPPING: lambda: Life().run().delete(),
    S.STOPPED: lambda: Life().run().delete().see(Seen.STOPPED),
    S.COMPLETED: lambda: Life(restart_policy=RestartPolicy.NEVER).run().see(Seen.COMPLETED),
    S.FAILED: lambda: Life().run().see(Seen.FAILED),
    S.LOST: lambda: Life().run().node_down(),
}
MOVABLE = (S.RUNNING, S.RESTARTING)
STEPS = [
    *(
        lambda life, seen=seen, node=node, is_news=is_news: life.see(seen, node, is_news=is_news)
        for seen in Seen
        for node in ("n1", "n2")
        for is_news in (False, True)
    ),
    *(lambda life, node=node: life.place(node) for node in ("n1", "n2")),
    lambda life: life.refuse(),
    lambda life: life.deploy(),
    lambda life: life.deploy(image="other"),
    lambda life: life.delete(),
    lambda life: life.deadline(),
    lambda life: life.move() if life.state in MOVABLE and not life.instance.successor else life,
    *(lambda life, node=node: life.node_down(node) for node in ("n1", "n2")),
    lambda life: life.refuse("cordoned"),
    *(
        lambda life, node=node, deadline_ms=deadline_ms, is_mute=is_mute: life.node_back(
            node, deadline_ms and life.now_ms + deadline_ms, is_mute=is_mute
        )
        for node in ("n1", "n2")
        for deadline_ms in (None, 30_000)
        for is_mute in (False, True)
    ),
    *(lambda life, node=node: life.node_removed(node) for node in ("n1", "n2")),
    *(lambda life, seconds=seconds: life.wait(seconds) for seconds in (0.5, 40.0, 700.0)),
]


def test_the_table_has_a_row_for_every_state_and_event() -> None:
    """A state or an event that is added without saying what happens fails here."""
    assert set(TABLE) == {(state, event) for state in S for event in EVENTS}


def test_every_state_can_be_reached() -> None:
    """There is a life that leads to each state."""
    assert {state: make().state for state, make in LIVES.items()} == {state: state for state in S}


@pytest.mark.parametrize("state", S)
def test_every_event_is_survived_in_every_state(state: InstanceState) -> None:
    """Each step from each state keeps the invariants; only a move of what does not run is illegal."""
    for step in STEPS:
        step(LIVES[state]())


@pytest.mark.parametrize("state", [state for state in S if state not in MOVABLE])
def test_only_what_runs_is_moved(state: InstanceState) -> None:
    """A successor for anything that does not run is a fault of the caller, told with the whole story."""
    life = LIVES[state]()
    with pytest.raises(IllegalTransitionError, match="MovePlanned"):
        life.apply(MovePlanned(actor="operator", node_id="n2", generation=2_000_000, deadline_ms=None))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), max_size=60),
    st.sampled_from(OnDisconnect),
    st.sampled_from(RestartPolicy),
    st.integers(0, 3),
)
def test_any_life_keeps_the_invariants(
    steps: list, on_disconnect: OnDisconnect, restart: RestartPolicy, attempts: int
) -> None:
    """Whatever happens in whatever order: legal states, one placement of a role, a cause for each change."""
    life = Life(on_disconnect=on_disconnect, restart_policy=restart, max_attempts=attempts)
    for step in steps:
        step(life)


def test_the_history_is_bounded() -> None:
    """The oldest events give way: 8 are kept, and how many there were."""
    life = Life()
    for _ in range(60):
        life.run().see(Seen.FAILED).wait(1000)
    assert len(life.instance.events) == MAX_EVENTS == 8
    assert life.instance.event_count == 1 + 60 * 4


def test_reports_of_other_generations_change_nothing() -> None:
    """A stale report is fenced by its generation."""
    life = Life().run()
    before = life.instance
    for generation in (before.generation - 1, before.generation + 1):
        for seen in Seen:
            assert life.see(seen, generation=generation).instance is before


def test_a_copy_of_an_instance_is_the_same_to_the_life_cycle() -> None:
    """Nothing depends on identity: what was loaded from a store behaves as what was in memory."""
    life, loaded = Life().run(), Life().run()
    loaded.instance = replace(loaded.instance)
    assert life.see(Seen.FAILED).instance == loaded.see(Seen.FAILED).instance
