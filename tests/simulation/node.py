"""A machine with a node on it, whatever its kind: power, process, link, and what runs on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from simulation.broker import SimBroker
from simulation.client import SimClient
from simulation.network import Link, Quality
from simulation.story import Story
from simulation.truth import Copies, Copy, End


class Surroundings(Protocol):
    """What nodes need from the world."""

    broker: SimBroker
    quality: Quality
    copies: Copies
    story: Story

    async def register(self, node: SimNode, body: dict[str, Any]) -> dict[str, str]:
        """`POST /api/node/register`. Raises ClusterError."""


class SimNode:
    """Subclasses say how it registers, talks and obeys. `start_s` bounds how long a start takes."""

    kind = ""

    def __init__(self, world: Surroundings, name: str, rng: random.Random) -> None:
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._rng = rng
        self._epoch = 0
        self._registering: asyncio.Task[None] | None = None
        self.name = name
        self.link = Link(name, rng, world.quality)
        self.client: SimClient | None = None
        self.node_id = ""
        self.is_up = False
        self.is_powered = True
        self.start_s = 2.0
        self.start_failure = 0.0
        self.has_failing_starts = False

    # To be said by a kind

    def begin(self, *, is_new_boot: bool) -> None:
        """The process starts."""
        raise NotImplementedError

    def ends(self) -> None:
        """The process is gone; what it only had in memory is, too."""

    def loses_power(self) -> None:
        """Whatever ran is gone."""
        raise NotImplementedError

    def running(self) -> list[Copy]:
        """What really runs here."""
        return [copy for copy in self._world.copies.all() if copy.node == self.name]

    def fail(self, copy: Copy, code: int) -> None:
        """A workload ends by itself."""
        raise NotImplementedError

    @property
    def debts(self) -> str:
        """What it still has to say; "" where nothing."""
        return ""

    # Life

    def boot(self, *, is_new_boot: bool = False) -> None:
        """Start the process, and the machine where it is off."""
        if not self.is_up:
            self._epoch += 1
            self.is_up = self.is_powered = True
            self._world.story.tell(f"{self.name} starts", "after a boot" if is_new_boot else "")
            self.begin(is_new_boot=is_new_boot)

    def crash(self) -> None:
        """`kill -9` of the process; what it runs goes on."""
        self._stop_process()
        if self.client is not None:
            self.client.kill()

    def power_off(self) -> None:
        """The machine is gone at once."""
        self._stop_process()
        self.is_powered = False
        if self.client is not None:
            self.client.vanish()
        self.loses_power()
        for copy in self.running():
            self._world.copies.end(copy, End.LOST_POWER)

    def _stop_process(self) -> None:
        self._epoch += 1
        self.is_up = False
        if self._registering is not None:
            self._registering.cancel()
        self.ends()

    def register_until(self, work: Callable[[], Awaitable[None]]) -> None:
        """Registration, which takes as long as it takes."""
        if self._registering is not None:
            self._registering.cancel()

        async def guarded() -> None:
            await work()

        self._registering = self._loop.create_task(guarded(), name=f"registration of {self.name}")

    @property
    def is_talking(self) -> bool:
        """Whether what it says now can reach the broker."""
        return self.is_up and not self.link.is_cut and self.client is not None and self.client.is_connected

    # Time

    def soon(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call it unless the process has ended meanwhile."""
        self._loop.call_later(delay_s, self._call, self._epoch, call, arguments)

    def _call(self, epoch: int, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._epoch == epoch:
            call(*arguments)

    def every(self, period_s: float, call: Callable[[], None]) -> None:
        """Call it again and again while the process lives."""

        def beat() -> None:
            call()
            self.soon(period_s, beat)

        self.soon(self._rng.random() * period_s, beat)
