"""What each node of a crowd holds, as its worker would know it, and its packets, encoded once per change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from bench.flood import PAYLOAD

from cluster.topics import Channel, topic
from manager.domain.model import InstanceKey
from testbed.cluster import HOST
from testbed.full_store import GENERATION, Layout
from testbed.mqtt_wire import publication

_STARTS: Final = ("deploy", "replicate")


class Residents:
    """The instances on all nodes, which start, stop and answer at once.

    `telemetry` and `inventories` are packets that go out as they are; those of a node that is gone are empty.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sequences = [1] * layout.nodes
        self._fences: dict[tuple[int, InstanceKey], int] = {}
        self._held = [
            {key: (layout.spec(key.job_id).name, GENERATION) for key in layout.keys_on(node)}
            for node in range(layout.nodes)
        ]
        self.numbers = {layout.node_id(node): node for node in range(layout.nodes)}
        self.living = layout.nodes
        self.telemetry = [publication(self._topic(node, Channel.INFORMATION), PAYLOAD) for node in range(layout.nodes)]
        self.inventories = [self._list(node) for node in range(layout.nodes)]

    def bury(self, count: int) -> None:
        """The last `count` nodes never speak again."""
        self.living = self._layout.nodes - count
        for node in range(self.living, self._layout.nodes):
            self.telemetry[node] = self.inventories[node] = b""

    def inventory(self, node: int) -> bytes:
        """What a node's worker says that it holds."""
        services = [_entry(key, name, generation) for key, (name, generation) in self._held[node].items()]
        return orjson.dumps({"inventory": True, "sequence": self._sequences[node], "services": services})

    def carry_out(self, node: int, body: Mapping[str, Any], packet_id: int) -> bytes:
        """Do what a command says; answers the state to publish, nothing where the node is gone or leaves it alone."""
        job, verb = body["job"], body["command"]
        key, generation = InstanceKey(job["id"], job["instance_number"]), job["generation"]
        if node >= self.living:
            return b""
        if verb == "delete":
            return self._stop(node, key, generation, job["name"], packet_id)
        if verb in _STARTS:
            return self._start(node, key, generation, job["name"], packet_id)
        return b""

    def words(self, node: int, detail: str, packet_id: int) -> bytes:
        """The first instance of a node says something new, as one with a failing probe does."""
        key, (name, generation) = next(iter(self._held[node].items()))
        return self._state(node, key, name, generation, "RUNNING", packet_id, detail)

    def _start(self, node: int, key: InstanceKey, generation: int, name: str, packet_id: int) -> bytes:
        held = self._held[node].get(key, ("", -1))
        if generation <= self._fences.get((node, key), -1):
            return b""
        if held[1] < generation:
            self._held[node][key] = (name, generation)
        answer = self._state(node, key, name, self._held[node][key][1], "RUNNING", packet_id)
        self.inventories[node] = self._list(node)
        return answer

    def _stop(self, node: int, key: InstanceKey, generation: int, name: str, packet_id: int) -> bytes:
        self._fences[node, key] = max(generation, self._fences.get((node, key), -1))
        if self._held[node].get(key, ("", generation + 1))[1] <= generation:
            del self._held[node][key]
        answer = self._state(node, key, name, generation, "STOPPED", packet_id)
        self.inventories[node] = self._list(node)
        return answer

    def _state(
        self, node: int, key: InstanceKey, name: str, generation: int, status: str, packet_id: int, detail: str = ""
    ) -> bytes:
        self._sequences[node] += 1
        body = {"sname": name, "status": status, "status_detail": detail, "instance": key.number, "publicip": HOST}
        more = {"job_id": key.job_id, "generation": generation, "sequence": self._sequences[node]}
        return publication(self._topic(node, Channel.STATE), orjson.dumps({**body, **more}), packet_id)

    def _list(self, node: int) -> bytes:
        return publication(self._topic(node, Channel.RESOURCES), self.inventory(node))

    def _topic(self, node: int, channel: Channel) -> str:
        return topic(self._layout.node_id(node), channel)


def _entry(key: InstanceKey, name: str, generation: int) -> dict[str, Any]:
    facts = {"job_id": key.job_id, "job_name": name, "instance": key.number, "generation": generation}
    status = {"virtualization": "docker", "status": "RUNNING", "status_detail": ""}
    return {**facts, **status, "cpu_percent": 1.234, "memory_bytes": 12_345_678, "disk": 123_456}
