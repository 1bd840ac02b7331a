"""A core on a store of its own, with its writer running."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from manager.core import Core
from manager.domain.policy import Policy
from manager.ports import Store
from manager.store.factory import make_store
from testbed.stores import sqlite_url


@contextlib.asynccontextmanager
async def opened(folder: Path, store: Store | None = None) -> AsyncIterator[Core]:
    """A core that saves in `store`, else in a file of `folder`, for the time of the block."""
    core = Core(store or make_store(sqlite_url(folder)), Policy())
    await core.open()
    writing = asyncio.create_task(core.writer.run())
    try:
        yield core
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
