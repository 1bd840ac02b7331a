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
from cluster.nodes import Dialect
from cluster.payloads import (
    ResourceEntry,
    ResourceList,
    StateReport,
    parse_information,
    parse_object,
    parse_resources,
    parse_state,
)
from cluster.process import LOG
from cluster.topics import Channel
from manager.core import Core, now_ms
from manager.domain.effects import Effect, Verb
from manager.domain.events import NodeCameBack, Observed, Seen
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeLive, NodeState
from manager.mqtt.bridge import Bridge, Incoming
from manager.mqtt.workers import observed, seen_of

BATCH: Final = 500
UNKNOWN_NODE_PERIOD_S: Final = 30.0
MAX_ORPHANS: Final = 1000


class Intake:
    """Drains the bridge, batch by batch, so that the loop stays free for calls."""

    def __init__(self, core: Core, bridge: Bridge) -> None:
        self._core = core
        self._bridge = bridge
        self._waiting = asyncio.Event()
        self._faults: set[str] = set()
        self._told: dict[str, float] = {}
        self.orphans: dict[str, dict[tuple[str, int], ResourceEntry]] = {}
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
        self._core.counters["mqtt_telemetry"] += len(messages)
        if self._core.state.dirty:
            self._core.commit()

    def _on_information(self, message: Incoming) -> None:
        node = self._node(message)
        if node is None:
            return
        telemetry = parse_information(message.payload, node.registration.dialect)
        live = self._core.state.live[node.id]
        live.cpu_percent = telemetry.cpu_percent
        live.memory_percent = telemetry.memory_percent
        live.memory_free_bytes = telemetry.memory_free_bytes
        live.beat = telemetry.beat
        self._heard(node, live, message)

    def _heard(self, node: Node, live: NodeLive, message: Incoming) -> None:
        live.heartbeat_mono_s = message.mono_s
        live.heartbeat_at_ms = now_ms()
        live.is_will_received = False
        if node.topic_id != message.topic_id:
            self._core.state.put_node(replace(node, topic_id=message.topic_id))
        if node.state is not NodeState.READY:
            self._came_ready(node)

    def _came_ready(self, node: Node) -> None:
        core = self._core
        core.state.set_node_state(node.id, NodeState.READY, "its telemetry arrives", now_ms())
        if node.registration.dialect is Dialect.SEED:
            for key in tuple(core.state.on_node[node.id]):
                core.state.apply(key, NodeCameBack(node_id=node.id), now_ms())
        core.dispatcher.repeat_for(node.id)
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
        LOG.warning("message of an unknown node, it must register", node_id=topic_id)
        body = orjson.dumps({"message": "Node not registered to the cluster"})
        self._bridge.publish(topic_id, Channel.CONTROL_ERROR, body)

    # States and lists

    async def _take_others(self, messages: list[Incoming]) -> None:
        """Apply, save, acknowledge; while the store does not work everything waits here in order."""
        while True:
            await self._core.writer.working.wait()
            for message in messages:
                try:
                    self._on_other(message)
                except ClusterError as error:
                    self._fault(message, error)
            try:
                await self._core.saved()
            except ClusterError:
                continue
            break
        for message in messages:
            self._bridge.acknowledge(message)

    def _on_other(self, message: Incoming) -> None:
        node = self._node(message)
        if node is None:
            return
        if message.channel is Channel.STATE:
            self._on_state(node, parse_state(message.payload))
        elif message.channel is Channel.RESOURCES:
            self._on_resources(node, parse_resources(message.payload))
        elif message.channel is Channel.CONNECTION:
            self._on_connection(node, message)

    def _on_connection(self, node: Node, message: Incoming) -> None:
        if parse_object(message.payload).get("online") is not False:
            return
        live = self._core.state.live[node.id]
        live.is_will_received = True
        live.heartbeat_mono_s = message.mono_s

    def _on_state(self, node: Node, report: StateReport) -> None:
        live = self._core.state.live[node.id]
        if report.sequence is not None:
            live.last_sequence = report.sequence
        event = observed(node, report)
        if not node.has_reported:
            self._core.state.put_node(replace(node, has_reported=True))
        self._observe(node, report, event)

    def _observe(self, node: Node, report: StateReport | ResourceEntry, event: Observed) -> None:
        key = self._key_of(node, report)
        instance = self._core.state.instances.get(key) if key else None
        if instance is None or key is None:
            self._keep_orphan(node, report)
            return
        if instance.find(node.id, event.generation):
            self._core.state.apply(key, event, now_ms())
        elif event.generation is not None:
            self._on_stale(node, instance, event)

    def _key_of(self, node: Node, report: StateReport | ResourceEntry) -> InstanceKey | None:
        if report.job_id:
            return InstanceKey(report.job_id, report.number)
        return self._core.state.find_reported(node.id, report.job_name, report.number)

    def _on_stale(self, node: Node, instance: Instance, event: Observed) -> None:
        """A copy that is not wanted is deleted there; the worker's record of an ended one stays while it counts."""
        generation = event.generation or 0
        if generation > instance.generation:
            return
        is_last_word = generation == instance.generation and instance.is_desired and instance.current is None
        if event.seen.is_end and is_last_word:
            return
        self._core.counters["stale_copies_deleted"] += 1
        self._core.dispatcher.send_once(
            Effect(verb=Verb.DELETE, key=instance.key, node_id=node.id, generation=generation, spec=instance.spec)
        )

    def _keep_orphan(self, node: Node, report: StateReport | ResourceEntry) -> None:
        self._core.counters["reports_of_unknown_instances"] += 1
        if isinstance(report, ResourceEntry) and not seen_of(report.status or "RUNNING").is_end:
            orphans = self.orphans.setdefault(node.id, {})
            if len(orphans) < MAX_ORPHANS:
                orphans[report.job_name, report.number] = report

    def _on_resources(self, node: Node, resources: ResourceList) -> None:
        self.orphans.pop(node.id, None)
        for entry in resources.entries:
            self._on_entry(node, entry)
        if resources.is_inventory:
            self._on_inventory(node, resources)

    def _on_entry(self, node: Node, entry: ResourceEntry) -> None:
        key = self._key_of(node, entry)
        if key in self._core.state.instances:
            self._core.usages[key] = entry
        self._observe(node, entry, observed(node, entry))

    def _on_inventory(self, node: Node, resources: ResourceList) -> None:
        """What a complete and current inventory does not hold is not there."""
        live = self._core.state.live[node.id]
        if resources.sequence is not None and resources.sequence < live.last_sequence:
            return
        held = {(entry.job_id, entry.number, entry.generation) for entry in resources.entries}
        for key in tuple(self._core.state.on_node[node.id]):
            for _, placement in tuple(self._core.state.instances[key].placements()):
                is_settled = placement.node_id == node.id and placement.state is not InstanceState.SCHEDULED
                if is_settled and (key.job_id, key.number, placement.generation) not in held:
                    self._missing(node, key, placement.generation)

    def _missing(self, node: Node, key: InstanceKey, generation: int) -> None:
        event = Observed(
            node_id=node.id,
            generation=generation,
            seen=Seen.ABSENT,
            actor=f"worker:{node.name}",
            detail="the worker's inventory does not hold it",
        )
        self._core.state.apply(key, event, now_ms())

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
