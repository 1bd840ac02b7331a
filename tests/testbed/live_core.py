"""The manager's real core on a real store, with a clock that a test moves and a broker that a test speaks for."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.errors import UnavailableError
from cluster.jobs import Resources
from cluster.nodes import Dialect, Registration
from cluster.topics import Channel
from manager.__main__ import CLUSTER_ID
from manager.core import Core
from manager.detector import Detector
from manager.domain.events import Observed, Seen
from manager.domain.leases import LeaseRules
from manager.domain.model import Instance, InstanceKey, Node
from manager.domain.policy import Policy
from manager.jobs import Jobs
from manager.mqtt.commander import MqttCommander
from manager.mqtt.inbox import Inbox, Incoming
from manager.nodes import Nodes
from manager.reconciler import Reconciler
from testbed.fragile_store import FragileStore
from testbed.records import spec

START_MS: Final = 1_700_000_000_000
CALM_TURNS: Final = 10


class HandClock:
    """Both of the manager's times; they pass when a test says so."""

    def __init__(self) -> None:
        self.at_ms = START_MS
        self.at_s = 1000.0

    def now_ms(self) -> int:
        """Part of the port."""
        return self.at_ms

    def mono_s(self) -> float:
        """Part of the port."""
        return self.at_s

    def start_after(self, newest_ms: int) -> int:
        """Part of the port."""
        behind_ms = max(0, newest_ms - self.at_ms)
        self.at_ms += behind_ms
        return behind_ms

    def new_step_ms(self) -> int:
        """Part of the port."""
        return 0

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.at_ms += int(seconds * 1000)
        self.at_s += seconds


class HandBroker:
    """A session whose messages a test puts into the inbox; what the manager publishes is kept."""

    def __init__(self, counters: Counter[str]) -> None:
        self.inbox = Inbox(counters)
        self.is_connected = True
        self.acknowledged: list[Incoming] = []
        self.published: list[tuple[str, Channel, bytes]] = []

    def acknowledge(self, incoming: Incoming) -> None:
        """Part of the port."""
        self.acknowledged.append(incoming)

    def publish(self, topic_id: str, channel: Channel, payload: bytes, *, qos: int = 1, expiry_s: int = 0) -> bool:
        """Part of the port."""
        if self.is_connected:
            self.published.append((topic_id, channel, payload))
        return self.is_connected


class LiveCore:
    """A core with its detector and its tick, which a test drives by `tick`."""

    def __init__(self, folder: Path, policy: Policy, rules: LeaseRules) -> None:
        self.clock = HandClock()
        self.store = FragileStore(folder)
        self.core = Core(self.store, policy, rules, clock=self.clock)
        self.detector = Detector(self.core)
        self.jobs = Jobs(self.core)
        self.reconciler = Reconciler(self.core, self.detector, self.jobs)
        self.nodes = Nodes(self.core, 1883)
        self.broker = HandBroker(self.core.counters)
        self.core.dispatcher.commander = MqttCommander(self.broker, self.core)
        self.core.dispatcher.on_sent = self.reconciler.command_sent

    async def add(self, name: str, cpu: int | None = 1000, **facts: Any) -> Node:
        """A node that registers and is heard."""
        known = {"dialect": Dialect.WORKER, "technologies": ("docker",), "capacity": Resources(cpu_millicores=cpu)}
        node = await self.nodes.register(Registration(name=name, ip="127.0.0.1", port=1, **{**known, **facts}))
        self.hear(node.id)
        await self.core.saved()
        return self.core.state.nodes[node.id]

    def hear(self, *node_ids: str) -> None:
        """Nodes send telemetry, and an echo comes back."""
        for node_id in node_ids:
            self.core.hearing.heard(node_id, self.clock.at_s)
        self.core.hearing.echoed(self.clock.at_s)
        for node_id in node_ids:
            if not self.core.state.is_ready(node_id):
                self.detector.heard(self.core.state.nodes[node_id])

    def pass_time(self, seconds: float, *heard: str) -> None:
        """Time passes in which only these nodes are heard, and the detector looks four times a second."""
        for _ in range(round(seconds * 4)):
            self.clock.pass_time(0.25)
            self.hear(*heard)
            if not self.core.writer.failure:
                self.detector.sweep()
                self.core.commit()

    async def rest(self) -> None:
        """Wait until everything is saved and what follows from it was done."""
        await self.core.writer.working.wait()
        calm = 0
        while calm < CALM_TURNS:  # whoever waits for a write goes on some turns of the loop after it
            await asyncio.sleep(0 if calm else 0.001)
            calm = calm + 1 if self._is_at_rest() else 0

    def _is_at_rest(self) -> bool:
        core = self.core
        return not (core.writer.backlog or core._followed or self.detector._lost or core._follow_wanted.is_set())

    async def deploy(self, *numbers: int, job_id: str = "web", **facts: Any) -> list[Instance]:
        """Durably wanted instances of a job."""
        wanted = [(InstanceKey(job_id, number), spec(**facts)) for number in numbers]
        instances = self.core.state.deploy(wanted, "root", self.clock.at_ms)
        await self.core.saved([item.key for item in instances])
        return [self.instance(item.key) for item in instances]

    async def run(self, node_id: str, *numbers: int, job_id: str = "web", **facts: Any) -> list[Instance]:
        """Instances that run on a node, durably."""
        await self.deploy(*numbers, job_id=job_id, **facts)
        state, keys = self.core.state, [InstanceKey(job_id, number) for number in numbers]
        for key in keys:
            assert state.place(key, node_id, self.clock.at_ms) == ""
            placed = state.instances[key]
            event = Observed(node_id=node_id, generation=placed.generation, seen=Seen.RUNNING, actor="worker")
            state.apply(key, event, self.clock.at_ms)
        await self.core.saved(keys)
        return [self.instance(key) for key in keys]

    async def stop(self, key: InstanceKey) -> None:
        """An instance is deleted, and its node says that it is gone, durably."""
        state, node_id = self.core.state, self.instance(key).node_id
        state.delete([key], "root", self.clock.at_ms)
        event = Observed(node_id=node_id, generation=None, seen=Seen.STOPPED, actor="worker")
        state.apply(key, event, self.clock.at_ms)
        await self.core.saved([key])

    async def refuses(self, working: Awaitable[object]) -> None:
        """The store fails under somebody, and works again."""
        self.store.fault = "no space"
        with pytest.raises(UnavailableError):
            await working
        self.store.fault = ""
        await self.core.writer.working.wait()

    def told(self, *channels: Channel) -> list[str]:
        """The topics on which something was published, on these channels or all."""
        return [topic_id for topic_id, channel, _ in self.broker.published if not channels or channel in channels]

    def instance(self, key: InstanceKey) -> Instance:
        """As memory has it."""
        return self.core.state.instances[key]

    def events(self, subject: str) -> list[str]:
        """The kinds of what the cluster's history tells of a subject."""
        found = self.core.history.newest_first(lambda entry: entry.subject == subject, 0, 1000)
        return [entry.event.kind for entry in reversed(found)]


@asynccontextmanager
async def live_core(
    folder: Path, policy: Policy | None = None, rules: LeaseRules | None = None
) -> AsyncIterator[LiveCore]:
    """An open core whose writer, follow-ups and losses run."""
    live = LiveCore(folder, policy or Policy(), rules or LeaseRules())
    await live.core.open()
    running = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("losses", live.detector.run()),
            ("follow-ups", live.core.follow_forever()),
            ("writer", live.core.writer.run()),
        )
    ]
    try:
        if CLUSTER_ID not in live.core.settings:
            await live.core.put_setting(CLUSTER_ID, "c" * 24)
        yield live
    finally:
        live.store.let_go()
        for task in running:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        live.store.close()
