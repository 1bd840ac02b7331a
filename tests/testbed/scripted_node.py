"""Nodes that a test scripts: they speak MQTT as the seed's or our own worker does, and remember everything."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from testbed.cluster import HOST, Cluster
from testbed.waiting import wait_until

Key = tuple[str, int]


@dataclass(frozen=True)
class Heard:
    """A command as it arrived: its topic, its exact payload and the JSON in it."""

    topic: str
    payload: bytes
    body: dict[str, Any] = field(compare=False)


class ScriptedNode:
    """A registered and connected node. Subclasses say what it registers with and how it answers a command."""

    telemetry_s = 0.5

    def __init__(self, cluster: Cluster, name: str, **facts: Any) -> None:
        self._cluster = cluster
        self.name = name
        self.facts = facts
        self.registered: dict[str, Any] = {}
        self.topic_id = ""
        self.heard: list[Heard] = []
        self.lock = threading.RLock()
        self.is_silent = False
        self._ended = threading.Event()
        self._client: mqtt.Client | None = None
        self._beats = threading.Thread(target=self._beat, name=f"telemetry of {name}", daemon=True)

    @property
    def id(self) -> str:
        """The id that the cluster gave it."""
        return str(self.registered["id"])

    def registration(self) -> dict[str, Any]:
        """The documented message: these four keys."""
        return {"id": "", "name": self.name, "ip": "127.0.0.1", "port": "3000"}

    def start(self) -> "ScriptedNode":
        """Register over HTTP, connect, and send telemetry until `stop`."""
        answer = self._cluster.http.insist("POST", "/api/node/register", {**self.registration(), **self.facts})
        assert answer.status == 200, answer
        self.registered = answer.json
        self.topic_id = self.topic_id or self.id
        self._client = self._connect()
        self._beats.start()
        return self

    def wait_until_ready(self) -> "ScriptedNode":
        """Wait until the cluster lists it as READY."""
        self._cluster.wait_until_node_is(self.name, "READY")
        return self

    def fall_silent(self) -> None:
        """Send no telemetry, and stay connected."""
        self.is_silent = True

    def speak_again(self) -> None:
        """Send telemetry again."""
        self.is_silent = False

    def stop(self) -> None:
        """Disconnect orderly and fall silent."""
        self._ended.set()
        if self._beats.ident:
            self._beats.join()
        if self._client:
            self._client.disconnect()
            self._client.loop_stop()

    def commands(self, verb: str = "", job_id: str = "") -> list[dict[str, Any]]:
        """What was commanded so far, oldest first."""
        with self.lock:
            bodies = [item.body for item in self.heard]
        return [body for body in bodies if verb in ("", body["command"]) and job_id in ("", body["job"]["id"])]

    def wait_for(self, verb: str, job_id: str, count: int = 1, timeout: float = 30.0) -> dict[str, Any]:
        """Wait for the `count`-th command of that kind for a job."""
        found = wait_until(
            lambda: commands if len(commands := self.commands(verb, job_id)) >= count else None,
            timeout,
            what=f"{count} {verb} of {job_id} on {self.name}",
        )
        return found[count - 1]

    def publish(self, channel: str, body: object, qos: int = 1) -> None:
        """Send JSON, or bytes as they are, on one of its topics."""
        assert self._client is not None
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._client.publish(f"nodes/{self.topic_id}/{channel}", payload, qos=qos)

    def say(self, job: dict[str, Any], status: str, detail: str = "", **more: Any) -> None:
        """Send a state of a job that it was commanded to run."""
        body = {
            "sname": job["name"],
            "status": status,
            "status_detail": detail,
            "instance": job["instance_number"],
            "publicip": "127.0.0.1",
            **more,
        }
        self.publish("job", body)

    def telemetry(self) -> dict[str, Any]:
        """The documented message: these two keys."""
        return {"cpu": 12.5, "memory": 40.0}

    def client_id(self) -> str:
        """Its MQTT client id."""
        return f"{self.id}-seed"

    def on_command(self, body: dict[str, Any]) -> None:
        """What it does when commanded; here nothing."""

    def beat(self) -> None:
        """Called once per telemetry period, on the telemetry thread."""
        self.publish("information", self.telemetry(), qos=0)

    def _connect(self) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.client_id(), clean_session=False)
        client.max_inflight_messages_set(1000)
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.connect(HOST, int(self.registered["MQTT_BROKER_PORT"]), keepalive=10)
        client.loop_start()
        return client

    def _on_connect(self, client: mqtt.Client, *_facts: Any) -> None:
        client.subscribe(f"nodes/{self.topic_id}/controls", qos=1)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        with self.lock:
            self.heard.append(Heard(message.topic, bytes(message.payload), body))
            self.on_command(body)

    def _beat(self) -> None:
        while not self._ended.wait(self.telemetry_s):
            if not self.is_silent:
                self.beat()


class SeedNode(ScriptedNode):
    """Registers with the documented four keys and sends the documented telemetry; answers only what the test says."""


class WorkerNode(ScriptedNode):
    """Speaks as docs/worker-protocol.md says; what it runs is in memory, and every start is counted.

    `running` maps (job id, instance number) to the generation that runs, `starts` counts how often each was started.
    """

    def __init__(self, cluster: Cluster, name: str, **facts: Any) -> None:
        super().__init__(cluster, name, **facts)
        self.running: dict[Key, int] = {}
        self.jobs: dict[Key, dict[str, Any]] = {}
        self.starts: Counter[Key] = Counter()
        self._fences: dict[Key, int] = {}
        self._sequence = int(time.time() * 1000)

    def registration(self) -> dict[str, Any]:
        """The worker's message: the documented keys and what the node has."""
        extra = {"dialect": "worker", "technology": ["docker", "unikernel", "wasm"], "architecture": "amd64"}
        return {**super().registration(), **extra, "vcpus": 1000, "memory_in_MB": 1_000_000}

    def client_id(self) -> str:
        """Its MQTT client id."""
        return f"{self.id}-worker"

    def on_command(self, body: dict[str, Any]) -> None:
        """Deploy, replicate and delete, fenced by generation."""
        job = body["job"]
        key, generation = (job["id"], job["instance_number"]), job["generation"]
        if body["command"] == "delete":
            self._delete(key, generation, job)
        elif body["command"] in ("deploy", "replicate"):
            self._deploy(key, generation, job)

    def beat(self) -> None:
        """Telemetry and, after it, the inventory."""
        super().beat()
        with self.lock:
            services = [self._entry(key, generation) for key, generation in self.running.items()]
            body = {"inventory": True, "sequence": self._sequence, "services": services}
        self.publish("jobs/resources", body, qos=0)

    def _deploy(self, key: Key, generation: int, job: dict[str, Any]) -> None:
        if generation <= self._fences.get(key, -1) or generation < self.running.get(key, -1):
            return
        if self.running.get(key) != generation:
            self.running[key] = generation
            self.jobs[key] = job
            self.starts[key] += 1
        self._state(key, job, generation, "RUNNING")

    def _delete(self, key: Key, generation: int, job: dict[str, Any]) -> None:
        self._fences[key] = max(generation, self._fences.get(key, -1))
        if self.running.get(key, generation + 1) <= generation:
            del self.running[key]
            del self.jobs[key]
        self._state(key, job, generation, "STOPPED")

    def _state(self, key: Key, job: dict[str, Any], generation: int, status: str) -> None:
        self._sequence += 1
        self.say(job, status, job_id=key[0], generation=generation, sequence=self._sequence)

    def _entry(self, key: Key, generation: int) -> dict[str, Any]:
        return {
            "job_id": key[0],
            "job_name": self.jobs[key]["name"],
            "instance": key[1],
            "generation": generation,
            "virtualization": self.jobs[key]["technology"],
            "status": "RUNNING",
            "status_detail": "",
            "cpu_percent": 0.1,
            "memory_bytes": 1_000_000,
            "disk": 0,
        }


@contextlib.contextmanager
def nodes(*made: ScriptedNode) -> Iterator[None]:
    """Start the nodes, wait until each is READY, and stop them at the end of the block."""
    try:
        for node in made:
            node.start()
        for node in made:
            node.wait_until_ready()
        yield
    finally:
        for node in made:
            node.stop()
