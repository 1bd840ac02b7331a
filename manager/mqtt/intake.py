"""What nodes send, applied to the state: telemetry renews leases, states and inventories advance instances.

Whatever is wrong with a message costs that message only: it is counted, and logged once per kind of fault.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

import orjson

from cluster.errors import ClusterError
from cluster.payloads import parse_information, parse_object, parse_resources, parse_state
from cluster.process import LOG
from cluster.topics import Channel
from manager.core import Core, now_ms
from manager.domain import engines, lists
from manager.domain.effects import Effect
from manager.domain.model import Event, Node, NodeLive, NodeState
from manager.domain.observation import Findings, came_ready, on_resources, on_state
from manager.mqtt.bridge import Bridge, Incoming

BATCH: Final = 500
UNKNOWN_NODE_PERIOD_S: Final = 30.0
MAX_ORPHANS: Final = 1000
SUBSCRIBING_S: Final = 0.5  # engines deliver what they stored before they subscribe


class Intake:
    """Drains the bridge, batch by batch, so that the loop stays free for calls."""

    def __init__(self, core: Core, bridge: Bridge) -> None:
        self._core = core
        self._bridge = bridge
        self._waiting = asyncio.Event()
        self._faults: set[str] = set()
        self._told: dict[str, float] = {}
        self._to_send: list[Effect] = []
        bridge.on_ready = self._waiting.set

    async def run(self) -> None:
        """Handle messages until cancelled."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._bridge.has_waiting:
                telemetry, others = self._bridge.take(BATCH)
                self._take_telemetry(telemetry)
                if others:
                    await self._take_others(others)
                await asyncio.sleep(0)

    # Telemetry

    def _take_telemetry(self, messages: list[Incoming]) -> None:
        for message in messages:
            try:
                self._on_information(message)
            except ClusterError as error:
                self._fault(message, error)
            except Exception as error:  # noqa: BLE001 - anybody may send anything: no message ends the manager
                self._stumble(message, error)
        self._core.counters["mqtt_telemetry"] += len(messages)
        if self._core.state.dirty:
            self._core.commit()

    def _on_information(self, message: Incoming) -> None:
        node = self._node(message)
        if node is None:
            return
        telemetry = parse_information(message.payload, node.registration.dialect)
        live = self._core.state.live[node.id]
        before = _judged_load(node, live)
        for name in ("cpu_percent", "memory_percent", "memory_free_bytes", "gpus"):
            if (value := getattr(telemetry, name)) is not None:
                setattr(live, name, value)
        live.beat = telemetry.beat
        if _judged_load(node, live) != before:
            self._core.touch_views([node.id])
        if node.registration.dialect.is_engine:
            engines.on_telemetry(self._core.state, node, telemetry.source, now_ms(), message.mono_s)
            node = self._core.state.nodes[node.id]
        self._heard(node, live, message)

    def _heard(self, node: Node, live: NodeLive, message: Incoming) -> None:
        live.heartbeat_mono_s = message.mono_s
        live.heartbeat_at_ms = now_ms()
        live.will_mono_s = None
        if node.topic_id != message.topic_id:
            self._core.state.put_node(replace(node, topic_id=message.topic_id))
        if node.state is not NodeState.READY:
            self._came_ready(node)

    def _came_ready(self, node: Node) -> None:
        core = self._core
        repeated = came_ready(core.state, node, now_ms())
        core.dispatcher.repeat_for(node.id)
        for effect in repeated:
            core.dispatcher.send_once(effect)
        core.retry_pending()

    def _node(self, message: Incoming) -> Node | None:
        node = self._core.state.node_of_topic(message.topic_id)
        if node is None:
            self._core.counters["mqtt_unknown_node"] += 1
            self._tell_unknown(message.topic_id)
        return node

    def _tell_unknown(self, topic_id: str) -> None:
        now = time.monotonic()
        if now - self._told.get(topic_id, -UNKNOWN_NODE_PERIOD_S) < UNKNOWN_NODE_PERIOD_S:
            return
        if len(self._told) > MAX_ORPHANS:
            self._told.clear()
        self._told[topic_id] = now
        cause = "messages of a node that never registered here: restart its engine, so that it registers"
        LOG.warning(cause, node_id=topic_id)
        event = Event(at_ms=now_ms(), actor="manager", kind="unknown_node", state="", cause=cause, node_id=topic_id)
        self._core.history.extend([(f"node:{topic_id}", event)])
        body = orjson.dumps({"message": "Node not registered to the cluster"})
        self._bridge.publish(topic_id, Channel.CONTROL_ERROR, body)

    # States and lists

    async def _take_others(self, messages: list[Incoming]) -> None:
        """Apply, save, send, acknowledge; while the store does not work everything waits here in order."""
        while True:
            await self._core.writer.working.wait()
            self._to_send.clear()
            for message in messages:
                try:
                    self._on_other(message)
                except ClusterError as error:
                    self._fault(message, error)
                except Exception as error:  # noqa: BLE001 - what is not acknowledged would come again and again
                    self._stumble(message, error)
            try:
                await self._core.saved()
            except ClusterError:
                continue
            break
        for effect in self._to_send:
            self._core.dispatcher.send_once(effect)
        for message in messages:
            self._bridge.acknowledge(message)

    def _on_other(self, message: Incoming) -> None:
        node = self._node(message)
        if node is None:
            return
        state = self._core.state
        if message.channel is Channel.STATE:
            judge = engines.on_state if node.registration.dialect.is_engine else on_state
            self._follow(node, judge(state, node, parse_state(message.payload), now_ms()))
        elif message.channel is Channel.RESOURCES:
            resources = parse_resources(message.payload)
            if node.registration.dialect.is_engine:
                self._follow(node, lists.on_resources(state, node, resources, now_ms(), message.mono_s))
                self._forget_orphans(node)
            else:
                self._core.orphans.pop(node.id, None)
                self._follow(node, on_resources(state, node, resources, now_ms()))
        elif message.channel is Channel.CONNECTION:
            self._on_connection(node, message)

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
        if parse_object(message.payload).get("online") is not False:
            return
        live = self._core.state.live[node.id]
        live.will_mono_s = message.mono_s

    def _follow(self, node: Node, findings: Findings) -> None:
        core = self._core
        core.counters["reports_of_unknown_instances"] += findings.unknown_count
        core.counters["stale_copies_deleted"] += len(findings.stale)
        core.usages.update(findings.usages)
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


def _judged_load(node: Node, live: NodeLive) -> tuple[int, int] | None:
    """What a node of unknown capacity is judged by, in whole percents: less is not worth telling the scheduler."""
    if node.capacity.cpu_millicores is not None and node.capacity.memory_bytes is not None:
        return None
    return int(live.cpu_percent or 0), int(live.memory_percent or 0)
