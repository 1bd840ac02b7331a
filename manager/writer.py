"""The one writer: gathers changed records while a write is under way and saves them together, in order.

Memory is ahead of the store by at most what waits here; whoever answers or sends waits for `submit`'s future first.
When a write fails, everything that waited fails, and memory is replaced by what the store holds once it works again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.errors import UnavailableError
from cluster.process import LOG
from manager.domain.model import Record
from manager.ports import Change, Contents, Kind, Store, StoreError, StoreLockedError

Result = TypeVar("Result")
RecordId = tuple[Kind, str]
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


class Batch:
    """Changed records that are saved together, and the future of whoever waits for it."""

    def __init__(self) -> None:
        self.records: dict[RecordId, Record | None] = {}
        self.saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, detail: str) -> None:
        """Tell everybody who waits that nothing is certain."""
        if not self.saved.done():
            self.saved.set_exception(UnavailableError(detail))
            self.saved.exception()  # marks it retrieved: nobody may be waiting


class Writer:
    """Owns the store's executor thread. `on_reload` gets the store's contents after each failure."""

    def __init__(self, store: Store, on_reload: Callable[[Contents], None]) -> None:
        self._store = store
        self._on_reload = on_reload
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._versions: dict[RecordId, int] = {}
        self._next = Batch()
        self._writing: Batch | None = None
        self._wake = asyncio.Event()
        self.failure = "the store was not opened yet"
        self.working = asyncio.Event()

    async def open(self) -> Contents:
        """Open the store and read it, trying again until it works. Raises StoreLockedError at once."""
        try:
            contents = await self._call(self._open)
        except StoreLockedError:
            raise
        except StoreError as error:
            LOG.error("store cannot be opened, trying again", error=str(error))
            contents = await self._reopen()
        self._adopt(contents)
        return contents

    def _open(self) -> Contents:
        self._store.open()
        contents = self._store.load()
        self._store.ping()
        return contents

    async def _reopen(self) -> Contents:
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                return await self._call(self._open)
            except StoreError as error:
                self.failure = str(error)

    def submit(self, records: Mapping[RecordId, Record | None]) -> asyncio.Future[None]:
        """Save records (None removes); the future is done when they, and all that came before, are durable."""
        if self.failure:
            batch = Batch()
            batch.fail(f"the store does not work: {self.failure}")
            return batch.saved
        if not records:
            return self._barrier()
        self._next.records.update(records)
        self._wake.set()
        return self._next.saved

    def _barrier(self) -> asyncio.Future[None]:
        if self._next.records:
            return self._next.saved
        if self._writing:
            return self._writing.saved
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def run(self) -> None:
        """Write until cancelled; then write what is left and close the store."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._write_next()
        finally:
            await self._drain()

    async def _drain(self) -> None:
        if self._next.records and not self.failure:
            await self._write_next()
        await self._call(self._store.close)
        self._executor.shutdown()

    async def _write_next(self) -> None:
        batch, self._next = self._next, Batch()
        self._writing = batch
        try:
            await self._save(batch)
        except StoreError as error:
            await self._recover(batch, error)
        finally:
            self._writing = None

    async def _save(self, batch: Batch) -> None:
        changes = [self._change(record_id, record) for record_id, record in batch.records.items()]
        conflicts = await self._call(lambda: self._store.write(changes))
        if conflicts:
            raise StoreError(f"{conflicts[0].kind} {conflicts[0].id} was changed by another process")
        self._versions.update({(c.kind, c.id): c.record.version if c.record else 0 for c in changes})
        if not batch.saved.done():
            batch.saved.set_result(None)

    def _change(self, record_id: RecordId, record: Record | None) -> Change:
        kind, name = record_id
        return Change(kind=kind, id=name, expected=self._versions.get(record_id, 0), record=record)

    async def _recover(self, batch: Batch, error: StoreError) -> None:
        self.failure = str(error)
        self.working.clear()
        LOG.error("store failed", error=self.failure, waiting=len(batch.records))
        batch.fail(f"the store does not work: {error}")
        self._next.fail(f"the store does not work: {error}")
        self._next = Batch()
        contents = await self._reopen()
        self._adopt(contents)
        self._on_reload(contents)
        LOG.info("store works again")

    def _adopt(self, contents: Contents) -> None:
        self._versions = {
            **{(Kind.NODE, node.id): node.version for node in contents.nodes},
            **{(Kind.JOB, job.id): job.version for job in contents.jobs},
            **{(Kind.INSTANCE, str(item.key)): item.version for item in contents.instances},
            **{(Kind.SETTING, item.name): item.version for item in contents.settings},
        }
        self.failure = ""
        self.working.set()

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
