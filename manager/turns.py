"""Changes of many instances at once take their time: who makes one has its jobs to himself until all of it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager


class Turns:
    """Jobs that a call is changing; calls about other jobs go on."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def of(self, job_ids: Collection[str]) -> AsyncIterator[None]:
        """For the time of the block nobody else has any of these jobs."""
        while not self._taken.isdisjoint(job_ids):
            self._given_back.clear()
            await self._given_back.wait()
        self._taken.update(job_ids)
        try:
            yield
        finally:
            self._taken.difference_update(job_ids)
            self._given_back.set()
