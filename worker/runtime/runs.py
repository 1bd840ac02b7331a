"""What the runtimes whose workloads are processes of this machine have in common."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from worker.records import Ref
from worker.runtime import cgroups
from worker.runtime.base import Usage, Workload
from worker.runtime.detached import Run
from worker.runtime.ports import published_address


class ProcessRuntime:
    """One detached process per workload, in a folder of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[Ref, Run] = {}

    async def kill(self, ref: Ref) -> None:
        """End the process by SIGKILL."""
        self._run(ref).signal(signal.SIGKILL)

    async def remove(self, ref: Ref) -> None:
        """Delete the run's folder and its control group."""
        await asyncio.to_thread(self._run(ref).remove)
        cgroups.remove_limit(str(ref))
        self._runs.pop(ref, None)

    def logs(self, ref: Ref, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """What the process wrote: a guest's serial port, a module's standard output and error."""
        return self._run(ref).logs(follow=follow, tail=tail)

    async def address(self, workload: Workload, port: int) -> tuple[str, int]:
        """Where the port was published; else the node's own address."""
        return published_address(workload.spec.ports, workload.ip, port) or (workload.ip, port)

    async def usage(self, ref: Ref) -> Usage:
        """Of the process, engine included."""
        return self._run(ref).usage()

    def _run(self, ref: Ref) -> Run:
        return self._runs.setdefault(ref, Run(self._folder / str(ref)))
