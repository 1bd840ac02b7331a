"""The manager's judgement of one engine without any IO: a cluster's state, a clock, and what follows from messages."""

import json
from typing import Any

from cluster.documents import parse_job
from cluster.nodes import parse_registration
from cluster.payloads import parse_information, parse_resources, parse_state
from manager.domain import engines, lists
from manager.domain.aggregate import ClusterState
from manager.domain.effects import Effect, Verb
from manager.domain.model import Instance, InstanceKey, Node, NodeState
from manager.domain.observation import Repeat, came_ready
from manager.domain.policy import Policy
from manager.domain.reconciliation import lose_node
from standins.engines.generations import recorded

JOB = InstanceKey("65f1a2b3c4d5e6f7a8b9c03e", 0)
NAME = "app.test.web.test"


class Judged:
    """One registered and ready engine of generation A or C; `stale` and `repeats` collect what is to be sent."""

    def __init__(self, generation: str = "A", registration: str = "register", **facts: Any) -> None:
        self.state = ClusterState(Policy())
        self.now_ms = 1_700_000_000_000
        self.mono_s = 1_000.0
        self.period_s = self.state.policy.engine_period_ms / 1000
        self.stale: list[Effect] = []
        self.repeats: list[Repeat] = []
        self.settled = 0
        self.generation = generation
        self.facts = {**recorded(generation, registration)["payload"], **facts}
        self.node_id = self.register().id
        self.hear()
        self.run(self.period_s * 2)

    @property
    def node(self) -> Node:
        """The engine's node as it is now."""
        return self.state.nodes[self.node_id]

    def instance(self, key: InstanceKey = JOB) -> Instance:
        """An instance as it is now."""
        return self.state.instances[key]

    def register(self, **facts: Any) -> Node:
        """POST /api/node/register."""
        self.facts.update(facts)
        parsed = parse_registration(self.facts)
        known = self.state.find_node(parsed.name)
        node = self.state.register(parsed, self.now_ms)
        if known is not None:
            engines.on_restart(self.state, known, node, self.now_ms, self.mono_s)
        return node

    def hear(self, payload: bytes | None = None) -> None:
        """Telemetry."""
        raw = payload or recorded(self.generation, "information")["sequence"][0]["raw"].encode()
        telemetry = parse_information(raw, self.node.registration.dialect)
        self.state.live[self.node_id].memory_free_bytes = telemetry.memory_free_bytes
        engines.on_telemetry(self.state, self.node, telemetry.source, self.now_ms, self.mono_s)
        if self.node.state is not NodeState.READY:
            came_ready(self.state, self.node, self.now_ms)

    def deploy(self, name: str = NAME, key: InstanceKey = JOB, **document: Any) -> Instance:
        """Ask for an instance and place it on this engine."""
        spec = parse_job({"name": name, "image": "docker.io/local/busybox:1", "technology": "docker", **document})
        self.state.deploy([(key, spec)], "root", self.now_ms)
        assert self.state.place(key, self.node_id, self.now_ms) == ""
        return self.instance(key)

    def running(self, **document: Any) -> Instance:
        """Deploy and let the engine say that it runs."""
        self.deploy(**document)
        self.say("ACTIVE" if self.generation == "A" else "CREATED")
        return self.instance()

    def delete(self, key: InstanceKey = JOB) -> None:
        """Ask that it be gone."""
        self.state.delete([key], "root", self.now_ms)

    def go_down(self) -> None:
        """Lease and grace run out."""
        self.state.set_node_state(self.node_id, NodeState.DOWN, "no telemetry", self.now_ms)
        lose_node(self.state, self.node_id, self.now_ms)

    def say(self, status: str, detail: str = "", name: str = NAME, number: int = 0) -> Instance:
        """A state of the engine."""
        body = {"sname": name, "status": status, "status_detail": detail, "instance": number, "publicip": "192.0.2.2"}
        return self.say_raw(json.dumps(body).encode())

    def say_raw(self, payload: bytes) -> Instance:
        """A state as it was sent."""
        findings = engines.on_state(self.state, self.node, parse_state(payload), self.now_ms)
        self.repeats += findings.repeats
        return self.instance() if JOB in self.state.instances else next(iter(self.state.instances.values()))

    def send_lists(self, *names: str, status: str = "", number: int = 0) -> None:
        """The lists of one period, one per runtime, all alike."""
        extra = {"status": status} if status else {}
        services = [{"job_name": name, "virtualization": "docker", "instance": number, **extra} for name in names]
        for _ in range(lists.lists_per_period(self.node)):
            self.list_raw(json.dumps({"services": services}).encode())

    def list_raw(self, payload: bytes) -> None:
        """A list as it was sent."""
        resources = parse_resources(payload)
        findings = lists.on_resources(self.state, self.node, resources, self.now_ms, self.mono_s)
        self.stale += findings.stale
        self.settled += findings.has_settled

    def wait(self, seconds: float) -> None:
        """Let time pass in silence."""
        self.now_ms += int(seconds * 1000)
        self.mono_s += seconds

    def run(self, seconds: float, *names: str, status: str = "") -> None:
        """Let time pass while the engine sends its lists."""
        end = self.mono_s + seconds
        while self.mono_s < end:
            self.wait(self.period_s)
            self.send_lists(*names, status=status)

    def verbs(self) -> list[Verb]:
        """What is to be sent again."""
        return [item.verb for item in self.repeats]

    def excluded(self, key: InstanceKey = JOB) -> dict[str, str]:
        """The nodes that must not get an instance, and the words for why."""
        found = engines.exclusions(self.state, self.instance(key))
        return {node.id: refusal.reason for node in self.state.nodes.values() if (refusal := found.of(node))}
