"""Unikernels in QEMU: started stopped, controlled over QMP, found again by pid and socket after a worker restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from worker.records import Exit, Ref
from worker.runtime import cgroups, migration
from worker.runtime.base import Progress, RuntimeFailure, Workload
from worker.runtime.detached import Run
from worker.runtime.images import ImageCache
from worker.runtime.qemu import QMP_SOCKET, Guest, binary_here, choose_accelerator, command_line
from worker.runtime.runs import ProcessRuntime

if TYPE_CHECKING:
    from qemu.qmp import EventListener, QMPClient

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
CONNECT_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 5.0
LAST_WORDS_S: Final = 5.0
_ENDS: Final = ("SHUTDOWN", "GUEST_PANICKED")
_DEBUG_EXIT: Final = 1


@dataclass(frozen=True)
class Monitor:
    """A QMP session with one guest, and the events by which it says why it ends."""

    client: QMPClient
    ends: EventListener


class UnikernelRuntime(ProcessRuntime):
    """Images are kernels (ELF, multiboot or Linux) or disks, as a path, file:// or http(s)://."""

    technology = "unikernel"

    def __init__(
        self, folder: Path, images: ImageCache, binary: str = "", arrival_s: float = migration.ARRIVAL_S
    ) -> None:
        """`arrival_s` bounds the wait for a guest that runs elsewhere."""
        super().__init__(folder)
        self._images = images
        self._binary = binary or binary_here()
        self._arrival_s = arrival_s
        self._accelerator = ""
        self._monitors: dict[Ref, Monitor] = {}
        self._moved: dict[Ref, str] = {}

    async def unavailable(self) -> str:
        """QEMU is looked for, not started."""
        if not self._binary:
            return "qemu-system is not installed; `apt-get install qemu-system-x86` would enable unikernels"
        return ""

    async def prepare(self, workload: Workload, progress: Progress) -> None:
        """Download the images unless they are there."""
        for image in (workload.spec.image, *workload.spec.vm_images):
            await self._images.fetch(image, progress)

    async def start(self, workload: Workload) -> None:
        """Start QEMU stopped, connect, then let the guest run, so that no event of it is missed."""
        monitor = await self._spawn(workload)
        with contextlib.suppress(EOFError, TimeoutError, _qmp_error()):  # it may end before it answers: `wait` tells
            await _ask(monitor, "cont")

    async def receive(self, workload: Workload) -> str:
        """Start QEMU waiting for a guest on a free port of the node's address."""
        ref = workload.ref
        monitor = await self._spawn(workload, is_incoming=True)
        try:
            async with self._talking(ref):
                uri = await migration.incoming_uri(partial(_ask, monitor), workload.ip)
            self._run(ref).note("incoming", uri)
        except BaseException:  # nobody will send a guest to it, and while it waits the image cannot be booted afresh
            await self._end(ref)
            raise
        return uri

    async def awaiting(self, ref: Ref) -> str:
        """As noted, if QEMU still waits."""
        uri = self._run(ref).read("incoming")
        if not uri or self._run(ref).process is None:
            return ""
        try:
            async with self._talking(ref):
                status: Any = await _ask(await self._connect(ref), "query-status")
        except RuntimeFailure:
            return ""
        return uri if status["status"] == "inmigrate" else ""

    async def arrived(self, ref: Ref) -> None:
        """A guest that began to come is waited for; a QEMU to which none came is ended."""
        monitor = self._monitors.get(ref)
        try:
            async with self._talking(ref):
                if monitor is None:
                    raise EOFError("QEMU ended")
                await migration.arrival(partial(_ask, monitor), self._arrival_s)
        except RuntimeFailure:
            await self._end(ref)
            raise

    async def send(self, ref: Ref, target: str, uri: str, progress: Progress) -> None:
        """Migrate; the pause is noted before QEMU is ended, so that no restart of the worker can lose it."""
        monitor = self._monitors.get(ref)
        if monitor is None:
            raise RuntimeFailure("its QEMU cannot be reached")
        self._run(ref).note("target", target)
        ask = partial(_ask, monitor)
        async with self._talking(ref):
            await migration.begin(ask, uri)
            pause_ms = await migration.outcome(ask, progress)
        await self._leave(ref, pause_ms)

    async def _leave(self, ref: Ref, pause_ms: int) -> None:
        run = self._run(ref)
        self._moved[ref] = f"moved live to {run.read('target') or 'another node'}, paused {pause_ms} ms"
        with contextlib.suppress(OSError):  # on a full disk it is known until it is told
            run.note("moved", self._moved[ref])
        await self.kill(ref)

    async def _end(self, ref: Ref) -> None:
        await self.kill(ref)
        await self._run(ref).wait()

    async def is_running(self, ref: Ref) -> bool:
        """Whether QEMU lives; the session with it is taken up again, and a guest still stopped is let run."""
        await self._run(ref).settle()
        if self._run(ref).process is None:
            return False
        with contextlib.suppress(OSError, EOFError, TimeoutError, _qmp_error()):
            monitor = await self._connect(ref)
            status: Any = await _ask(monitor, "query-status")
            if status["status"] == "prelaunch":
                await _ask(monitor, "cont")
            if status["status"] == "inmigrate":  # whoever would have told the source where it waits is gone
                await self._end(ref)
            await self._settle_move(ref, monitor)
        return self._run(ref).process is not None

    async def _settle_move(self, ref: Ref, monitor: Monitor) -> None:
        """Finish what an earlier worker process began: a guest that has gone must not be taken for one that runs."""
        ask = partial(_ask, monitor)
        if self._run(ref).read("target") and await migration.is_leaving(ask):
            with contextlib.suppress(RuntimeFailure):
                await self._leave(ref, await migration.outcome(ask, lambda _: None))
                await self._run(ref).wait()

    async def wait(self, ref: Ref) -> Exit:
        """The guest's exit code, up to 63, through isa-debug-exit; else the reason that QEMU gave.

        QEMU's own status 0 alone means nothing: without a reason the outcome is unknown. Above 128 are signals.
        """
        end = await self._run(ref).wait()
        reason = await self._disconnect(ref)
        if moved := self._moved.get(ref) or self._run(ref).read("moved"):
            return Exit(reason=moved, is_moved=True)
        if not end.is_outcome_known or end.code is None:
            return end
        if end.code & _DEBUG_EXIT and not end.reason and not self._is_refusal(ref, end.code):
            return Exit(code=end.code >> 1)
        if end.code == 0:
            return _exit_of(reason)
        return Exit(code=end.code, reason=end.reason or self._run(ref).last_words())

    async def stop(self, ref: Ref) -> None:
        """Press the guest's power button."""
        await self._command(ref, "system_powerdown")

    async def remove(self, ref: Ref) -> None:
        """End the session, then delete the run's folder and its control group."""
        await self._disconnect(ref)
        self._moved.pop(ref, None)
        await super().remove(ref)

    async def execute(self, ref: Ref, command: tuple[str, ...], timeout_s: float) -> tuple[int, str]:
        """There is no shell in a unikernel."""
        raise RuntimeFailure("unikernels have no commands to run; use an http or tcp probe", is_final=True)

    async def close(self) -> None:
        """End the QMP sessions; the guests go on."""
        for ref in list(self._monitors):
            await self._disconnect(ref)

    async def _guest(self, workload: Workload) -> Guest:
        if not self._accelerator:
            self._accelerator = await choose_accelerator(self._binary)
            LOG.info("accelerator chosen", accelerator=self._accelerator)
        return Guest(
            binary=self._binary,
            accelerator=self._accelerator,
            image=self._images.path(workload.spec.image),
            further_images=tuple(self._images.path(image) for image in workload.spec.vm_images),
            spec=workload.spec,
            ip=workload.ip,
        )

    async def _spawn(self, workload: Workload, *, is_incoming: bool = False) -> Monitor:
        run, spec = self._run(workload.ref), workload.spec
        guest = await self._guest(workload)
        run.clear()
        self._moved.pop(workload.ref, None)
        (run.folder / QMP_SOCKET).unlink(missing_ok=True)
        groups = cgroups.limit_cpu(str(workload.ref), spec.demand.cpu_millicores) if spec.demand.cpu_millicores else ()
        await run.start(command_line(guest, is_incoming=is_incoming), {}, groups)
        if spec.demand.cpu_millicores and not groups:
            self._be_nice(run)
        try:
            async with self._talking(workload.ref):
                return await self._connect(workload.ref)
        except BaseException:  # one too busy to answer in time would be in the way of the next try
            await self._end(workload.ref)
            raise

    @contextlib.asynccontextmanager
    async def _talking(self, ref: Ref) -> AsyncIterator[None]:
        """Whatever goes wrong in a talk with QEMU is a RuntimeFailure, in its own last words if it is gone."""
        try:
            yield
        except (OSError, EOFError, TimeoutError, _qmp_error()) as error:
            run = self._run(ref)
            await _last_words(run, error)
            words = "" if run.process else run.last_words()
            raise RuntimeFailure(words or f"QEMU did not answer: {str(error) or type(error).__name__}") from None

    def _be_nice(self, run: Run) -> None:
        process = run.process
        if process:
            LOG.info("cpu limit needs root; the guest gets a lower priority", folder=run.folder.name)
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, 10)

    def _is_refusal(self, ref: Ref, code: int) -> bool:
        """QEMU ends with 1 also when it refuses its command line; only then it speaks of itself last."""
        return code == 1 and "qemu-system" in self._run(ref).last_words()

    async def _connect(self, ref: Ref) -> Monitor:
        from qemu.qmp import EventListener, QMPClient

        await self._disconnect(ref)
        run, client, ends = self._run(ref), QMPClient(str(ref)), EventListener(_ENDS)
        client.register_listener(ends)
        handle = os.open(run.folder, os.O_RDONLY)
        try:
            # A socket's path is bounded to 107 bytes; the folder's descriptor makes any path short.
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                while (opened := await _connected(f"/proc/self/fd/{handle}/{QMP_SOCKET}")) is None:
                    if run.process is None:
                        raise EOFError("QEMU ended")
                    await asyncio.sleep(0.005)
                await client.connect(opened)
        except _qmp_error() as error:
            await _last_words(run, error)
            raise
        finally:
            os.close(handle)
        self._monitors[ref] = Monitor(client, ends)
        return self._monitors[ref]

    async def _command(self, ref: Ref, name: str) -> None:
        monitor = self._monitors.get(ref)
        if monitor is None:
            self._run(ref).signal(signal.SIGTERM)
            return
        with contextlib.suppress(OSError, EOFError, TimeoutError, _qmp_error()):
            await _ask(monitor, name)

    async def _disconnect(self, ref: Ref) -> str:
        """End the session; answers the reason for the guest's end, if it told one."""
        monitor = self._monitors.pop(ref, None)
        if monitor is None:
            return ""
        from qemu.qmp import Runstate

        with contextlib.suppress(TimeoutError):
            if self._run(ref).process is None:
                async with asyncio.timeout(1.0):
                    while monitor.client.runstate is Runstate.RUNNING:
                        await monitor.client.runstate_changed()
        with contextlib.suppress(OSError, EOFError, _qmp_error()):
            await monitor.client.disconnect()
        events = monitor.ends.clear()
        return next((_reason(event) for event in events), "")


async def _connected(path: str) -> socket.socket | None:
    """A session's socket; None while QEMU has not made its own yet, or has made it and does not listen yet."""
    opened = socket.socket(socket.AF_UNIX)
    opened.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(opened, path)
    except (FileNotFoundError, ConnectionRefusedError):
        opened.close()
        return None
    except BaseException:
        opened.close()
        raise
    return opened


async def _ask(monitor: Monitor, command: str, arguments: dict[str, Any] | None = None) -> Any:
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        return await monitor.client.execute(command, arguments)


async def _last_words(run: Run, error: BaseException) -> None:
    """A QEMU that hangs up is about to end, and has said why: only once it is gone that is all that it says."""
    from qemu.qmp import ExecuteError

    if isinstance(error, TimeoutError | ExecuteError):  # it is silent, or has answered: it may live on
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            await run.wait()


def _reason(event: Any) -> str:
    return "guest-panic" if event["event"] == "GUEST_PANICKED" else str(event["data"].get("reason", ""))


def _exit_of(reason: str) -> Exit:
    """QEMU ended with status 0: only a guest that powered off has succeeded."""
    if reason == "guest-shutdown":
        return Exit(code=0)
    if not reason:
        return Exit(reason="QEMU ended without a reason", is_outcome_known=False)
    return Exit(reason=f"QEMU: {reason}")


def _qmp_error() -> type[Exception]:
    from qemu.qmp import QMPError

    return QMPError
