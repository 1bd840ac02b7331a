"""Finding nodes, on the real core with the real scheduler beside it: who is asked about, and what becomes of plans."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import Resources
from cluster.nodes import Dialect
from manager import planning
from manager.domain.model import Ended, InstanceKey, InstanceState, NodeState
from manager.domain.reconciliation import lose_node
from manager.planning import BATCH, FREE_REJECTIONS, Planning
from scheduler import node_view
from testbed.live_core import LiveCore, live_core
from testbed.near_scheduler import NearScheduler, near_scheduler
from testbed.waiting import wait_until_async

S = InstanceState
KEY = InstanceKey("web", 0)
HALF = Resources(cpu_millicores=500)


class Desk:
    """A core, a scheduler, and the planning between them."""

    def __init__(self, live: LiveCore, scheduler: NearScheduler) -> None:
        self.live = live
        self.core = live.core
        self.scheduler = scheduler
        self.planning = Planning(live.core, scheduler)

    async def rest(self) -> None:
        """Wait until nothing is planned or saved any more."""
        calm = 0
        while calm < 3:
            await self.live.rest()
            is_calm = not (self.core.to_plan or self.core.has_room or self.core.plan_wanted.is_set())
            calm = calm + 1 if is_calm and self.scheduler.is_idle else 0

    def states(self, job_id: str = "web") -> Counter[InstanceState]:
        """How many instances of a job are saved in each state."""
        return Counter(item.state for item in self.core.saved_records.instances.values() if item.key.job_id == job_id)

    async def asked_for(self) -> list[InstanceKey]:
        """What was asked for since the last time, once all is at rest."""
        await self.rest()
        found = [request.key for batch in self.scheduler.batches for request in batch]
        self.scheduler.batches.clear()
        return found


@pytest.fixture(name="desk")
async def _desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with live_core(tmp_path) as live, near_scheduler(live.core) as scheduler:
        desk = Desk(live, scheduler)
        task = asyncio.create_task(desk.planning.run(), name="planning")
        try:
            yield desk
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# Who is asked about


async def test_one_freed_place_costs_few_requests_however_many_wait(desk: Desk) -> None:
    """A thousand ask for the same: one is tried, two more follow, and that is that."""
    await desk.live.add("n0")
    await desk.live.deploy(*range(1002), demand=HALF)
    await desk.rest()
    assert desk.states() == {S.SCHEDULED: 2, S.PENDING: 1000}
    await desk.asked_for()
    await desk.live.stop(KEY)
    asked = await desk.asked_for()
    assert desk.states() == {S.SCHEDULED: 2, S.PENDING: 999, S.STOPPED: 1}
    assert 1 <= len(asked) <= 3


async def test_room_for_all_is_found_in_growing_steps(desk: Desk) -> None:
    """As long as they find nodes, twice as many are tried each time: all thousand in a few calls, each asked once."""
    await desk.live.deploy(*range(1000), demand=HALF)
    await desk.rest()
    assert desk.states() == {S.PENDING: 1000}
    desk.scheduler.batches.clear()
    await desk.live.add("n0", cpu=500_000)
    await desk.rest()
    assert desk.states() == {S.SCHEDULED: 1000}
    assert len(desk.scheduler.batches) <= 12
    assert Counter(await desk.asked_for()).most_common(1)[0][1] == 1


async def test_of_each_class_one_is_tried(desk: Desk) -> None:
    """What does not fit holds up nothing that does."""
    await desk.live.deploy(*range(300), job_id="large", demand=Resources(cpu_millicores=5000))
    await desk.live.deploy(*range(3), job_id="small", demand=HALF)
    await desk.rest()
    desk.scheduler.batches.clear()
    await desk.live.add("n0")
    asked = Counter(key.job_id for key in await desk.asked_for())
    assert desk.states("small") == {S.SCHEDULED: 2, S.PENDING: 1}
    assert desk.states("large") == {S.PENDING: 300}
    assert asked["large"] <= 2


async def test_a_refusal_that_repeats_is_no_write(desk: Desk) -> None:
    """Looked for again and again, found nowhere: nothing is saved, and nothing told."""
    await desk.live.add("n0", cpu=100)
    await desk.live.deploy(0, demand=HALF)
    await desk.rest()
    before, writes = desk.live.instance(KEY), len(desk.live.store.batches)
    for _ in range(5):
        desk.core.look_for_room()
        await desk.rest()
    assert desk.live.instance(KEY) is before
    assert len(desk.live.store.batches) == writes


async def test_large_deploys_are_planned_in_batches(desk: Desk) -> None:
    """No call holds more than a batch, and all are placed."""
    await desk.live.add("n0", cpu=1_000_000)
    await _while_planning(desk, 0)
    await desk.live.deploy(*range(1, 2 * BATCH + 2), demand=HALF)
    await desk.live.rest()
    desk.scheduler.answering.set()
    await desk.rest()
    assert desk.states() == {S.SCHEDULED: 2 * BATCH + 2}
    assert list(map(len, desk.scheduler.batches)) == [1, BATCH, BATCH, 1]


# What keeps one instance from a node keeps no other


async def _fenced(desk: Desk, number: int, node_id: str) -> None:
    """An instance whose last copy on an engine has only just ended."""
    [instance] = await desk.live.deploy(number, demand=HALF)
    ended = Ended(node_id=node_id, generation=1, at_ms=desk.live.clock.at_ms)
    desk.core.state.put(replace(instance, ended=(ended,)))
    await desk.core.saved()


async def test_a_fence_of_one_holds_up_no_other_of_its_class(desk: Desk) -> None:
    """The first must not return to the engine yet: the next of its class gets the place."""
    engine = await desk.live.add("e0", dialect=Dialect.ENGINE_C)
    desk.core.state.set_cordoned(engine.id, True, "operator", 1)
    await desk.core.saved()
    await _fenced(desk, 0, engine.id)
    await desk.live.deploy(1, demand=HALF)
    await desk.rest()
    assert desk.states() == {S.PENDING: 2}
    desk.core.state.set_cordoned(engine.id, False, "operator", 1)
    await desk.core.saved()
    desk.core.look_for_room()
    await desk.rest()
    assert desk.live.instance(KEY).state is S.PENDING
    assert desk.live.instance(InstanceKey("web", 1)).node_id == engine.id
    desk.live.clock.pass_time(10)
    desk.core.want_plan(KEY)
    await desk.rest()
    assert desk.live.instance(KEY).node_id == engine.id


async def test_a_name_that_one_container_cannot_have_holds_up_no_other_of_its_class(desk: Desk) -> None:
    """`NAME.instance.100` is too long for an engine, `NAME.instance.1` is not: the older one waits, the other goes."""
    name = "a" * 63  # with `.instance.` and one digit 74 characters, with three 76, with four 77
    await desk.live.deploy(1000, name=name, demand=HALF)
    await desk.live.deploy(1, name=name, demand=HALF)
    await desk.rest()
    engine = await desk.live.add("e0", dialect=Dialect.ENGINE_C)
    await desk.rest()
    assert desk.live.instance(InstanceKey("web", 1)).node_id == engine.id
    assert desk.live.instance(InstanceKey("web", 1000)).state is S.PENDING
    assert "cannot take a container of that name" in desk.live.instance(InstanceKey("web", 1000)).detail


# What becomes of a plan


async def _while_planning(desk: Desk, *numbers: int, **facts: Any) -> None:
    """Instances are asked about, and the answer is held back."""
    desk.scheduler.answering.clear()
    await desk.live.deploy(*numbers, **{"demand": HALF, **facts})
    await wait_until_async(lambda: not desk.scheduler.is_idle)


async def test_a_plan_for_an_instance_whose_node_came_back_is_not_carried_out(desk: Desk) -> None:
    """It runs there still, for all that is known: nothing takes its place, and its node is waited for."""
    lost = await desk.live.add("n0")
    await desk.live.run(lost.id, 0, demand=HALF)
    other = await desk.live.add("n1")
    await desk.rest()
    desk.scheduler.answering.clear()
    desk.core.state.set_node_state(lost.id, NodeState.DOWN, "it is silent", desk.live.clock.at_ms)
    lose_node(desk.core.state, lost.id, desk.live.clock.at_ms)
    await desk.core.saved()
    await wait_until_async(lambda: not desk.scheduler.is_idle)
    desk.live.hear(lost.id)
    desk.scheduler.answering.set()
    await desk.rest()
    instance = desk.live.instance(KEY)
    assert (instance.state, instance.node_id, instance.ended) == (S.UNKNOWN, lost.id, ())
    assert not desk.core.state.on_node[other.id]


async def test_what_came_back_while_that_could_not_be_saved_is_not_placed_elsewhere(desk: Desk) -> None:
    """The store refused that its node is heard again: it runs there all the same, and is adopted when that is saved."""
    lost = await desk.live.add("n0")
    await desk.live.run(lost.id, 0, demand=HALF)
    desk.core.state.set_node_state(lost.id, NodeState.DOWN, "it is silent", desk.live.clock.at_ms)
    lose_node(desk.core.state, lost.id, desk.live.clock.at_ms)
    await desk.core.saved()
    await desk.rest()
    assert desk.states() == {S.PENDING: 1}
    desk.live.hear(lost.id)
    await desk.live.refuses(desk.core.saved())
    assert desk.core.state.nodes[lost.id].state is NodeState.DOWN
    other = await desk.live.add("n1")
    await desk.rest()
    assert not desk.core.state.on_node[other.id]
    desk.live.hear(lost.id)
    await desk.rest()
    instance = desk.live.instance(KEY)
    assert (instance.state, instance.node_id) == (S.UNKNOWN, lost.id)


async def test_what_came_back_before_anybody_asked_is_not_asked_about(desk: Desk) -> None:
    """LOST, queued, and its node heard again in the same moment: it is held, with a deadline for its node's word."""
    lost = await desk.live.add("n0")
    await desk.live.run(lost.id, 0, demand=HALF)
    await desk.asked_for()
    state = desk.core.state
    state.set_node_state(lost.id, NodeState.DOWN, "it is silent", desk.live.clock.at_ms)
    lose_node(state, lost.id, desk.live.clock.at_ms)
    state.set_node_state(lost.id, NodeState.READY, "it speaks", desk.live.clock.at_ms)
    await desk.core.saved()
    desk.core.want_plan(KEY)
    assert await desk.asked_for() == []
    current = desk.live.instance(KEY).current
    assert current is not None
    assert (current.state, current.deadline_ms) == (
        S.UNKNOWN,
        desk.live.clock.at_ms + desk.core.policy.schedule_deadline_ms,
    )


async def test_a_plan_for_what_is_not_wanted_any_more_is_dropped(desk: Desk) -> None:
    """Deleted while the scheduler thought about it."""
    node = await desk.live.add("n0")
    await _while_planning(desk, 0)
    desk.core.state.delete([KEY], "root", desk.live.clock.at_ms)
    await desk.core.saved()
    desk.scheduler.answering.set()
    await desk.rest()
    assert desk.states() == {S.STOPPED: 1}
    assert not desk.core.state.on_node[node.id]


async def test_a_plan_that_does_not_hold_any_more_is_made_anew(desk: Desk) -> None:
    """Its node was cordoned meanwhile: the next plan finds the other one, at once."""
    chosen = await desk.live.add("n0", cpu=10_000)
    await _while_planning(desk, 0)
    other = await desk.live.add("n1")
    desk.core.state.set_cordoned(chosen.id, True, "operator", 1)
    await desk.core.saved()
    desk.scheduler.answering.set()
    await desk.rest()
    assert desk.live.instance(KEY).node_id == other.id
    assert desk.core.counters["plans_rejected"] == 1
    assert desk.live.events("instance:web/0") == ["requested", "placed"]


async def test_where_the_scheduler_goes_on_differing_it_is_asked_with_pauses(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few plans in vain it is PENDING with the reason, and is looked for again a moment later."""
    monkeypatch.setattr(planning, "LOOK_LATER_S", 0.05)
    unfit = desk.core.state.unfit_reason
    monkeypatch.setattr(desk.core.state, "unfit_reason", lambda *_: "the node is full, as we see it")
    node = await desk.live.add("n0")
    await desk.live.deploy(0, demand=HALF)
    await wait_until_async(lambda: desk.states() == {S.PENDING: 1})
    assert "1 node was taken meanwhile (the node is full, as we see it)" in desk.live.instance(KEY).detail
    assert desk.core.counters["plans_rejected"] > FREE_REJECTIONS
    monkeypatch.setattr(desk.core.state, "unfit_reason", unfit)
    await wait_until_async(lambda: desk.live.instance(KEY).node_id == node.id)


async def test_a_refusal_in_ignorance_of_new_room_is_asked_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that hears late of a node refuses what would fit there: it is asked until it has heard."""
    monkeypatch.setattr(planning, "LOOK_LATER_S", 0.05)
    monkeypatch.setattr(node_view, "REACH_S", 0.05)
    await desk.live.deploy(0, demand=HALF)
    await desk.rest()
    desk.scheduler.hearing.clear()
    node = await desk.live.add("n0")
    await wait_until_async(lambda: len(desk.scheduler.batches) > 3)
    assert desk.states() == {S.PENDING: 1}
    desk.scheduler.hearing.set()
    await wait_until_async(lambda: desk.live.instance(KEY).node_id == node.id)
    await desk.asked_for()
    await asyncio.sleep(0.2)
    assert await desk.asked_for() == []


async def test_a_scheduler_that_is_told_of_all_nodes_anew_is_asked_again(desk: Desk) -> None:
    """What it refused before, on what it knew then, may fit."""
    await desk.live.deploy(0, demand=HALF)
    await desk.asked_for()
    async with near_scheduler(desk.core):
        assert await desk.asked_for() == [KEY]


async def test_a_plan_that_goes_wrong_costs_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted; all others of its batch are carried out."""
    place = desk.core.state.place

    def failing(key: InstanceKey, *rest: Any) -> str:
        return place(key, *rest) if key != KEY else str(1 // 0)

    monkeypatch.setattr(desk.core.state, "place", failing)
    await desk.live.add("n0")
    await desk.live.deploy(0, 1, demand=HALF)
    await desk.rest()
    assert desk.states() == {S.REQUESTED: 1, S.SCHEDULED: 1}
    assert desk.core.counters["plans_failed"] == 1


async def test_no_request_is_lost_while_the_scheduler_is_away(desk: Desk) -> None:
    """They wait, and are planned when it answers again."""
    await desk.live.add("n0", cpu=10_000)
    desk.scheduler.failure = "no route to host"
    await desk.live.deploy(*range(20), demand=HALF)
    await wait_until_async(lambda: len(desk.scheduler.batches) >= 2)
    assert desk.states() == {S.REQUESTED: 20}
    desk.scheduler.failure = ""
    await wait_until_async(lambda: desk.states() == {S.SCHEDULED: 20})


async def test_a_scheduler_that_answers_too_little_is_asked_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody guesses whom an answer is about, and nothing ends."""
    await desk.live.add("n0", cpu=10_000)
    plan = desk.scheduler.plan

    async def forgetful(*asked: Any) -> list[Any]:
        monkeypatch.undo()
        return (await plan(*asked))[1:]

    monkeypatch.setattr(desk.scheduler, "plan", forgetful)
    await desk.live.deploy(0, 1, 2, demand=HALF)
    await wait_until_async(lambda: desk.states() == {S.SCHEDULED: 3})


async def test_a_plan_that_comes_while_the_store_is_away_is_carried_out_afterwards(desk: Desk) -> None:
    """Nothing is changed in between, and nothing is placed twice."""
    node = await desk.live.add("n0")
    await _while_planning(desk, 0)
    desk.live.store.fault = "no space"
    desk.core.put_setting("x", "y")
    await wait_until_async(lambda: desk.core.writer.failure)
    desk.scheduler.answering.set()
    await asyncio.sleep(0.05)
    assert desk.live.instance(KEY).state is S.REQUESTED
    desk.live.store.fault = ""
    await desk.core.writer.working.wait()
    await desk.rest()
    assert (desk.live.instance(KEY).node_id, desk.states()) == (node.id, {S.SCHEDULED: 1})


async def test_a_placement_that_could_not_be_saved_is_planned_again(desk: Desk) -> None:
    """The store fails under it: nothing of it is sent, and when it works again a node is looked for anew."""
    node = await desk.live.add("n0")
    await _while_planning(desk, 0)
    desk.live.store.fault = "no space"
    desk.scheduler.answering.set()
    await wait_until_async(lambda: desk.core.writer.failure)
    assert desk.live.instance(KEY).state is S.REQUESTED
    assert desk.live.broker.published == []
    desk.live.store.fault = ""
    await desk.core.writer.working.wait()
    await wait_until_async(lambda: desk.states() == {S.SCHEDULED: 1})
    assert desk.core.state.allocated[node.id].cpu_millicores == 500
    await desk.rest()
    assert len(desk.live.broker.published) == 1


async def test_a_promise_ends_with_its_plan(desk: Desk) -> None:
    """What a plan promised and the manager did not take is there for the next one at once."""
    await desk.live.add("n0")
    await _while_planning(desk, 0, 1)
    desk.core.state.delete([InstanceKey("web", -1)], "root", desk.live.clock.at_ms)
    await desk.core.saved()
    desk.scheduler.answering.set()
    await desk.rest()
    await desk.live.deploy(2, 3, demand=HALF)
    await desk.rest()
    assert desk.states() == {S.STOPPED: 2, S.SCHEDULED: 2}
