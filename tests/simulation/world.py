"""A simulated cluster: real manager and scheduler, machines of every kind, and everything between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from cluster.errors import ClusterError
from cluster.nodes import parse_registration
from cluster.topics import Channel, parse
from cluster.v1 import manager_pb2 as pb
from manager.domain.model import Instance, InstanceKey
from manager.ports import Kind
from manager.rpc.convert import registration_to_proto
from manager.settings import ManagerSettings
from simulation.broker import SimBroker
from simulation.clients import Clients
from simulation.engine import SimEngine
from simulation.judge import Judge
from simulation.loop import VirtualLoop
from simulation.manager import BOOTED_S, EPOCH_S, AwayError, SimManager
from simulation.network import Link, Quality
from simulation.node import SimNode
from simulation.readers import Readers
from simulation.scheduler import SimScheduler
from simulation.seed import SimSeed
from simulation.storage import Disk, Weather
from simulation.story import Story
from simulation.timeline import Timeline
from simulation.truth import Copies, Copy
from simulation.worker import SimWorker

HEARD = (Channel.INFORMATION, Channel.RESOURCES)
UNREACHABLE_S = 5.0
NODES_LATER_S = 1.0
SWALLOWED = ("ticks_failed", "follow_ups_failed", "plans_failed", "mqtt_stumbled", "mqtt_malformed")


class World:
    """`seed` decides everything that is random. `run` lets time pass, `close` ends it."""

    def __init__(
        self,
        seed: int,
        kinds: Sequence[str] = ("worker",) * 4,
        *,
        cpu_millicores: int = 2000,
        is_text: bool = False,
        forgets: bool = False,
        has_readers: bool = True,
        **settings: Any,
    ) -> None:
        self.loop = VirtualLoop()
        self.loop.run_until_complete(
            self._make(seed, kinds, cpu_millicores, settings, is_text=is_text, forgets=forgets)
        )
        self._has_readers = has_readers

    async def _make(
        self,
        seed: int,
        kinds: Sequence[str],
        cpu_millicores: int,
        settings: dict[str, Any],
        *,
        is_text: bool,
        forgets: bool,
    ) -> None:
        self.rng = random.Random(f"world {seed}")
        self.story = Story(self.loop.time)
        self.story.listen(self.loop)
        self.epoch_s = EPOCH_S
        self.settings = ManagerSettings(_env_file=None, **settings)  # type: ignore[call-arg]
        self.rules = self.settings.lease_rules()
        self.quality = Quality()
        self.disk = Disk(self._rng("disk"), is_text=is_text)
        self.broker = SimBroker(self._rng("broker"), self.quality, forgets=forgets)
        self.copies = Copies(self.loop.time)
        self.timeline = Timeline(self.loop.time, self.rules)
        self.manager_link = Link("manager", self._rng("manager link"), self.quality)
        self.manager = SimManager(
            self.settings, self.disk, self.broker, self.manager_link, self._rng("manager"), self.story
        )
        self.scheduler = SimScheduler(lambda: self.manager.server, self._rng("scheduler"), self.story)
        self.manager.find_scheduler = lambda: self.scheduler.server
        self.manager.on_serving = self._serving
        self.manager.on_stopped = self._stopped
        self.broker.on_will = self._will
        self._names: dict[str, str] = {}
        self.nodes: dict[str, SimNode] = {}
        for number, kind in enumerate(kinds):
            self.add(kind, f"n{number}", cpu_millicores)
        self.clients = Clients(self)
        self.judge = Judge(self)
        self.readers = Readers(self, self._rng("readers"))
        self._serving_since_s = self._store_since_s = self.quality_since_s = 0.0
        self._scheduler_since_s = 0.0

    def _rng(self, part: str) -> random.Random:
        return random.Random(f"{part} {self.rng.random()}")

    def add(self, kind: str, name: str, cpu_millicores: int) -> SimNode:
        """A machine more."""
        rng = self._rng(name)
        node: SimNode
        if kind.startswith("engine"):
            node = SimEngine(self, name, rng, kind[-1], max(cpu_millicores // 1000, 1))
        elif kind in ("seed", "mute"):
            node = SimSeed(self, name, rng, reports=kind == "seed")
        else:
            node = SimWorker(self, name, rng, cpu_millicores)
        self.nodes[name] = node
        return node

    # Running

    def boot(self) -> None:
        """Start everything."""
        self.loop.run_until_complete(self._boot())

    async def _boot(self) -> None:
        self.manager.boot()
        self.scheduler.boot()
        await asyncio.sleep(NODES_LATER_S)
        for node in self.nodes.values():
            node.boot()
        if self._has_readers:
            self._reading = self.loop.create_task(self.readers.run())

    def run(self, seconds: float) -> None:
        """Let time pass, then raise AssertionError with what went wrong."""
        self.loop.run_for(seconds)
        self.check()

    def do(self, function: Callable[[], None]) -> None:
        """Call a function on the loop."""

        async def work() -> None:
            function()

        self.loop.run_until_complete(work())

    def close(self) -> None:
        """End it all."""
        self.manager.kill()
        self.scheduler.kill()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_for(0.1)
        self.loop.close()
        self.story.close()

    def check(self) -> None:
        """Raise AssertionError with what no process, no promise and no reader may ever see."""
        problems = [*self.judge.problems, *self.readers.problems, *self.story.stumbles]
        for process in filter(None, (self.manager.process, self.scheduler.server and self.scheduler.server.process)):
            problems += [f"{process.name} failed: {error!r}" for error in process.failures]
        core = self.manager.core
        if core is not None:
            problems += [f"{name}: {core.counters[name]}" for name in SWALLOWED if core.counters[name]]
        assert not problems, "\n".join(problems)

    def now_s(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    # What nodes ask for and tell

    async def register(self, node: SimNode, body: dict[str, Any]) -> dict[str, str]:
        """`POST /api/node/register` through the gateway. Raises ClusterError."""
        if node.link.is_cut:
            await asyncio.sleep(UNREACHABLE_S)
            raise AwayError("no way to the gateway", has_arrived=False)
        request = pb.RegisterNodeRequest(registration=registration_to_proto(parse_registration(body)))

        def arrived() -> None:
            if node.name in self.timeline.accounts:
                self.timeline.heard(node.name, is_telemetry=False)

        def answered(response: Any) -> None:
            self._names[response.node_id] = node.name
            self.timeline.heard(node.name, is_telemetry=False)
            self.timeline.account(node.name).registered_s = self.loop.time()

        try:
            response = await self.manager.call("RegisterNode", request, arrived=arrived, answered=answered)
        except ClusterError as error:
            self.story.tell(f"{node.name} is not registered:", error.detail)
            raise
        if node.link.is_cut:
            raise AwayError("no way back from the gateway", has_arrived=True)
        self.story.tell(f"{node.name} is registered as", response.node_id)
        return {"id": response.node_id, "MQTT_BROKER_PORT": str(response.mqtt_broker_port)}

    def name_of(self, node_id: str) -> str:
        """The name of the node of an id, "" where it is unknown."""
        return self._names.get(node_id, "")

    def _serving(self, manager: SimManager) -> None:
        self._serving_since_s = self.loop.time()
        self.timeline.starts_s.append(self._serving_since_s)
        assert manager.bridge is not None
        manager.bridge.on_arrival = self._arrived
        manager.bridge.on_echo = lambda sent_s: self.timeline.echo(sent_s - BOOTED_S)

    def _stopped(self, _manager: SimManager) -> None:
        self.clients.manager_stopped()

    def _arrived(self, topic: str) -> None:
        parsed = parse(topic)
        if parsed is not None and (name := self._names.get(parsed[0])):
            self.timeline.heard(name, is_telemetry=parsed[1] in HEARD)

    def _will(self, topic: str) -> None:
        parsed = parse(topic)
        if parsed is not None and (name := self._names.get(parsed[0])):
            self.timeline.will(name)
            self.story.tell("last will of", name)

    # What is known of faults

    def store_changed(self) -> None:
        """The database's weather is another from now on."""
        self._store_since_s = self.loop.time()

    def quality_changed(self) -> None:
        """The network's quality is another from now on."""
        self.quality_since_s = self.loop.time()

    def scheduler_changed(self) -> None:
        """The scheduler came or went."""
        self._scheduler_since_s = self.loop.time()

    def judged_since(self) -> float:
        """Since when the manager can judge, but for times in which nobody could be heard."""
        if not self.manager.is_serving or self.disk.weather != Weather():
            return self.loop.time()
        core = self.manager.core
        if (core is not None and core.writer.failure) or self.manager.store_is_busy:
            self._store_since_s = self.loop.time()
        return max(self._serving_since_s, self._store_since_s)

    def good_since(self, node: str) -> float:
        """Since when nothing keeps the cluster from knowing what is on a node."""
        found = self.nodes[node]
        if not found.is_talking or found.client is None or self.quality.delay_s > 1.0 or self.quality.loss:
            return self.loop.time()
        account = self.timeline.accounts.get(node)
        mended_s = max((last_s for _, last_s in account.faults), default=0.0) if account else 0.0
        registered_s = account.registered_s if account else 0.0
        times = (found.client.connected_s, min(mended_s, self.loop.time()), self.quality_since_s, registered_s)
        return max(self.judged_since(), self.timeline.deaf_until_s, *times)

    def planned_since(self) -> float:
        """Since when nothing keeps the cluster from finding a node for what wants one."""
        channels = (self.scheduler.stream, self.manager.scheduler_channel)
        if not self.scheduler.is_up or any(channel.is_cut for channel in channels):
            return self.loop.time()
        return max(self.judged_since(), self._scheduler_since_s, self.quality_since_s)

    def can_tell(self, node: str) -> bool:
        """Whether what becomes of a node's workloads is ever known: the seed's nodes tell it once, or never."""
        found = self.nodes[node]
        return not isinstance(found, SimSeed) or (found.reports and not self.broker.forgets)

    def was_helpless(self, copy: Copy) -> bool:
        """Whether its worker could not have stopped a copy, or the manager could not have waited for it."""
        account = self.timeline.accounts.get(copy.node)
        has_failed = account is not None and account.has_crashed
        record = self.disk.records.get((Kind.INSTANCE, str(InstanceKey(*copy.slot))))
        events = self.disk.log.get(f"instance:{InstanceKey(*copy.slot)}", ())
        is_given_up = any(event.kind == "failed" and event.actor == "manager" for event in events)
        return has_failed or is_given_up or not isinstance(record, Instance)
