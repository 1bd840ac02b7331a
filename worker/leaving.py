"""Ending all workloads with their worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from worker.records import Instance, Ref
from worker.runtime.base import Runtime

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
EXIT_GRACE_S: Final = 3.0
KILL_GRACE_S: Final = 3.0


async def end_workloads(runtimes: Mapping[str, Runtime], items: Iterable[Instance]) -> frozenset[Ref]:
    """Ask all to end, and kill what has not ended soon; answers those of which nothing runs any more."""
    active = [item for item in items if not item.is_ended]
    LOG.info("stopping all workloads", count=len(active))
    ended = await asyncio.gather(*(_is_ended(runtimes.get(item.spec.technology), item.ref) for item in active))
    return frozenset(item.ref for item, has_ended in zip(active, ended, strict=True) if has_ended)


async def _is_ended(runtime: Runtime | None, ref: Ref) -> bool:
    try:
        async with asyncio.timeout(EXIT_GRACE_S + KILL_GRACE_S):
            if runtime is not None and await runtime.is_running(ref):
                await _end(runtime, ref)
            return runtime is not None
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises, the others are ended too
        LOG.error("could not be stopped", instance=str(ref), why=str(error) or "it takes too long")
        return False


async def _end(runtime: Runtime, ref: Ref) -> None:
    try:
        async with asyncio.timeout(EXIT_GRACE_S):
            await runtime.stop(ref)
            await runtime.wait(ref)
    except TimeoutError:
        await runtime.kill(ref)
        await runtime.wait(ref)
    await runtime.remove(ref)
