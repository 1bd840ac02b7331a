"""What nodes send, on the real core: hearing waits for nothing, and nothing that matters is lost to a failing store."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.topics import Channel
from manager.domain.model import InstanceKey, InstanceState, Node, NodeState
from manager.domain.reconciliation import lose_node
from manager.mqtt import intake
from manager.mqtt.inbox import Incoming
from manager.mqtt.intake import Intake
from testbed.live_core import LiveCore, live_core
from testbed.waiting import wait_until_async

S = InstanceState
KEY = InstanceKey("web", 0)


class Desk:
    """An intake at work, and nodes that a test speaks for."""

    def __init__(self, live: LiveCore) -> None:
        self.live = live
        self.core = live.core
        self.intake = Intake(live.core, live.broker, live.detector)
        self.last = 0

    def send(self, topic_id: str, channel: Channel, **body: Any) -> Incoming:
        """A message arrives, and is noted where it is received."""
        self.last += 1
        now_s = self.live.clock.mono_s()
        if channel is not Channel.CONNECTION:
            self.core.hearing.heard(topic_id, now_s)
        message = Incoming(topic_id, channel, orjson.dumps(body), now_s, self.last, 1)
        self.live.broker.inbox.put(message)
        self.intake.wake()
        return message

    def state(self, node: Node, status: str, **facts: Any) -> Incoming:
        """A worker tells of its copy."""
        placed = self.live.instance(KEY)
        body = {"job_id": KEY.job_id, "sname": placed.job_name, "instance": KEY.number, "status": status}
        return self.send(node.id, Channel.STATE, **{**body, "generation": placed.generation, **facts})

    async def quiet(self) -> None:
        """Wait until everything is handled."""
        inbox = self.live.broker.inbox
        await wait_until_async(lambda: not (inbox.has_telemetry or inbox.has_others))
        await self.live.rest()


@pytest.fixture(name="desk")
async def _desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with live_core(tmp_path) as live:
        desk = Desk(live)
        running = [
            asyncio.create_task(work)
            for work in (desk.intake.take_telemetry_forever(), desk.intake.take_others_forever())
        ]
        try:
            yield desk
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def _placed(desk: Desk) -> Node:
    node = await desk.live.add("n0")
    await desk.live.deploy(0)
    assert desk.core.state.place(KEY, node.id, desk.live.clock.at_ms) == ""
    await desk.core.saved()
    await desk.live.rest()
    return node


async def test_a_state_is_acknowledged_when_it_is_saved(desk: Desk) -> None:
    """Not before: the broker keeps it for us until then."""
    node = await _placed(desk)
    desk.live.store.hold()
    message = desk.state(node, "RUNNING")
    await wait_until_async(lambda: desk.live.instance(KEY).state is S.RUNNING)
    await asyncio.sleep(0.02)
    assert desk.live.broker.acknowledged == []
    desk.live.store.let_go()
    await desk.quiet()
    assert desk.live.broker.acknowledged == [message]
    assert desk.core.saved_records.instances[KEY].state is S.RUNNING


async def test_an_answer_that_waits_for_a_slow_save_is_not_late(desk: Desk) -> None:
    """Nobody is judged by what has not been read yet; where all of it is read, and no answer among it, it is late."""
    node = await _placed(desk)
    live = desk.live
    live.store.hold()
    desk.state(node, "STARTING")
    await wait_until_async(lambda: live.instance(KEY).state is S.STARTING)
    desk.state(node, "RUNNING")
    await asyncio.sleep(0.02)
    since_s = live.clock.mono_s()
    live.pass_time(live.core.policy.start_deadline_ms / 1000 + 1, node.id)
    assert desk.intake.applied_until_s() == since_s
    await live.reconciler._ring_alarms()
    assert live.instance(KEY).state is S.STARTING
    live.store.let_go()
    await desk.quiet()
    assert desk.intake.applied_until_s() == live.clock.mono_s()
    await live.reconciler._ring_alarms()
    assert live.instance(KEY).state is S.RUNNING


async def test_a_state_that_the_store_refused_is_applied_again(desk: Desk) -> None:
    """And acknowledged then; meanwhile it is neither shown nor lost."""
    node = await _placed(desk)
    desk.live.store.fault = "no space"
    message = desk.state(node, "RUNNING")
    await wait_until_async(lambda: desk.core.writer.failure)
    assert desk.live.instance(KEY).state is S.SCHEDULED
    assert desk.live.broker.acknowledged == []
    desk.live.store.fault = ""
    await wait_until_async(lambda: desk.live.broker.acknowledged == [message])
    assert desk.core.saved_records.instances[KEY].state is S.RUNNING


async def test_states_wait_in_order_while_the_store_is_away(desk: Desk) -> None:
    """What came first is applied first, and each once."""
    node = await _placed(desk)
    desk.live.store.fault = "no space"
    desk.core.put_setting("x", "y")
    await wait_until_async(lambda: desk.core.writer.failure)
    messages = [desk.state(node, status) for status in ("STARTING", "RUNNING", "FAILED")]
    await asyncio.sleep(0.05)
    assert desk.live.instance(KEY).state is S.SCHEDULED
    desk.live.store.fault = ""
    await wait_until_async(lambda: desk.live.broker.acknowledged == messages)
    kinds = desk.live.events("instance:web/0")
    assert kinds[-3:] == ["starting", "running", "failed"]


async def test_portions_of_a_batch_are_acknowledged_when_all_of_it_is_saved(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long lists are applied one after the other, in order, and the loop is free between them."""
    monkeypatch.setattr(intake, "BYTES_AT_ONCE", 1)
    node = await _placed(desk)
    desk.live.store.hold()
    messages = [desk.state(node, status) for status in ("STARTING", "RUNNING", "FAILED")]
    await wait_until_async(lambda: desk.live.instance(KEY).state is S.FAILED)
    await asyncio.sleep(0.02)
    assert desk.live.broker.acknowledged == []
    desk.live.store.let_go()
    await desk.quiet()
    assert desk.live.broker.acknowledged == messages
    assert desk.live.events("instance:web/0")[-3:] == ["starting", "running", "failed"]


async def test_a_batch_of_which_the_store_refused_a_part_is_applied_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and to the same end, whatever of it was saved before; acknowledged once."""
    monkeypatch.setattr(intake, "BYTES_AT_ONCE", 1)
    node = await _placed(desk)
    desk.live.store.writes_left = 1
    messages = [desk.state(node, status) for status in ("STARTING", "RUNNING", "FAILED")]
    await wait_until_async(lambda: desk.core.writer.failure)
    assert desk.live.broker.acknowledged == []
    assert desk.live.instance(KEY).state is not S.FAILED
    desk.live.store.fault = ""
    await wait_until_async(lambda: desk.live.broker.acknowledged == messages)
    assert desk.core.saved_records.instances[KEY].state is S.FAILED
    assert desk.live.events("instance:web/0")[-3:] == ["starting", "running", "failed"]


async def test_hearing_goes_on_while_the_store_is_away(desk: Desk) -> None:
    """Load, heartbeat and the newest beat are known all the time; nothing is changed that would have to be saved."""
    node = await desk.live.add("n0")
    desk.live.store.fault = "no space"
    desk.core.put_setting("x", "y")
    await wait_until_async(lambda: desk.core.writer.failure)
    before = desk.core.state.nodes[node.id]
    for cpu in (10, 90):
        desk.live.clock.pass_time(2)
        desk.send(node.id, Channel.INFORMATION, cpu=cpu, memory=5, beat=f"b{cpu}")
        await wait_until_async(lambda: not desk.live.broker.inbox.has_telemetry)
    live = desk.core.state.live[node.id]
    assert (live.cpu_percent, live.beat, live.heartbeat_at_ms) == (90, "b90", desk.live.clock.at_ms)
    assert desk.core.state.nodes[node.id] is before
    assert not desk.core.state.dirty
    desk.live.store.fault = ""
    await desk.core.writer.working.wait()


async def test_a_node_that_is_back_while_the_store_is_away_is_back_when_it_works(desk: Desk) -> None:
    """Its next word after that counts: it is READY, durably."""
    node = await desk.live.add("n0")
    desk.core.state.set_node_state(node.id, NodeState.DOWN, "it was silent", 1)
    await desk.core.saved()
    desk.live.store.fault = "no space"
    desk.core.put_setting("x", "y")
    await wait_until_async(lambda: desk.core.writer.failure)
    desk.send(node.id, Channel.INFORMATION, cpu=1, memory=1)
    await wait_until_async(lambda: not desk.live.broker.inbox.has_telemetry)
    assert desk.core.state.nodes[node.id].state is NodeState.DOWN
    desk.live.store.fault = ""
    await desk.core.writer.working.wait()
    desk.send(node.id, Channel.INFORMATION, cpu=1, memory=1)
    await desk.quiet()
    assert desk.core.saved_records.nodes[node.id].state is NodeState.READY


@pytest.mark.parametrize("channel", [Channel.INFORMATION, Channel.STATE, Channel.RESOURCES])
async def test_whatever_a_suspect_sends_takes_the_suspicion_back(desk: Desk, channel: Channel) -> None:
    """And the scheduler is told at once, though nothing has to be saved."""
    node = await _placed(desk)
    told: list[str] = []
    desk.core.listen_views(told.extend)
    desk.core.state.doubt(node.id, "it is late")
    desk.core.commit()
    assert told == [node.id]
    bodies: dict[Channel, dict[str, Any]] = {
        Channel.INFORMATION: {"cpu": 0, "memory": 0},
        Channel.STATE: {"job_id": "unknown", "sname": "x", "instance": 0, "status": "RUNNING", "generation": 1},
        Channel.RESOURCES: {"services": []},
    }
    desk.send(node.id, channel, **bodies[channel])
    await desk.quiet()
    assert desk.core.state.is_ready(node.id)
    assert told == [node.id] * 2


async def test_what_was_said_before_anybody_listened_is_no_sign_of_life(desk: Desk) -> None:
    """A state that the broker kept from whenever is applied, and its node is still late."""
    node = await _placed(desk)
    desk.core.state.doubt(node.id, "it is late")
    heard_s = desk.core.hearing.last_heard_s([node.id])
    assert heard_s is not None
    desk.live.clock.pass_time(100)
    message = desk.state(node, "RUNNING")
    desk.core.hearing._heard[node.id] = heard_s
    await desk.quiet()
    assert desk.live.broker.acknowledged == [message]
    assert desk.live.instance(KEY).state is S.RUNNING
    assert not desk.core.state.is_ready(node.id)


async def test_a_will_is_noted_and_a_new_session_takes_it_back(desk: Desk) -> None:
    """A session that ended is no machine that did; a worker that was stopped in order says so."""
    node = await desk.live.add("n0")
    live = desk.core.state.live[node.id]
    desk.live.clock.pass_time(1)
    desk.send(node.id, Channel.CONNECTION, online=False)
    await desk.quiet()
    assert (live.will_mono_s, live.has_left) == (desk.live.clock.at_s, False)
    desk.live.hear()
    desk.live.detector.sweep()
    assert not desk.core.state.is_ready(node.id)
    desk.live.clock.pass_time(1)
    desk.send(node.id, Channel.CONNECTION, online=True)
    await desk.quiet()
    assert desk.core.state.is_ready(node.id)
    desk.live.clock.pass_time(1)
    desk.send(node.id, Channel.CONNECTION, online=False, stopped=True)
    await desk.quiet()
    assert live.has_left


async def test_a_stranger_is_told_now_and_then(desk: Desk) -> None:
    """Whoever sends under an id that nobody registered is told how to come in, twice a minute and not each time."""
    for _ in range(20):
        desk.send("65f1a2b3c4d5e6f7a8b9c0ff", Channel.INFORMATION, cpu=1, memory=1)
        await desk.quiet()
        desk.live.clock.pass_time(2)
    assert desk.live.told(Channel.CONTROL_ERROR) == ["65f1a2b3c4d5e6f7a8b9c0ff"] * 2
    assert desk.core.counters["mqtt_unknown_node"] == 20
    assert desk.core.hearing.last_heard_s(["65f1a2b3c4d5e6f7a8b9c0ff"]) is None


@pytest.mark.parametrize("payload", [b"{", b"[]", b'"x"', b'{"status":"WRONG"}', b"\xff", b'{"sname":5}'])
async def test_what_cannot_be_read_is_acknowledged_and_counted(desk: Desk, payload: bytes) -> None:
    """It would come again and again; the next message is handled."""
    node = await _placed(desk)
    bad = Incoming(node.id, Channel.STATE, payload, desk.live.clock.at_s, 99, 1)
    desk.live.broker.inbox.put(bad)
    good = desk.state(node, "RUNNING")
    await desk.quiet()
    assert desk.live.broker.acknowledged == [bad, good]
    assert desk.core.counters["mqtt_malformed"] == 1
    assert desk.live.instance(KEY).state is S.RUNNING


async def test_a_stale_copy_is_deleted_after_what_makes_it_stale_is_saved(desk: Desk) -> None:
    """A command goes out only for what is durable: here the placement elsewhere that ends the older copy."""
    node = await _placed(desk)
    old = desk.live.instance(KEY).generation
    desk.core.state.set_node_state(node.id, NodeState.DOWN, "it was silent", 1)
    other = await desk.live.add("n1")
    lose_node(desk.core.state, node.id, desk.live.clock.at_ms)
    desk.live.clock.pass_time(1)
    desk.live.store.hold()
    assert desk.core.state.place(KEY, other.id, desk.live.clock.at_ms) == ""
    desk.core.commit()
    desk.live.broker.published.clear()
    desk.state(node, "RUNNING", generation=old)
    await asyncio.sleep(0.05)
    assert desk.live.broker.published == []
    desk.live.store.let_go()
    await desk.quiet()
    assert sorted(desk.live.told(Channel.CONTROLS)) == sorted([node.id, other.id])


# Last words


async def test_last_words_that_are_not_told_again_are_as_they_were(desk: Desk) -> None:
    """Workers say them when they change; those of an earlier copy are not taken for the present one's."""
    node = await _placed(desk)

    async def told(**facts: Any) -> str | None:
        generation = desk.live.instance(KEY).generation
        entry = {"job_id": KEY.job_id, "job_name": "web", "instance": 0, "generation": generation, "status": "RUNNING"}
        desk.send(node.id, Channel.RESOURCES, inventory=True, sequence=1, services=[{**entry, **facts}])
        await desk.quiet()
        return desk.core.usages[KEY].logs

    assert await told(logs="hello") == "hello"
    assert await told() == "hello"
    assert await told(logs="") == ""
    assert await told(logs="bye") == "bye"
    assert await told(generation=desk.live.instance(KEY).generation - 1) is None


async def test_what_nodes_said_is_heard_when_it_is_saved(desk: Desk) -> None:
    """Until then, and while it waits to be read, whoever waits for a confirmation cannot know that there is none."""
    node = await _placed(desk)
    assert desk.intake.heard_until_s() == desk.core.hearing.as_of_s
    desk.live.store.hold()
    said_s = desk.state(node, "RUNNING").mono_s
    await wait_until_async(lambda: desk.live.instance(KEY).state is S.RUNNING)
    desk.live.clock.pass_time(7)
    desk.live.hear(node.id)
    later_s = desk.state(node, "RUNNING", status_detail="more").mono_s
    assert (desk.intake.heard_until_s(), later_s) == (said_s, said_s + 7)
    desk.live.clock.pass_time(7)
    desk.live.hear(node.id)
    desk.live.store.let_go()
    await desk.quiet()
    assert desk.intake.heard_until_s() == desk.live.clock.mono_s()
