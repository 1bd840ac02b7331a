"""Keeps children running until a signal, then ends them in their order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self

from clusterctl.child import Child, Program
from clusterctl.exits import CommandError
from clusterctl.guardian import Guardian

_LOG_CHECK_S: Final = 10.0
_FATAL_DEATHS: Final = 3
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Runs programs; make it inside the running loop, and use it as an async context manager around their life."""

    def __init__(self, guardian: Guardian, tell: Callable[[str], None]) -> None:
        self._guardian = guardian
        self._tell = tell
        self._stages: list[list[Child]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._signalled = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        self._tasks.append(asyncio.create_task(self._bound_logs(), name="logs"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for stage in reversed(self._stages):
            await asyncio.gather(*(child.stop() for child in reversed(stage)))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, programs: Sequence[Program]) -> None:
        """Start programs together; those started last are ended first, all of one call at once."""
        stage = [Child(program, self._guardian, self._tell) for program in programs]
        self._stages.append(stage)
        self._tasks += [asyncio.create_task(child.run(), name=child.program.name) for child in stage]

    async def until_signalled(self) -> None:
        """Wait for SIGINT, SIGTERM or SIGHUP."""
        await self._signalled.wait()

    async def until(self, is_ready: Callable[[], Awaitable[bool]], interval_s: float) -> bool:
        """Wait until `is_ready`; False where a signal came first. Raises CommandError where a child keeps dying."""
        while not self._signalled.is_set():
            if await is_ready():
                return True
            self._give_up_on_the_dying()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._signalled.wait()
        return False

    def _give_up_on_the_dying(self) -> None:
        for stage in self._stages:
            for child in stage:
                if child.deaths >= _FATAL_DEATHS:
                    raise CommandError(f"{child.program.name} does not start; see {child.program.log_path}")

    def _on_signal(self) -> None:
        if self._signalled.is_set():
            self._tell("killing everything at once; workloads may be left over")
            for stage in self._stages:
                for child in stage:
                    child.kill()
        self._signalled.set()

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for stage in self._stages:
                for child in stage:
                    child.bound_log()
