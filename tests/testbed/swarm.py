"""Hundreds of nodes of the worker's dialect in one thread: each a bare MQTT 3.1.1 connection with a last will."""

import asyncio
import contextlib
import json
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from testbed.cluster import HOST, Cluster
from testbed.scripted_node import Key

TELEMETRY_S = 2.0
_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE = 0x10, 0x30, 0x40, 0x82


class Member:
    """A node that starts what it is told at once, keeps it through every disconnection, and counts its starts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = ""
        self.running: dict[Key, dict[str, Any]] = {}
        self.starts: Counter[Key] = Counter()
        self.stops: Counter[Key] = Counter()
        self.fences: dict[Key, int] = {}
        self.sequence = int(time.time() * 1000)
        self._unsent: list[dict[str, Any]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._packet_id = 0

    def registration(self) -> dict[str, Any]:
        """The worker's message."""
        own = {"id": "", "name": self.name, "ip": "127.0.0.1", "port": "3000", "dialect": "worker"}
        return {**own, "technology": ["wasm"], "vcpus": 1000, "memory_in_MB": 1_000_000}

    async def live(self, port: int) -> None:
        """Connect, and serve until the connection ends."""
        reader, self._writer = await asyncio.open_connection(HOST, port)
        will = _text(f"nodes/{self.id}/connection") + _text('{"online": false}')
        self._send(
            _CONNECT, _text("MQTT") + bytes([4, 0x0C]) + struct.pack("!H", 60) + _text(f"{self.id}-worker") + will
        )
        await _packet(reader)
        self._send(_SUBSCRIBE, struct.pack("!H", 1) + _text(f"nodes/{self.id}/controls") + b"\x01")
        self.publish("connection", {"online": True}, qos=1)
        waiting, self._unsent = self._unsent, []
        for body in waiting:
            self.publish("job", body, qos=1)
        self.tell()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self._on_packet(*await _packet(reader))

    def drop(self) -> None:
        """The cable is cut: no goodbye, so that the broker sends the will."""
        if self._writer:
            self._writer.transport.abort()
            self._writer = None

    def publish(self, channel: str, body: dict[str, Any], *, qos: int = 0) -> None:
        """Send, or keep a state for later."""
        if self._writer is None:
            if channel == "job":
                self._unsent.append(body)
            return
        self._packet_id = self._packet_id % 65_535 + 1
        packet_id = struct.pack("!H", self._packet_id) if qos else b""
        payload = json.dumps(body).encode()
        self._send(_PUBLISH | qos << 1, _text(f"nodes/{self.id}/{channel}") + packet_id + payload)

    def tell(self) -> None:
        """Telemetry and the inventory."""
        self.publish("information", {"cpu": 10.0, "memory": 20.0, "memory_free_in_MB": 900_000})
        services = [self._entry(key, job) for key, job in self.running.items()]
        self.publish("jobs/resources", {"inventory": True, "sequence": self.sequence, "services": services})

    def _on_packet(self, kind: int, body: bytes) -> None:
        if kind & 0xF0 != _PUBLISH:
            return
        length = struct.unpack("!H", body[:2])[0]
        rest = body[2 + length :]
        if kind & 0x06:
            self._send(_PUBACK, rest[:2])
            rest = rest[2:]
        self._on_command(json.loads(rest))

    def _on_command(self, body: dict[str, Any]) -> None:
        job = body["job"]
        key, generation = (job["id"], job["instance_number"]), job["generation"]
        if body["command"] == "delete":
            self.fences[key] = max(generation, self.fences.get(key, -1))
            if key in self.running and self.running[key]["generation"] <= generation:
                del self.running[key]
                self.stops[key] += 1
            self._state(job, "STOPPED")
        elif body["command"] in ("deploy", "replicate") and generation > self.fences.get(key, -1):
            if self.running.get(key, {}).get("generation", -1) < generation:
                self.running[key] = job
                self.starts[key] += 1
            self._state(self.running[key], "RUNNING")

    def _state(self, job: dict[str, Any], status: str) -> None:
        self.sequence += 1
        facts = {"sname": job["name"], "instance": job["instance_number"], "job_id": job["id"]}
        more = {"generation": job["generation"], "sequence": self.sequence, "status_detail": "", "publicip": HOST}
        self.publish("job", {**facts, **more, "status": status}, qos=1)

    def _entry(self, key: Key, job: dict[str, Any]) -> dict[str, Any]:
        facts = {"job_id": key[0], "job_name": job["name"], "instance": key[1], "generation": job["generation"]}
        return {**facts, "virtualization": "wasm", "status": "RUNNING", "status_detail": ""}

    def _send(self, kind: int, body: bytes) -> None:
        if self._writer:
            self._writer.write(bytes([kind]) + _length(len(body)) + body)


class Swarm:
    """Many members on one loop."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._cluster = cluster
        self.members = [Member(f"edge-{number}") for number in range(count)]
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self) -> None:
        """Register all over HTTP; blocks."""

        def one(member: Member) -> None:
            answer = self._cluster.http.insist("POST", "/api/node/register", member.registration())
            assert answer.status == 200, answer
            member.id = answer.json["id"]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, self.members))

    def connect(self, member: Member) -> None:
        """Let a member live in a task of its own."""
        task = asyncio.create_task(member.live(self._cluster.ports["broker"]), name=member.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def beat(self) -> None:
        """Telemetry of all, spread over the period, until cancelled."""
        pause_s = TELEMETRY_S / len(self.members)
        while True:
            for index, member in enumerate(self.members):
                member.tell()
                if index % 25 == 24:
                    await asyncio.sleep(pause_s * 25)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Cut all and wait for their tasks."""
        for member in self.members:
            member.drop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def held(self) -> Iterator[Key]:
        """Every copy that runs anywhere."""
        for member in self.members:
            yield from member.running


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!H", len(encoded)) + encoded


def _length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | 0x80 if number else digit)
        if not number:
            return bytes(out)


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    [kind] = await reader.readexactly(1)
    length = shift = 0
    while True:
        [digit] = await reader.readexactly(1)
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return kind, await reader.readexactly(length)
