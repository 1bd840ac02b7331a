"""What nodes send, applied to the state: telemetry shows load, states and inventories advance instances.

Telemetry waits for nothing: while the store is away it is measured and heard as ever. States wait for the store, and
are acknowledged when they are saved. Whatever is wrong with a message costs that message only: it is counted, and
logged once per kind of fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Final

import orjson

from cluster.errors import ClusterError
from cluster.nodes import Dialect
from cluster.payloads import parse_information, parse_object, parse_resources, parse_state
from cluster.process import LOG
from cluster.topics import Channel
from manager.core import Core
from manager.detector import Detector
from manager.domain import engines, lists
from manager.domain.effects import Effect
from manager.domain.model import InstanceKey, Node, NodeLive, NodeState, Usage
from manager.domain.observation import Findings, on_resources, on_state
from manager.mqtt.broker import Broker
from manager.mqtt.inbox import Incoming

BATCH: Final = 200
OTHERS_AT_ONCE: Final = 500  # each time it is waited until what they change is saved
CHANGES_AT_ONCE: Final = 100
BYTES_AT_ONCE: Final = 128 * 1024  # lists are long, and take as long as they are
UNKNOWN_NODE_PERIOD_S: Final = 30.0
MAX_ORPHANS: Final = 1000
SUBSCRIBING_S: Final = 0.5  # engines deliver what they stored before they subscribe
_MEASURES: Final = ("cpu_percent", "memory_percent", "memory_free_bytes", "gpus")


class Intake:
    """Drains the inbox, batch by batch, so that the loop stays free for calls."""

    def __init__(self, core: Core, broker: Broker, detector: Detector) -> None:
        self._core = core
        self._broker = broker
        self._detector = detector
        self._has_telemetry = asyncio.Event()
        self._has_others = asyncio.Event()
        self._faults: set[str] = set()
        self._told: dict[str, float] = {}
        self._to_send: list[Effect] = []
        self._held_since_s = inf
        core.applied_until_s = self.applied_until_s

    def applied_until_s(self) -> float:
        """Up to when whatever arrived of states and lists has been applied: what came since waits for a slow save."""
        return min(self._core.clock.mono_s(), self._held_since_s, self._broker.inbox.others_since_s)

    def heard_until_s(self) -> float:
        """Up to when everything that nodes said of their instances was received, applied and saved."""
        return min(self._core.hearing.as_of_s, self.applied_until_s())

    def wake(self) -> None:
        """Messages wait."""
        self._has_telemetry.set()
        self._has_others.set()

    # Telemetry

    async def take_telemetry_forever(self) -> None:
        """Handle telemetry until cancelled."""
        inbox = self._broker.inbox
        while True:
            await self._has_telemetry.wait()
            self._has_telemetry.clear()
            while inbox.has_telemetry:
                await self._take_telemetry(inbox.take_telemetry(BATCH))
                await asyncio.sleep(0)

    async def _take_telemetry(self, messages: list[Incoming]) -> None:
        """A node that comes back changes what is on it: many of them come in portions."""
        for message in messages:
            try:
                self._on_information(message)
            except ClusterError as error:
                self._fault(message, error)
            except Exception as error:  # noqa: BLE001 - anybody may send anything: no message ends the manager
                self._stumble(message, error)
            if len(self._core.state.dirty.instances) >= CHANGES_AT_ONCE:
                self._core.commit()
                await asyncio.sleep(0)
        self._core.counters["mqtt_telemetry"] += len(messages)
        if self._core.has_changes:
            self._core.commit()

    def _on_information(self, message: Incoming) -> None:
        node = self._node(message)
        if node is None:
            return
        telemetry = parse_information(message.payload, node.registration.dialect)
        live = self._core.state.live[node.id]
        before = _judged_load(node, live)
        for name in _MEASURES:
            if (value := getattr(telemetry, name)) is not None:
                setattr(live, name, value)
        live.beat = telemetry.beat
        live.heartbeat_at_ms = self._core.now_ms()
        if _judged_load(node, live) != before:
            self._core.touch_views([node.id])
        if not self._core.writer.failure:
            self._note_telemetry(node, telemetry.source, message)

    def _note_telemetry(self, node: Node, source: str, message: Incoming) -> None:
        """What is to be saved because of it, which it seldom is."""
        state = self._core.state
        if node.registration.dialect.is_engine:
            engines.on_telemetry(state, node, source, self._core.now_ms(), message.mono_s)
            node = state.nodes[node.id]
        elif node.registration.dialect is Dialect.SEED:
            self._detector.heard_after_outage(node)
        if node.topic_id != message.topic_id:
            state.put_node(replace(node, topic_id=message.topic_id))
        self._see_alive(node.id, message)

    def _see_alive(self, node_id: str, message: Incoming) -> None:
        """A node that was not READY sent something: whatever it is, the node is there."""
        state, node = self._core.state, self._core.state.nodes[node_id]
        if state.state_of(node) is not NodeState.READY:
            heard_s = self._core.last_heard_s(node)
            if heard_s is not None and heard_s >= message.mono_s:
                self._detector.heard(node)

    def _node(self, message: Incoming) -> Node | None:
        node = self._core.state.node_of_topic(message.topic_id)
        if node is None:
            self._core.counters["mqtt_unknown_node"] += 1
            self._core.hearing.forget([message.topic_id])  # whoever makes ids up fills no memory
            self._tell_unknown(message.topic_id)
        return node

    def _tell_unknown(self, topic_id: str) -> None:
        now = self._core.clock.mono_s()
        if now - self._told.get(topic_id, -UNKNOWN_NODE_PERIOD_S) < UNKNOWN_NODE_PERIOD_S:
            return
        if len(self._told) > MAX_ORPHANS:
            self._told.clear()
        self._told[topic_id] = now
        cause = "messages of a node that never registered here: restart its engine, so that it registers"
        LOG.warning(cause, node_id=topic_id)
        self._core.tell(f"node:{topic_id}", "unknown_node", cause, node_id=topic_id)
        body = orjson.dumps({"message": "Node not registered to the cluster"})
        self._broker.publish(topic_id, Channel.CONTROL_ERROR, body)

    # States and lists

    async def take_others_forever(self) -> None:
        """Handle everything else until cancelled; while the store does not work it waits where it is bounded."""
        inbox = self._broker.inbox
        while True:
            await self._has_others.wait()
            self._has_others.clear()
            while inbox.has_others:
                await self._core.writer.working.wait()
                await self._take_others(inbox.take_others(OTHERS_AT_ONCE))
                await asyncio.sleep(0)

    async def _take_others(self, messages: list[Incoming]) -> None:
        """Apply, save, send, acknowledge. A state that the store refused is applied again; newer lists will come."""
        self._held_since_s = min((message.mono_s for message in messages), default=inf)
        while messages:
            await self._core.writer.working.wait()
            if await self._apply(messages):
                break
            messages = [message for message in messages if message.channel is Channel.STATE]
        for message in messages:
            self._broker.acknowledge(message)
        self._held_since_s = inf

    async def _apply(self, messages: list[Incoming]) -> bool:
        """Whether what follows from these messages is durable. Long lists are applied in portions, in order."""
        waiting: list[tuple[asyncio.Future[None] | None, list[Effect]]] = []
        heard_before = self._last_sequences(messages)
        try:
            for portion in _portions(messages):
                if waiting:
                    await asyncio.sleep(0)
                    self._core.require_store()
                waiting.append(self._apply_portion(portion))
            for saved, to_send in waiting:
                if saved is not None:
                    await asyncio.shield(saved)
                for effect in to_send:
                    self._core.dispatcher.send_once(effect)
        except ClusterError:
            for live, sequence in heard_before:
                live.last_sequence = sequence  # what is applied again is still news
            return False
        return True

    def _apply_portion(self, messages: list[Incoming]) -> tuple[asyncio.Future[None] | None, list[Effect]]:
        """The save of what follows from these messages, if anything does, and what is to be sent after it."""
        self._to_send = []
        touched: set[InstanceKey] = set()
        for message in messages:
            try:
                self._on_other(message, touched)
            except ClusterError as error:
                self._fault(message, error)
            except Exception as error:  # noqa: BLE001 - what is not acknowledged would come again and again
                self._stumble(message, error)
        touched |= {effect.key for effect in self._to_send}
        is_saved = bool(touched or self._core.state.dirty)
        if not (is_saved or self._core.has_changes):
            return None, self._to_send
        # Nothing else is heard of until it is saved, so it does not queue behind what is lost or placed anew meanwhile.
        saved = self._core.commit(awaited=touched, is_urgent=True)
        return saved if is_saved else None, self._to_send

    def _last_sequences(self, messages: list[Incoming]) -> list[tuple[NodeLive, int]]:
        state = self._core.state
        nodes = {node.id for message in messages if (node := state.node_of_topic(message.topic_id))}
        return [(state.live[node_id], state.live[node_id].last_sequence) for node_id in nodes]

    def _on_other(self, message: Incoming, touched: set[InstanceKey]) -> None:
        node = self._node(message)
        if node is None:
            return
        if message.channel is Channel.CONNECTION:
            self._on_connection(node, message)
            return
        self._see_alive(node.id, message)
        node = self._core.state.nodes[node.id]
        if message.channel is Channel.STATE:
            self._on_state(node, message, touched)
        elif message.channel is Channel.RESOURCES:
            self._on_resources(node, message)

    def _on_state(self, node: Node, message: Incoming, touched: set[InstanceKey]) -> None:
        state = self._core.state
        judge = engines.on_state if node.registration.dialect.is_engine else on_state
        report = parse_state(message.payload)
        key = InstanceKey(report.job_id, report.number) if report.job_id else None
        key = key or state.find_reported(node.id, report.job_name, report.number)
        if key is not None:
            touched.add(key)
        self._follow(node, judge(state, node, report, self._core.now_ms()))

    def _on_resources(self, node: Node, message: Incoming) -> None:
        state, now_ms = self._core.state, self._core.now_ms()
        resources = parse_resources(message.payload)
        if node.registration.dialect.is_engine:
            self._follow(node, lists.on_resources(state, node, resources, now_ms, message.mono_s))
            self._forget_orphans(node)
        else:
            self._core.orphans.pop(node.id, None)
            self._follow(node, on_resources(state, node, resources, now_ms))

    def _forget_orphans(self, node: Node) -> None:
        """Every list of an engine is about one runtime: an orphan is gone when all of them lack it, or when placed."""
        state = self._core.state
        listed = state.live[node.id].listing.listed
        kept = {
            name: entry
            for name, entry in self._core.orphans.get(node.id, {}).items()
            if name in listed and state.find_reported(node.id, *name) is None
        }
        self._core.orphans[node.id] = kept

    def _on_connection(self, node: Node, message: Incoming) -> None:
        """A session begins, or ended: by a goodbye, or by the will that the broker keeps."""
        body = parse_object(message.payload)
        live = self._core.state.live[node.id]
        if body.get("online") is True:
            self._core.hearing.heard(message.topic_id, message.mono_s)
            self._see_alive(node.id, message)
        elif body.get("online") is False:
            live.will_mono_s, live.has_left = message.mono_s, body.get("stopped") is True
            self._core.leases.look(node.id)

    def _follow(self, node: Node, findings: Findings) -> None:
        core = self._core
        core.counters["reports_of_unknown_instances"] += findings.unknown_count
        core.counters["stale_copies_deleted"] += len(findings.stale)
        for key, entry in findings.usages.items():
            if (usage := core.usages.get(key)) is None:
                usage = core.usages[key] = Usage()
            usage.take(entry)
        self._to_send += [*findings.stale, *findings.hand_overs]
        for repeat in findings.repeats:
            core.dispatcher.repeat(repeat.verb, repeat.key, node.id, repeat.after_s)
        if findings.has_settled:
            back_since_s = core.state.live[node.id].listing.back_since_s
            core.dispatcher.repeat_for(node.id, back_since_s + SUBSCRIBING_S)
        for entry in findings.orphans:
            orphans = core.orphans.setdefault(node.id, {})
            if len(orphans) < MAX_ORPHANS:
                orphans[entry.job_name, entry.number] = entry

    def _fault(self, message: Incoming, error: ClusterError) -> None:
        kind = f"{message.channel}:{error.reason}:{error.field}"
        self._core.counters["mqtt_malformed"] += 1
        if kind not in self._faults:
            self._faults.add(kind)
            LOG.warning(
                "mqtt message refused, further ones of this kind are only counted",
                topic_id=message.topic_id,
                channel=message.channel,
                reason=error.detail,
            )

    def _stumble(self, message: Incoming, error: Exception) -> None:
        """A mistake of ours costs the message that brought it to light, and no other."""
        kind = f"{message.channel}:{type(error).__name__}"
        self._core.counters["mqtt_stumbled"] += 1
        if kind not in self._faults:
            self._faults.add(kind)
            LOG.exception("mqtt message stumbled over", topic_id=message.topic_id, channel=message.channel)


def _portions(messages: list[Incoming]) -> Iterator[list[Incoming]]:
    """In order; each but the last of about BYTES_AT_ONCE."""
    portion: list[Incoming] = []
    size = 0
    for message in messages:
        portion.append(message)
        size += len(message.payload)
        if size >= BYTES_AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _judged_load(node: Node, live: NodeLive) -> tuple[int, int] | None:
    """What a node of unknown capacity is judged by, in whole percents: less is not worth telling the scheduler."""
    if node.capacity.cpu_millicores is not None and node.capacity.memory_bytes is not None:
        return None
    return int(live.cpu_percent or 0), int(live.memory_percent or 0)
