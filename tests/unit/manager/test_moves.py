"""Moves, whoever asks for them: which instance is meant, what stands in the way, and what is reserved."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConflictError, InvalidInputError, NotFoundError
from cluster.jobs import Resources, RestartPolicy, Volume
from cluster.nodes import Dialect
from cluster.topics import Channel
from manager.domain.events import Observed, Seen
from manager.domain.model import Instance, InstanceKey, InstanceState
from manager.moves import Mover
from testbed.live_core import LiveCore, live_core
from testbed.near_scheduler import NearScheduler, near_scheduler
from testbed.waiting import wait_until_async

S = InstanceState
KEY = InstanceKey("web", 0)
HALF = Resources(cpu_millicores=500)


class Desk:
    """A core, the scheduler beside it, and a mover between them."""

    def __init__(self, live: LiveCore, scheduler: NearScheduler) -> None:
        self.live = live
        self.core = live.core
        self.scheduler = scheduler
        self.mover = Mover(live.core, scheduler)

    async def nodes(self, count: int, **facts: Any) -> list[str]:
        """Their ids."""
        found = [(await self.live.add(f"n{number}", **facts)).id for number in range(count)]
        await self.live.rest()
        return found

    async def move(self, target: str = "", key: InstanceKey = KEY, **options: Any) -> Instance:
        """As an operator asks for it."""
        await self.live.rest()
        return await self.mover.move(self.live.instance(key), target, "operator", **options)

    def see(self, seen: Seen, node_id: str, key: InstanceKey = KEY) -> None:
        """A node tells of its copy."""
        event = Observed(node_id=node_id, generation=None, seen=seen, actor="worker")
        self.core.state.apply(key, event, self.live.clock.at_ms)

    async def moved(self, source: str, target: str, key: InstanceKey = KEY) -> None:
        """Both ends tell that the move is done."""
        self.see(Seen.RUNNING, target, key)
        self.see(Seen.STOPPED, source, key)
        await self.core.saved()
        await self.live.rest()


@pytest.fixture(name="desk")
async def _desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with live_core(tmp_path) as live, near_scheduler(live.core) as scheduler:
        yield Desk(live, scheduler)


# Which instance


async def test_a_move_from_the_wrong_node_says_where_the_instances_are(desk: Desk) -> None:
    """The operator need not look it up."""
    await desk.nodes(1)
    await desk.live.deploy(0, job_id="j")
    with pytest.raises(ConflictError, match=r"no instance of job j is on node 'n0': j/0 is REQUESTED") as caught:
        desk.mover.find("j", None, "n0")
    assert caught.value.field == "node_from"


async def test_the_instance_is_found_by_number_or_node(desk: Desk) -> None:
    """Where it is clear which one is meant; else it has to be said."""
    first, second = await desk.nodes(2)
    await desk.live.run(first, 0, demand=HALF)
    await desk.live.run(second, 1, demand=HALF)
    assert desk.mover.find("web", None, "n1").key.number == 1
    assert desk.mover.find("web", 0, "").key.number == 0
    with pytest.raises(InvalidInputError, match="give one of 0, 1"):
        desk.mover.find("web", None, "")
    for job_id, number, field in (("api", None, "job"), ("web", 7, "instance_number")):
        with pytest.raises(NotFoundError) as caught:
            desk.mover.find(job_id, number, "")
        assert caught.value.field == field


# What a move does


async def test_a_move_reserves_and_starts_before_it_stops(desk: Desk) -> None:
    """The successor is placed durably and told to start; the old copy is advised and runs on."""
    source, target = await desk.nodes(2)
    await desk.live.run(source, 0, demand=HALF)
    await desk.live.rest()
    desk.live.broker.published.clear()
    moving = await desk.move("n1")
    await desk.live.rest()
    assert moving.successor is not None
    assert (moving.state, moving.node_id, moving.successor.node_id) == (S.RUNNING, source, target)
    assert desk.core.saved_records.instances[KEY] == moving
    assert desk.core.state.allocated[target].cpu_millicores == 500
    commands = [(topic, b'"command":"move"' in body) for topic, _, body in desk.live.broker.published]
    assert sorted(commands) == sorted([(target, False), (source, True)])


async def test_a_move_without_a_target_finds_one(desk: Desk) -> None:
    """Another node than its own, and none of those that are ruled out."""
    source, other, further = await desk.nodes(3)
    await desk.live.run(source, 0, demand=HALF)
    moving = await desk.move(excluded=[other])
    assert moving.successor is not None
    assert moving.successor.node_id == further


async def test_a_repeated_call_finds_its_move_done(desk: Desk) -> None:
    """Under way or over: what is on the target, or going there, was moved."""
    source, target = await desk.nodes(2)
    await desk.live.run(source, 0, demand=HALF)
    assert desk.mover.already_moved("web", 0, "n0", "n1") is None
    await desk.move("n1")
    assert desk.mover.already_moved("web", 0, "n0", "n1") is desk.live.instance(KEY)
    await desk.moved(source, target)
    assert desk.mover.already_moved("web", None, "n0", "n1") is desk.live.instance(KEY)
    assert desk.mover.already_moved("web", 1, "n0", "n1") is None
    assert desk.mover.already_moved("web", 0, "n1", "n0") is None


async def test_a_successor_is_newer_though_the_clock_was_set_back(desk: Desk) -> None:
    """Its node tells the copies apart by their generations, and takes the greater one for the newer."""
    source, _ = await desk.nodes(2)
    [running] = await desk.live.run(source, 0, demand=HALF)
    desk.live.clock.at_ms -= 3_600_000
    moving = await desk.move("n1")
    assert moving.successor is not None
    assert moving.successor.generation == moving.generation == running.generation + 1


async def test_a_second_move_finds_the_room_that_the_first_one_left(desk: Desk) -> None:
    """There and back, on nodes with room for exactly one: a promise ends with its move."""
    first, second = await desk.nodes(2, cpu=500)
    await desk.live.run(first, 0, demand=HALF)
    for source, target in ((first, second), (second, first), (first, second)):
        await desk.move(target)
        await desk.moved(source, target)
        assert (desk.live.instance(KEY).node_id, desk.live.instance(KEY).retiring) == (target, None)


async def test_a_move_that_fails_gives_its_promise_back(desk: Desk) -> None:
    """The target was taken while the scheduler thought: the next one finds what is free then."""
    source, target = await desk.nodes(2, cpu=500)
    await desk.live.run(source, 0, demand=HALF)
    desk.core.state.set_cordoned(target, True, "operator", 1)
    await desk.core.saved()
    desk.core.state.set_cordoned(target, False, "operator", 1)
    desk.scheduler.answering.clear()
    await desk.core.saved()
    moving = asyncio.create_task(desk.move(target))
    await wait_until_async(lambda: not desk.scheduler.is_idle)
    desk.core.state.set_cordoned(target, True, "operator", 1)
    desk.scheduler.answering.set()
    with pytest.raises(ConflictError, match="the target was taken meanwhile: the node is cordoned"):
        await moving
    desk.core.state.set_cordoned(target, False, "operator", 1)
    await desk.core.saved()
    assert (await desk.move(target)).successor is not None


# What stands in its way


async def test_only_what_runs_is_moved(desk: Desk) -> None:
    """And only once at a time."""
    source, *_ = await desk.nodes(3)
    await desk.live.deploy(0, demand=HALF)
    with pytest.raises(ConflictError, match="is REQUESTED: only a RUNNING instance is moved"):
        await desk.move("n1")
    await desk.live.run(source, 1, demand=HALF)
    await desk.move("n1", InstanceKey("web", 1))
    with pytest.raises(ConflictError, match="is being moved to"):
        await desk.move("n2", InstanceKey("web", 1))


@pytest.mark.parametrize("facts", [{"one_shot": True}, {"restart_policy": RestartPolicy.NEVER}])
async def test_what_runs_once_is_not_moved(desk: Desk, facts: dict[str, Any]) -> None:
    """It would run twice."""
    source, _ = await desk.nodes(2)
    await desk.live.run(source, 0, demand=HALF, **facts)
    with pytest.raises(ConflictError, match="runs once"):
        await desk.move("n1")


async def test_a_move_to_where_it_is_is_refused(desk: Desk) -> None:
    """There is nothing to do."""
    source, _ = await desk.nodes(2)
    await desk.live.run(source, 0, demand=HALF)
    with pytest.raises(ConflictError, match="is on that node already"):
        await desk.move("n0")


async def test_a_target_without_room_is_refused_with_the_reason(desk: Desk) -> None:
    """By name, or where no other node is left."""
    source, target_id = await desk.nodes(2, cpu=500)
    await desk.live.run(source, 0, demand=HALF)
    await desk.live.run(target_id, 1, 2, demand=Resources(cpu_millicores=250))
    for target in ("n1", ""):
        with pytest.raises(ConflictError, match=r"no node can take web/0: .*too little cpu free") as caught:
            await desk.move(target)
        assert caught.value.field == "node_to"


async def test_capacity_is_checked_again_when_the_scheduler_has_answered(desk: Desk) -> None:
    """Somebody else took it meanwhile: no node promises more than it has."""
    source, target = await desk.nodes(2, cpu=500)
    await desk.live.run(source, 0, demand=HALF)
    desk.scheduler.answering.clear()
    moving = asyncio.create_task(desk.move(target))
    await wait_until_async(lambda: not desk.scheduler.is_idle)
    await desk.live.run(target, 1, demand=HALF)
    desk.scheduler.answering.set()
    with pytest.raises(ConflictError, match="taken meanwhile: the node has not enough cpu"):
        await moving
    assert desk.live.instance(KEY).successor is None


@pytest.mark.parametrize(("change", "words"), [("delete", "was deleted meanwhile"), ("fail", "is FAILED")])
async def test_what_changed_meanwhile_is_not_moved(desk: Desk, change: str, words: str) -> None:
    """The instance is judged again as well; what was promised to it is there for the next one."""
    source = (await desk.live.add("n0")).id
    target = (await desk.live.add("n1", cpu=500)).id
    await desk.live.rest()
    await desk.live.run(source, 0, demand=HALF)
    desk.scheduler.answering.clear()
    moving = asyncio.create_task(desk.move(target))
    await wait_until_async(lambda: not desk.scheduler.is_idle)
    if change == "delete":
        desk.core.state.delete([KEY], "root", desk.live.clock.at_ms)
    else:
        desk.see(Seen.FAILED, source)
    await desk.core.saved()
    desk.scheduler.answering.set()
    with pytest.raises(ConflictError, match=words):
        await moving
    await desk.live.run(source, 1, demand=HALF)
    assert (await desk.move(target, InstanceKey("web", 1))).successor is not None


async def test_nodes_that_never_report_are_no_ends_of_a_move(desk: Desk) -> None:
    """It could not be seen to work: refused by name, and never chosen."""
    source, _ = await desk.nodes(2, cpu=500)
    await desk.live.run(source, 0, demand=HALF)
    mute = await desk.live.add("mute", dialect=Dialect.SEED)
    desk.core.state.set_cordoned(desk.core.state.get_node("n1").id, True, "operator", 1)
    await desk.core.saved()
    await desk.live.rest()
    with pytest.raises(ConflictError, match="node mute never reported a state") as caught:
        await desk.move("mute")
    assert caught.value.field == "node_to"
    with pytest.raises(ConflictError, match=r"of a kind that cannot take it|of kinds that cannot take it"):
        await desk.move()
    await desk.live.run(mute.id, 1, demand=HALF)
    with pytest.raises(ConflictError, match="node mute never reported a state") as caught:
        await desk.move("n0", InstanceKey("web", 1))
    assert caught.value.field == "node_from"


@pytest.mark.parametrize(("dialect", "is_refused"), [(Dialect.ENGINE_A, True), (Dialect.SEED, False)])
async def test_an_engine_from_which_it_just_moved_away_does_not_get_it_back_at_once(
    desk: Desk, dialect: Dialect, is_refused: bool
) -> None:
    """Its container may still be there: refused by name, else not chosen; the documented dialect obeys in order."""
    ends = [await desk.live.add(f"n{number}", dialect=dialect) for number in range(2)]
    for node in ends:
        desk.core.state.put_node(replace(node, has_reported=True))
    source, target = (node.id for node in ends)
    await desk.live.run(source, 0, demand=HALF)
    await desk.move(target)
    await desk.moved(source, target)
    with pytest.raises(ConflictError) as caught:
        await desk.move()
    assert caught.value.field == "node_to"
    if is_refused:
        with pytest.raises(ConflictError, match="an older copy of it may still be there"):
            await desk.move(source)
        desk.live.clock.at_ms += desk.core.state.policy.refence_ms
    assert (await desk.move(source)).successor is not None


async def test_a_move_that_could_not_be_saved_did_not_begin(desk: Desk) -> None:
    """Nothing is reserved, nothing is told to anybody, and it can be asked for again."""
    source, target = await desk.nodes(2)
    await desk.live.run(source, 0, demand=HALF)
    await desk.live.rest()
    desk.live.broker.published.clear()
    await desk.live.refuses(desk.move(target))
    assert desk.live.instance(KEY).successor is None
    assert not desk.core.state.on_node[target]
    assert desk.live.broker.published == []
    assert (await desk.move(target)).successor is not None


# Live


@pytest.mark.parametrize(
    ("source", "target", "facts", "is_live"),
    [
        ({}, {}, {}, True),
        ({}, {"architecture": "arm64"}, {}, False),
        ({}, {}, {"technology": "docker"}, False),
        ({}, {}, {"volumes": (Volume(id="v"),)}, False),
        ({}, {"dialect": Dialect.SEED}, {}, False),
    ],
)
async def test_a_guest_is_handed_over_only_between_alike_workers_of_ours(
    desk: Desk, source: dict[str, Any], target: dict[str, Any], facts: dict[str, Any], is_live: bool
) -> None:
    """A unikernel without storage, from one architecture to the same; all else starts anew."""
    both = {"technologies": ("docker", "unikernel"), "architecture": "amd64"}
    first = await desk.live.add("n0", **{**both, **source})
    second = await desk.live.add("n1", **{**both, **target})
    desk.core.state.put_node(replace(second, has_reported=True))
    await desk.core.saved()
    await desk.live.run(first.id, 0, **{"technology": "unikernel", "demand": HALF, **facts})
    moving = await desk.move("n1")
    assert moving.successor is not None
    assert moving.successor.is_live is is_live
    assert desk.live.told(Channel.CONTROLS)
