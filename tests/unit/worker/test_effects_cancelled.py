"""Stopping what has not begun to start."""

import asyncio
from typing import cast

from testbed.machines import REF, spec
from worker.effects import Effects
from worker.records import Event, Exited, Start, Stop
from worker.runtime.base import Runtime


async def test_a_stop_in_the_same_batch_as_the_start_is_answered() -> None:
    """A deploy and its delete that arrive together end as stopped, never as an endless stopping."""
    told: list[Event] = []
    job = spec()
    async with asyncio.TaskGroup() as tasks:
        effects = Effects({"docker": cast("Runtime", object())}, "127.0.0.1", told.append)
        effects.tasks = tasks
        effects.carry_out(Start(REF, job))
        effects.carry_out(Stop(REF, job))
    assert [(type(event), event.ref) for event in told if isinstance(event, Exited)] == [(Exited, REF)]
