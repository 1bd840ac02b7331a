"""Who is late, who is lost, and what becomes of the instances there, on the real core and a real store."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.errors import ConflictError, NotFoundError
from cluster.jobs import OnDisconnect
from manager.detector import INSTANCES_AT_ONCE, PAUSED, RESUMED, TOLD_ONE_BY_ONE
from manager.domain.leases import LeaseRules
from manager.domain.model import InstanceKey, InstanceState, NodeState
from testbed.live_core import LiveCore, live_core
from testbed.waiting import wait_until_async

S = InstanceState
RULES = LeaseRules(lease_s=10.0, grace_s=5.0, will_grace_s=10.0, hold_s=120.0, return_cap_s=600.0)
KEY = InstanceKey("web", 0)


@pytest.fixture(name="live")
async def _live(tmp_path: Path) -> AsyncIterator[LiveCore]:
    async with live_core(tmp_path, rules=RULES) as live:
        yield live


async def _nodes(live: LiveCore, count: int) -> list[str]:
    return [(await live.add(f"n{number}")).id for number in range(count)]


async def test_what_is_lost_alone_is_placed_anew(live: LiveCore) -> None:
    """SUSPECT, DOWN, and its instances LOST; the others are not touched."""
    lost, *others = await _nodes(live, 3)
    await live.run(lost, 0)
    await live.run(others[0], 1)
    live.pass_time(11, *others)
    assert live.core.state.state_of(live.core.state.nodes[lost]) is NodeState.SUSPECT
    assert live.instance(KEY).state is S.RUNNING
    live.pass_time(5, *others)
    await live.rest()
    assert live.core.saved_records.nodes[lost].state is NodeState.DOWN
    assert live.core.saved_records.instances[KEY].state is S.LOST
    assert live.instance(InstanceKey("web", 1)).state is S.RUNNING
    assert live.events(f"node:{lost}")[-2:] == ["suspect", "down"]
    assert live.events("cluster") == []


async def test_holds_are_told_once_and_so_is_their_end(live: LiveCore) -> None:
    """However long it lasts: one event when the waiting begins, one when all are back."""
    missed = await _nodes(live, 4)
    for number, node_id in enumerate(missed):
        await live.run(node_id, number)
    live.pass_time(60, missed[0])
    assert live.events("cluster") == [PAUSED]
    live.pass_time(30, *missed[:2])
    assert live.events("cluster") == [PAUSED]
    live.pass_time(5, *missed)
    assert live.events("cluster") == [PAUSED, RESUMED]
    await live.rest()
    assert {item.state for item in live.core.state.instances.values()} == {S.RUNNING}
    [resumed] = live.core.history.newest_first(lambda entry: entry.event.kind == RESUMED, 0, 1)
    assert "all are back" in resumed.event.cause


async def test_the_end_of_a_hold_says_how_many_were_given_up(live: LiveCore) -> None:
    """After the bound those that did not return are lost, and a later hold is told anew."""
    kept, *missed = await _nodes(live, 4)
    for number, node_id in enumerate(missed):
        await live.run(node_id, number)
    live.pass_time(140, kept)
    await live.rest()
    assert {item.state for item in live.core.state.instances.values()} == {S.LOST}
    [resumed] = live.core.history.newest_first(lambda entry: entry.event.kind == RESUMED, 0, 1)
    assert "3 were given up" in resumed.event.cause
    live.hear(kept, *missed)
    live.pass_time(60, kept)
    assert live.events("cluster") == [PAUSED, RESUMED, PAUSED]


async def test_many_that_are_late_at_once_are_told_as_one(live: LiveCore) -> None:
    """A thousand events for one outage would push everything else out of the history."""
    nodes = await _nodes(live, TOLD_ONE_BY_ONE + 2)
    live.pass_time(11, nodes[0])
    assert live.events("cluster") == ["suspect"]
    assert "suspect" not in live.events(f"node:{nodes[1]}")


async def test_an_operator_ends_the_waiting(live: LiveCore) -> None:
    """At once, for the nodes that he names or for all that are missed."""
    kept, *missed = await _nodes(live, 5)
    for number, node_id in enumerate(missed):
        await live.run(node_id, number)
    live.pass_time(20, kept)
    assert [node.id for node in live.detector.confirm_lost(["n1"])] == [missed[0]]
    await live.core.saved()
    await live.rest()
    assert live.core.saved_records.instances[KEY].state is S.LOST
    assert "an operator confirmed" in live.core.state.nodes[missed[0]].detail
    assert live.instance(InstanceKey("web", 1)).state is S.RUNNING
    assert {node.id for node in live.detector.confirm_lost([])} == set(missed[1:])
    await live.core.saved()
    await live.rest()
    assert {item.state for item in live.core.state.instances.values()} == {S.LOST}


async def test_a_node_that_is_late_can_be_given_up_before_its_grace_is_over(live: LiveCore) -> None:
    """The operator knows more than the lease."""
    kept, missed = await _nodes(live, 2)
    await live.run(missed, 0)
    live.pass_time(11, kept)
    live.detector.confirm_lost(["n1"])
    assert live.core.state.nodes[missed].state is NodeState.DOWN


async def test_only_what_is_missed_can_be_given_up(live: LiveCore) -> None:
    """A node that is heard, one that is given up already, one that nobody knows; and all of none."""
    kept, missed, further = await _nodes(live, 3)
    with pytest.raises(ConflictError, match="node n0 is READY and is not waited for") as caught:
        live.detector.confirm_lost(["n0"])
    assert caught.value.field == "nodes"
    with pytest.raises(NotFoundError, match="no node is waited for"):
        live.detector.confirm_lost([])
    with pytest.raises(NotFoundError, match="there is no node 'n9'"):
        live.detector.confirm_lost(["n9"])
    live.pass_time(16, kept, further)
    assert live.core.state.nodes[missed].state is NodeState.DOWN
    with pytest.raises(ConflictError, match="node n1 is DOWN"):
        live.detector.confirm_lost(["n1"])


async def test_a_node_that_is_missed_and_named_beside_one_that_is_not_stays_as_it_is(live: LiveCore) -> None:
    """All or none: a call that is refused gives nobody up."""
    kept, *missed = await _nodes(live, 4)
    await live.run(missed[0], 0)
    live.pass_time(20, kept)
    with pytest.raises(ConflictError):
        live.detector.confirm_lost(["n1", "n0"])
    live.pass_time(1, kept)
    assert live.core.state.nodes[missed[0]].state is NodeState.READY


async def test_a_node_that_is_back_late_keeps_what_nobody_replaced(live: LiveCore) -> None:
    """DOWN, its instance PENDING because nothing else fits: heard again, it is waited for what it tells."""
    lost, other = await _nodes(live, 2)
    await live.run(lost, 0, on_disconnect=OnDisconnect.REPLACE)
    live.pass_time(16, other)
    await live.rest()
    assert live.instance(KEY).state is S.LOST
    live.hear(lost)
    assert live.core.state.nodes[lost].state is NodeState.READY
    assert live.instance(KEY).state is S.UNKNOWN
    assert live.instance(KEY).current is not None


async def test_a_suspect_that_is_heard_again_costs_nothing(live: LiveCore) -> None:
    """Its instances are not touched, and nothing is saved for it."""
    late, other = await _nodes(live, 2)
    await live.run(late, 0)
    before = live.instance(KEY)
    writes = len(live.store.batches)
    live.pass_time(11, other)
    live.pass_time(1, late, other)
    await live.rest()
    assert live.core.state.is_ready(late)
    assert live.instance(KEY) is before
    assert len(live.store.batches) == writes


async def test_large_nodes_are_lost_in_portions(live: LiveCore) -> None:
    """No write has to hold all of what a mass loss costs, and calls are served in between."""
    kept, *missed = [(await live.add(f"n{number}", cpu=None)).id for number in range(4)]
    for position, node_id in enumerate(missed):
        await live.run(node_id, *range(position * 400, position * 400 + 400))
    live.pass_time(140, kept)
    before = len(live.store.batches)
    await live.rest()
    assert {item.state for item in live.core.saved_records.instances.values()} == {S.LOST}
    sizes = [len(batch) for batch in live.store.batches[before:]]
    assert max(sizes) <= INSTANCES_AT_ONCE + 400


# The store fails just then


async def test_a_verdict_that_could_not_be_saved_is_given_again(live: LiveCore) -> None:
    """The store fails under the DOWN of a dead node: when it works again the node goes DOWN, and its instances LOST."""
    lost, other = await _nodes(live, 2)
    await live.run(lost, 0)
    live.pass_time(14, other)
    live.store.fault = "no space"
    live.pass_time(2, other)
    await wait_until_async(lambda: live.core.writer.failure)
    assert live.core.state.nodes[lost].state is NodeState.READY
    live.store.fault = ""
    await live.core.writer.working.wait()
    live.pass_time(3, other)
    await live.rest()
    assert live.core.saved_records.nodes[lost].state is NodeState.DOWN
    assert live.core.saved_records.instances[KEY].state is S.LOST


async def test_a_loss_that_could_not_be_saved_is_told_again(live: LiveCore) -> None:
    """DOWN is saved, what becomes of the instances is not: they are told when the store works again."""
    [lost] = await _nodes(live, 1)
    await live.run(lost, *range(3), on_disconnect=OnDisconnect.KEEP)
    live.core.state.set_node_state(lost, NodeState.DOWN, "its cable was cut", live.clock.at_ms)
    await live.core.saved()
    live.store.fault = "no space"
    live.detector._lost.append(lost)
    live.detector._has_lost.set()
    await wait_until_async(lambda: live.core.writer.failure)
    live.store.fault = ""
    await live.core.writer.working.wait()
    await live.rest()
    await wait_until_async(lambda: {item.state for item in live.core.saved_records.instances.values()} == {S.UNKNOWN})


async def test_a_loss_that_a_crash_cut_in_two_is_completed(tmp_path: Path) -> None:
    """The node was saved as DOWN, its instances were not: after a start it is waited for, and then given up."""
    async with live_core(tmp_path, rules=RULES) as live:
        lost, other = await _nodes(live, 2)
        await live.run(lost, 0)
        live.core.state.set_node_state(lost, NodeState.DOWN, "its cable was cut", live.clock.at_ms)
        await live.core.saved()
    async with live_core(tmp_path, rules=RULES) as live:
        assert live.instance(KEY).state is S.RUNNING
        assert list(live.core.leases.held()) == [lost]
        live.pass_time(10, other)
        assert live.instance(KEY).state is S.RUNNING
        live.pass_time(10, other)
        await live.rest()
        assert live.core.saved_records.instances[KEY].state is S.LOST


async def test_a_removal_that_was_refused_leaves_the_node_watched(live: LiveCore) -> None:
    """It is there as before: not taken for silent at once, and missed when it falls silent."""
    node_id, other = await _nodes(live, 2)
    await live.run(node_id, 0)
    live.pass_time(5, node_id, other)
    await live.refuses(live.nodes.remove(live.core.state.nodes[node_id], is_forced=True))
    live.pass_time(5, node_id, other)
    assert live.core.state.is_ready(node_id)
    assert live.instance(KEY).state is S.RUNNING
    live.pass_time(20, other)
    await live.rest()
    assert live.core.saved_records.nodes[node_id].state is NodeState.DOWN


async def test_a_removal_that_was_refused_judges_nobody_by_what_was_forgotten(live: LiveCore) -> None:
    """Between its refusal and its next word the node is as heard as it was before."""
    node_id, other = await _nodes(live, 2)
    live.pass_time(60, node_id, other)
    await live.refuses(live.nodes.remove(live.core.state.nodes[node_id], is_forced=True))
    live.pass_time(1, other)
    assert live.core.state.is_ready(node_id)


async def test_a_node_that_registers_while_its_removal_is_saved_is_heard(live: LiveCore) -> None:
    """What is forgotten of a removed node is not what its successor of the same name has just said."""
    node_id, other = await _nodes(live, 2)
    live.pass_time(60, node_id, other)
    live.store.hold()
    removing = asyncio.create_task(live.nodes.remove(live.core.state.nodes[node_id], is_forced=False))
    await asyncio.to_thread(live.store.has_begun.wait)
    registration = live.core.saved_records.nodes[node_id].registration
    registering = asyncio.create_task(live.nodes.register(registration))
    await asyncio.sleep(0)
    live.store.let_go()
    await asyncio.gather(removing, registering)
    assert live.core.hearing.last_heard_s([node_id]) == live.clock.at_s


async def test_a_return_that_could_not_be_saved_is_heard_again(live: LiveCore) -> None:
    """A node that was DOWN speaks while the store fails: its next word counts."""
    lost, other = await _nodes(live, 2)
    await live.run(lost, 0)
    live.pass_time(16, other)
    await live.rest()
    live.hear(lost)
    await live.refuses(live.core.saved())
    assert live.core.state.nodes[lost].state is NodeState.DOWN
    live.pass_time(1, lost, other)
    await live.core.saved()
    assert live.core.saved_records.nodes[lost].state is NodeState.READY
