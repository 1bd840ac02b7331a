"""The manager's process: every real part of it, on simulated clock, store, broker and wires."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from cluster.errors import UnavailableError
from cluster.v1 import manager_pb2_grpc
from manager.__main__ import CLUSTER_ID
from manager.clock import SteadyClock
from manager.core import Core
from manager.parts import Parts, build
from manager.settings import ManagerSettings
from simulation.bridge import SimBridge
from simulation.broker import SimBroker
from simulation.loop import Process
from simulation.network import Link
from simulation.storage import Disk, SimRunner, SimStore
from simulation.story import Story
from simulation.wire import Server, SimChannel

EPOCH_S = 1_700_000_000
BOOTED_S = 100_000  # before the simulation began
SUPERVISOR_S = 1.0
DRAIN_S = 5.0


class AwayError(UnavailableError):
    """Nobody took the call, or nobody answered it: its outcome is unknown where it `has_arrived`."""

    def __init__(self, detail: str, *, has_arrived: bool) -> None:
        super().__init__(detail)
        self.has_arrived = has_arrived


class SimManager:
    """`on_serving` is told of the parts of each incarnation. `skew_s` is how wrong the machine's clock is."""

    def __init__(
        self, settings: ManagerSettings, disk: Disk, broker: SimBroker, link: Link, rng: random.Random, story: Story
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings, self._disk, self._broker, self._rng, self._story = settings, disk, broker, rng, story
        self.link = link
        self.find_scheduler: Callable[[], Server | None] = lambda: None
        self.scheduler_channel = SimChannel(self._scheduler, rng)
        self.on_serving: Callable[[SimManager], None] = lambda _manager: None
        self.on_stopped: Callable[[SimManager], None] = lambda _manager: None
        self.skew_s = 0.0
        self.starts = 0
        self.process: Process | None = None
        self.parts: Parts | None = None
        self.core: Core | None = None
        self.server: Server | None = None
        self.bridge: SimBridge | None = None
        self._runner: SimRunner | None = None
        self._work: list[asyncio.Task[None]] = []
        self._calls: dict[asyncio.Task[Any], None] = {}
        self._writing: asyncio.Task[None] | None = None
        self.clock = SteadyClock()

    @property
    def is_up(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.is_alive

    @property
    def is_serving(self) -> bool:
        """Whether it takes calls."""
        return self.is_up and self.parts is not None

    @property
    def store_is_busy(self) -> bool:
        """Whether a call of the store takes long."""
        return self._runner is not None and self._runner.is_slow

    def _scheduler(self) -> Server | None:
        return self.find_scheduler()

    # Life

    def boot(self) -> None:
        """Start a process."""
        self.starts += 1
        self._story.tell("manager starts", self.starts, f"clock {self.skew_s:+.1f} s")
        process = self.process = Process(self._loop, f"manager {self.starts}")
        self._work, self._writing = [], None
        store = SimStore(self._disk, process)
        self._runner = SimRunner(self._disk, store, process)
        self.clock = SteadyClock(self._wall_ms, lambda: int(self.mono_s() * 1000), self.mono_s)
        self.core = Core(
            store, self._settings.policy(), self._settings.lease_rules(), clock=self.clock, runner=self._runner
        )
        process.spawn(self._serve(process, self.core), "main")

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is None or not self.process.is_alive:
            return
        process, self.parts, self.server = self.process, None, None
        process.is_alive = False
        if self._runner is not None:
            self._runner.kill()
        self._kill_bridge()
        process.kill()
        self.on_stopped(self)

    async def stop(self) -> None:
        """SIGTERM: no new calls, those under way are answered, what is left is written."""
        process, self.parts, self.server = self.process, None, None
        if process is None:
            return
        for task in self._work:
            task.cancel()
        await asyncio.wait([*self._work, *self._calls, process.spawn(asyncio.sleep(0), "stop")], timeout=DRAIN_S)
        if self._writing is not None and process.is_alive:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        if process.is_alive:
            self._kill_bridge()
            process.kill()
            self.on_stopped(self)

    def _kill_bridge(self) -> None:
        if self.bridge is not None:
            self.bridge.kill()
        self.bridge = None

    async def _serve(self, process: Process, core: Core) -> None:
        try:
            await core.open()
            self._writing = process.keep(core.writer.run(), "writer")
            if CLUSTER_ID not in core.settings:
                await core.put_setting(CLUSTER_ID, "c0ffee" * 4)
        except UnavailableError as error:
            self._story.tell("manager cannot start", error.detail)
            self.kill()
            self._loop.call_later(SUPERVISOR_S, lambda: None if self.is_up else self.boot())
            return
        scheduler: Any = self.scheduler_channel
        self.parts = build(self._settings, core, scheduler, self._make_bridge)
        self.server = Server(process)
        server: Any = self.server
        manager_pb2_grpc.add_ManagerServiceServicer_to_server(self.parts.servicer, server)
        self._work = [process.keep(work, name) for name, work in self.parts.work().items()]
        self.on_serving(self)

    def _make_bridge(self, client_id: str, counters: Any, hearing: Any) -> SimBridge:
        self.bridge = SimBridge(self._broker, self.link, client_id, counters, hearing, self.clock)
        return self.bridge

    def mono_s(self) -> float:
        """The machine's monotonic clock."""
        return BOOTED_S + self._loop.time()

    def _wall_ms(self) -> int:
        return int((EPOCH_S + self._loop.time() + self.skew_s) * 1000)

    # Calls

    async def call(
        self,
        method: str,
        request: Any,
        *,
        arrived: Callable[[], None] = lambda: None,
        answered: Callable[[Any], None] = lambda _response: None,
    ) -> Any:
        """Call a method of the real servicer. Raises AwayError, or the ClusterError that it raised.

        `arrived` and `answered` are told in the moment in which the manager takes the call and has its answer.
        """
        await asyncio.sleep(self._rng.uniform(0.001, 0.01))
        parts, process = self.parts, self.process
        if parts is None or process is None:
            raise AwayError("nobody listens there", has_arrived=False)
        arrived()

        async def work() -> Any:
            response = await getattr(parts.servicer, method)(request, None)
            if process.is_alive:
                answered(response)
            return response

        task = process.spawn(work(), method)
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        await asyncio.wait([task])
        if task.cancelled() or not process.is_alive:
            raise AwayError("the manager went away", has_arrived=True)
        return task.result()

    async def stream(self, method: str, request: Any, tell: Callable[[Any], None]) -> None:
        """Follow a method with many answers until it ends or the manager does."""
        parts, process = self.parts, self.process
        if parts is None or process is None:
            raise AwayError("nobody listens there", has_arrived=False)

        async def work() -> None:
            async for response in getattr(parts.servicer, method)(request, None):
                tell(response)

        task = process.spawn(work(), method)
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
