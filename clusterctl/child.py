"""One process that is kept running: started in its own session, restarted with a back-off, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clusterctl.guardian import Guardian
from clusterctl.logfile import LogFile

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0
STEADY_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run and how long it may take to end; `environment` is added to the supervisor's own."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    stop_grace_s: float = 5.0


class Child:
    """A program that is kept running until `stop`."""

    def __init__(self, program: Program, guardian: Guardian, tell: Callable[[str], None]) -> None:
        self.program = program
        self.deaths = 0
        self._guardian = guardian
        self._tell = tell
        self._log = LogFile(program.log_path)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Start it, and start it again whenever it dies."""
        delay_s = FIRST_DELAY_S
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                how = await self._run_once()
                if self._stopping.is_set():
                    return
                self.deaths += 1
                delay_s = FIRST_DELAY_S if time.monotonic() - started > STEADY_S else delay_s
                self._tell(self._obituary(how, delay_s))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._stopping.wait()
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Ask it to end, and kill it and what is left of its group after its grace."""
        self._stopping.set()
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.program.stop_grace_s):
                await self._ended.wait()
        except TimeoutError:
            self._tell(f"{self.program.name} did not end within {self.program.stop_grace_s:g} s; killed")
        self.kill()

    def kill(self) -> None:
        """Kill its whole group."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def bound_log(self) -> None:
        """Keep its log from growing without end."""
        self._log.bound()

    async def _run_once(self) -> str:
        """From its start to its end; answers how that came."""
        try:
            with self._log.opened() as log:
                process = self._process = await asyncio.create_subprocess_exec(
                    *self.program.argv,
                    env={**os.environ, **self.program.environment},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            return f"cannot be started: {error}"
        self._guardian.watch(process.pid)
        status = await process.wait()
        self._guardian.forget(process.pid)
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _obituary(self, how: str, delay_s: float) -> str:
        words = "".join(f"\n    {line}" for line in self._log.last_words())
        return f"{self.program.name} {how}; starting it again in {delay_s:g} s ({self.program.log_path}){words}"
