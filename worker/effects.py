"""Carrying out the machine's instructions on the runtimes: one task per instance, each named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from worker import probes
from worker.records import (
    Event,
    Exit,
    Exited,
    Forget,
    GuestAwaited,
    GuestMissed,
    HandOver,
    HandOverFailed,
    Instance,
    Kill,
    Probed,
    Progressed,
    Ref,
    RunProbe,
    Start,
    Started,
    StartFailed,
    Stop,
    Vanished,
)
from worker.runtime.base import LiveRuntime, Runtime, RuntimeFailure, Usage, Workload, is_disk_full

T = TypeVar("T")
LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
PROGRESS_INTERVAL_S: Final = 1.0
USAGE_TIMEOUT_S: Final = 3.0
LOOK_AGAIN_S: Final = 1.0


@dataclass(kw_only=True)
class _Watch:
    """The task that prepares, starts and then waits for one instance."""

    task: asyncio.Task[None]
    is_preparing: bool = True
    is_cancelled: bool = False


class Effects:
    """Starts, stops, probes, as tasks of `tasks`; every outcome goes to `tell` as an event.

    None of them ends by an exception: trouble with one workload must not end the worker that runs the others.
    """

    tasks: asyncio.TaskGroup

    def __init__(self, runtimes: Mapping[str, Runtime], ip: str, tell: Callable[[Event], None]) -> None:
        self._runtimes = runtimes
        self._ip = ip
        self._tell = tell
        self._watches: dict[Ref, _Watch] = {}
        self._specs: dict[Ref, Start] = {}

    def recover(self, item: Instance) -> None:
        """After a restart of the worker: find what runs, or how it ended meanwhile."""
        self._watch(Start(item.ref, item.spec), is_new=False)

    def carry_out(self, instruction: Start | HandOver | Stop | Kill | RunProbe | Forget) -> None:
        """Begin; never blocks."""
        match instruction:
            case Start():
                self._watch(instruction, is_new=True)
            case Stop(ref) | Kill(ref):
                watch = self._watches.get(ref)
                if watch and watch.is_preparing:
                    watch.is_cancelled = True
                    watch.task.cancel()
                else:
                    self._begin(self._end(instruction), f"stop {ref}")
            case HandOver(ref):
                self._begin(self._hand_over(instruction), f"hand over {ref}")
            case RunProbe(ref):
                self._begin(self._probe(instruction), f"probe {ref}")
            case Forget(ref):
                self._specs.pop(ref, None)
                self._begin(self._forget(instruction), f"forget {ref}")

    async def usages(self) -> dict[Ref, Usage]:
        """What everything that runs takes; whoever does not answer in time is left out."""

        async def usage(start: Start) -> Usage | None:
            runtime = self._runtimes.get(start.spec.technology)
            try:
                async with asyncio.timeout(USAGE_TIMEOUT_S):
                    return await runtime.usage(start.ref) if runtime else None
            except (OSError, TimeoutError, RuntimeFailure):
                return None
            except Exception:
                LOG.exception("its usage cannot be read", instance=str(start.ref))
                return None

        starts = list(self._specs.values())
        found = await asyncio.gather(*(usage(start) for start in starts))
        return {start.ref: usage for start, usage in zip(starts, found, strict=True) if usage}

    def _watch(self, start: Start, *, is_new: bool) -> None:
        self._specs[start.ref] = start
        task = self.tasks.create_task(self._follow(start, is_new=is_new), name=f"instance {start.ref}")
        watch = self._watches[start.ref] = _Watch(task=task, is_preparing=is_new)
        task.add_done_callback(lambda _: self._unwatch(start.ref, watch))

    def _unwatch(self, ref: Ref, watch: _Watch) -> None:
        if self._watches.get(ref) is watch:
            del self._watches[ref]
        if watch.is_cancelled and watch.task.cancelled():  # before its first step, so that it could not tell by itself
            self._tell(Exited(ref, Exit(reason="stopped before it was started")))

    def _begin(self, effect: Coroutine[None, None, None], name: str) -> None:
        async def guarded() -> None:
            try:
                await effect
            except Exception:
                LOG.exception("failed unexpectedly", what=name)

        self.tasks.create_task(guarded(), name=name)

    async def _follow(self, start: Start, *, is_new: bool) -> None:
        """From its start, or from where it is found, to its end."""
        step = self._run(start) if is_new else self._find(start)
        while True:
            try:
                return await step
            except Exception:
                LOG.exception("lost sight of it, looking again", instance=str(start.ref))
            await asyncio.sleep(LOOK_AGAIN_S)
            step = self._find(start)

    async def _run(self, start: Start) -> None:
        ref = start.ref
        runtime = self._runtimes.get(start.spec.technology)
        if runtime is None:
            words = f"{start.spec.technology} cannot be run on this node"
            self._tell(StartFailed(ref, words, is_final=True))
            return
        workload = Workload(ref=ref, spec=start.spec, ip=self._ip)
        try:
            await runtime.prepare(workload, self._progress_of(ref))
            if start.is_live and isinstance(runtime, LiveRuntime) and await self._receive(runtime, workload):
                self._tell(Started(ref, "its running guest arrived"))
                self._tell(Exited(ref, await runtime.wait(ref)))
                return
            self._watches[ref].is_preparing = False
            await _to_the_end(runtime.start(workload), name=f"start {ref}")
        except asyncio.CancelledError:
            if not self._watches[ref].is_cancelled:
                raise
            if start.is_live:  # it may wait for a guest already
                await runtime.kill(ref)
                await runtime.wait(ref)
            self._tell(Exited(ref, Exit(reason="stopped before it was started")))
        except RuntimeFailure as error:
            self._tell(StartFailed(ref, error.reason, is_final=error.is_final))
        except Exception as error:
            # one bad job must not end the worker that runs the others
            if isinstance(error, OSError) and is_disk_full(error):
                LOG.warning("no room to start it", instance=str(ref), why=str(error))
                self._tell(StartFailed(ref, f"the node's disk is full: {error.filename or error}"))
            else:
                LOG.exception("start failed unexpectedly", instance=str(ref))
                self._tell(StartFailed(ref, f"{type(error).__name__}: {error}"))
        else:
            self._tell(Started(ref))
            self._tell(Exited(ref, await runtime.wait(ref)))

    async def _receive(self, runtime: LiveRuntime, workload: Workload) -> bool:
        """Wait for the running guest; False where it has to be booted afresh."""
        ref = workload.ref
        try:
            uri = await _to_the_end(runtime.receive(workload), name=f"receive {ref}")
            self._tell(GuestAwaited(ref, uri))
            await runtime.arrived(ref)
        except RuntimeFailure as error:
            LOG.warning("no running guest came; booting its image afresh", instance=str(ref), why=error.reason)
            self._tell(GuestMissed(ref, error.reason))
            return False
        self._watches[ref].is_preparing = False
        return True

    async def _hand_over(self, order: HandOver) -> None:
        runtime = self._runtimes.get(order.spec.technology)
        if not isinstance(runtime, LiveRuntime):
            self._tell(HandOverFailed(order.ref, f"{order.spec.technology} cannot be moved while it runs"))
            return
        try:
            await runtime.send(order.ref, order.target, order.incoming, self._progress_of(order.ref))
        except RuntimeFailure as error:
            LOG.warning("live move failed; it runs on here", instance=str(order.ref), why=error.reason)
            self._tell(HandOverFailed(order.ref, error.reason))

    async def _find(self, start: Start) -> None:
        runtime = self._runtimes.get(start.spec.technology)
        if runtime is None:
            self._tell(Vanished(start.ref, f"{start.spec.technology} cannot be run on this node any more"))
            return
        if isinstance(runtime, LiveRuntime) and (uri := await runtime.awaiting(start.ref)):
            self._tell(GuestAwaited(start.ref, uri))
            try:
                await runtime.arrived(start.ref)
            except RuntimeFailure as error:
                self._tell(Vanished(start.ref, error.reason))
                return
        if await runtime.is_running(start.ref):
            LOG.info("found again", instance=str(start.ref))
            self._tell(Started(start.ref))
        end = await runtime.wait(start.ref)
        if end.is_outcome_known:
            self._tell(Exited(start.ref, end))
        else:
            self._tell(Vanished(start.ref, end.reason))

    async def _end(self, instruction: Stop | Kill) -> None:
        runtime = self._runtimes.get(instruction.spec.technology)
        if runtime is None:
            return
        try:
            if isinstance(instruction, Stop):
                await runtime.stop(instruction.ref)
            else:
                await runtime.kill(instruction.ref)
        except RuntimeFailure as error:
            LOG.warning("could not be stopped yet", instance=str(instruction.ref), why=error.reason)

    async def _probe(self, instruction: RunProbe) -> None:
        start = self._specs.get(instruction.ref)
        runtime = self._runtimes.get(start.spec.technology) if start else None
        if start and runtime:
            workload = Workload(ref=start.ref, spec=start.spec, ip=self._ip)
            verdict = await probes.check(instruction.probe, runtime, workload)
            self._tell(Probed(instruction.ref, instruction.check, verdict.is_passed, verdict.detail))

    async def _forget(self, instruction: Forget) -> None:
        runtime = self._runtimes.get(instruction.spec.technology)
        try:
            if runtime:
                await runtime.remove(instruction.ref)
        except RuntimeFailure as error:
            LOG.warning("remains could not be removed", instance=str(instruction.ref), why=error.reason)

    def _progress_of(self, ref: Ref) -> Callable[[str], None]:
        told_at = 0.0

        def progress(words: str) -> None:
            nonlocal told_at
            now = time.monotonic()
            if now - told_at >= PROGRESS_INTERVAL_S:
                told_at = now
                self._tell(Progressed(ref, words))

        return progress


async def _to_the_end(start: Coroutine[None, None, T], name: str) -> T:
    """Await it, also when cancelled meanwhile: a start that is left half way could run on without anybody knowing."""
    task = asyncio.create_task(start, name=name)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
