"""What every test of a runtime needs."""

from __future__ import annotations

import asyncio
from typing import Any

from testbed.machines import spec
from testbed.waiting import wait_until_async
from worker.records import Exit, Ref
from worker.runtime.base import Runtime, Workload

REF = Ref("job", 0, 1)


def workload(ref: Ref = REF, ip: str = "127.0.0.1", **document: Any) -> Workload:
    """A workload of a job document."""
    return Workload(ref=ref, spec=spec(**document), ip=ip)


def ignore(words: str) -> None:
    """A progress callback that nobody reads."""
    del words


async def run(runtime: Runtime, job: Workload) -> None:
    """Prepare and start."""
    await runtime.prepare(job, ignore)
    await runtime.start(job)


async def end_of(runtime: Runtime, ref: Ref = REF) -> Exit:
    """Its end, in bounded time."""
    return await asyncio.wait_for(runtime.wait(ref), 30)


async def output_of(runtime: Runtime, ref: Ref = REF, tail: int | None = None) -> str:
    """What it has printed."""
    return b"".join([piece async for piece in runtime.logs(ref, follow=False, tail=tail)]).decode()


async def wait_for_output(runtime: Runtime, text: str, ref: Ref = REF) -> str:
    """Wait until it has printed `text`."""

    async def seen() -> str:
        output = await output_of(runtime, ref)
        return output if text in output else ""

    return await wait_until_async(seen, what=f"{text!r} in the output of {ref}")
