"""Whatever goes wrong with one workload, the worker that runs the others goes on."""

import asyncio
from typing import cast

import pytest

from testbed.machines import REF, spec
from testbed.waiting import wait_until_async
from worker import effects as effects_module
from worker.effects import Effects
from worker.records import Event, Exit, Exited, Forget, Kill, Ref, Start, Started, Stop
from worker.runtime.base import Runtime, Usage, Workload


class Troubled:
    """A runtime with a bug in everything but the start; its workload ends when it is looked for the second time."""

    technology = "docker"

    def __init__(self) -> None:
        self.looks = 0

    async def prepare(self, *_: object) -> None:
        """Nothing to bring."""

    async def start(self, workload: Workload) -> None:
        """At once."""

    async def is_running(self, ref: Ref) -> bool:
        """True once, then a bug."""
        self.looks += 1
        return True

    async def wait(self, ref: Ref) -> Exit:
        """A bug, until it was looked for twice."""
        if self.looks < 2:
            raise KeyError(ref)
        return Exit(code=3)

    async def stop(self, ref: Ref) -> None:
        """A bug."""
        raise KeyError(ref)

    kill = remove = stop

    async def usage(self, ref: Ref) -> Usage:
        """A bug."""
        raise KeyError(ref)


async def test_a_bug_in_a_runtime_ends_neither_the_worker_nor_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for again until its end is told; what cannot be stopped, removed or measured is left at that."""
    monkeypatch.setattr(effects_module, "LOOK_AGAIN_S", 0.01)
    told: list[Event] = []
    async with asyncio.TaskGroup() as tasks:
        effects = Effects({"docker": cast("Runtime", Troubled())}, "127.0.0.1", told.append)
        effects.tasks = tasks
        effects.carry_out(Start(REF, spec()))
        assert await effects.usages() == {}
        await wait_until_async(lambda: any(isinstance(event, Exited) for event in told), what="its end is told")
        effects.carry_out(Stop(REF, spec()))
        effects.carry_out(Kill(REF, spec()))
        effects.carry_out(Forget(REF, spec()))
    assert isinstance(told[0], Started)
    assert told[-1] == Exited(REF, Exit(code=3))
