"""The one writer: gathers changed records while a write is under way and saves them together, people's first.

Memory is ahead of the store by at most what waits here. Whoever submits gets a future, which is done when his records,
in this or a newer version, are durable; whoever answers or sends waits for it. One rule holds for all that fails:
memory goes back to what is saved. What was refused is dropped from memory at once (`on_revert`), and should a write
whose answer was lost have been carried out after all, it is taken back before anything else is saved. Nothing is loaded
anew: history, watchers, queues and counters never held anything that was not saved, so they have nothing to forget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, TypeVar

from cluster.errors import ClusterError, InvalidInputError, StaleWriteError, UnavailableError
from cluster.process import LOG, without_collections
from manager.backlog import MAX_BATCH, Backlog, Batch, Records, Ticket, change_of
from manager.domain.model import Logged
from manager.ports import (
    Change,
    Contents,
    RecordId,
    Store,
    StoreError,
    StoreLockedError,
    StoreRunner,
    StoreTooNewError,
    UnsavableError,
)
from manager.saved import Saved

Result = TypeVar("Result")
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
TAKEN_AT_ONCE: Final = MAX_BATCH


class StoreThread:
    """Runs the store's blocking calls one after the other on a thread of their own."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def call(self, function: Callable[[], Result]) -> Result:
        """The result of the function. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def close(self) -> None:
        """After the last call."""
        self._executor.shutdown()


class Writer:
    """`on_revert` is told what memory has to go back to, `on_saved` of events that became durable."""

    def __init__(
        self,
        store: Store,
        on_revert: Callable[[Records], None],
        on_saved: Callable[[Sequence[Logged]], None],
        runner: StoreRunner | None = None,
    ) -> None:
        self._store = store
        self._on_revert = on_revert
        self._on_saved = on_saved
        self._runner = runner or StoreThread()
        self.saved = Saved()
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._is_stopping = False
        self.failure = "the store was not opened yet"
        self.working = asyncio.Event()

    # Opening

    async def open(self, now_ms: int) -> Contents:
        """Open the store and read it, trying again until it works. Raises StoreLockedError or StoreTooNewError."""
        pause_s, is_told = FIRST_PAUSE_S, False
        while True:
            try:
                contents = await self._runner.call(lambda: self._open(now_ms))
                break
            except (StoreLockedError, StoreTooNewError):
                raise
            except StoreError as error:
                self.failure = str(error)
                if not is_told:
                    LOG.error("store cannot be opened, trying again", error=self.failure)
                is_told = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self.saved.load(contents)
        self._works()
        return contents

    def _open(self, now_ms: int) -> Contents:
        self._store.open()
        with without_collections():
            contents = self._store.load(now_ms)
        self._store.ping()
        return contents

    def _works(self) -> None:
        self.failure = ""
        self.working.set()

    async def ask(self, function: Callable[[Store], Result]) -> Result:
        """Something else of the store, between two writes. Raises UnavailableError."""
        if self.failure:
            raise UnavailableError(f"the store does not work: {self.failure}")
        try:
            return await self._runner.call(lambda: function(self._store))
        except StoreError as error:
            raise UnavailableError(f"the store does not work: {error}") from None

    # Submitting

    def submit(
        self,
        records: Records,
        events: Sequence[Logged] = (),
        *,
        awaited: Iterable[RecordId] = (),
        is_urgent: bool = False,
    ) -> asyncio.Future[None]:
        """Save records (None removes) with their events; the future is done when they are durable.

        It also waits for those of `awaited` that are on their way; with neither, for everything that is. `is_urgent`:
        somebody waits for the answer, so it overtakes what does not matter to anybody right now.
        """
        if self.failure:
            self._revert(records)
            return _failed(self._away())
        saved = self._backlog.add(records, events, awaited, is_urgent=is_urgent)
        self._wake.set()
        return saved

    def begin(self) -> Ticket:
        """A submission that comes in parts, of which nothing is saved before it is closed. Raises UnavailableError."""
        if self.failure:
            raise self._away()
        return self._backlog.begin()

    def extend(self, ticket: Ticket, records: Records, events: Sequence[Logged]) -> None:
        """Add records to it. Raises what it was refused for meanwhile: these are taken back as well."""
        if ticket.saved.done():
            self._revert(records)
            raise ticket.saved.exception() or RuntimeError("the submission is closed")
        self._backlog.extend(ticket, records, events)

    def close(self, ticket: Ticket, *, awaited: Iterable[RecordId] = ()) -> None:
        """It is whole, and somebody waits for it and for those of `awaited` that are on their way."""
        self._backlog.close(ticket, awaited, is_urgent=True)
        self._wake.set()

    def abandon(self, ticket: Ticket) -> None:
        """It will not be whole: all of it is taken back, and whoever built on it is refused."""
        if not ticket.saved.done():
            error = UnavailableError("a change that was on its way was given up; repeat the call")
            self._revert(self._backlog.refuse([ticket], error))
            self._wake.set()

    @property
    def backlog(self) -> int:
        """How many records are on their way."""
        return len(self._backlog)

    # Writing

    async def run(self) -> None:
        """Write until cancelled; then finish what is under way, write what is left and close the store."""
        step: asyncio.Future[None] | None = None
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._backlog.has_more:
                    step = asyncio.ensure_future(self._write_next())
                    await asyncio.shield(step)
        finally:
            self._is_stopping = True
            if step is not None and not step.done():
                if self.failure:
                    step.cancel()
                await asyncio.gather(step, return_exceptions=True)
            await self._drain()

    async def _drain(self) -> None:
        while self._backlog.has_more and not self.failure:
            await self._write_next()
        self.failure = self.failure or "the manager is stopping"
        self._revert(self._backlog.refuse_all(self._away()))
        await self._runner.call(self._store.close)
        self._runner.close()

    async def _write_next(self) -> None:
        batch = self._backlog.take()
        try:
            await self._write(batch)
        except UnsavableError as error:
            LOG.error("record cannot be saved", error=str(error))
            self._revert(self._backlog.leave_out(batch, error.record_id, InvalidInputError(str(error))))
        except Exception as error:  # noqa: BLE001 - whatever a write stumbles over must not end the process
            self._fail(batch, error)
            if not self._is_stopping:
                await self._recover(batch)

    async def _write(self, batch: Batch) -> None:
        changes, events = batch.changes(self.saved), batch.logged
        try:
            conflicts = await self._runner.call(lambda: self._store.write(changes, events)) if changes or events else []
            lost = {(change.kind, change.id) for change in conflicts}
            await self._take_over([change for change in changes if (change.kind, change.id) not in lost])
        finally:
            self._backlog.writing = None
        done = [ticket for ticket in batch.tickets if not lost & ticket.ids]
        self._on_saved([logged for ticket in done for logged in ticket.events])
        self._backlog.answer(done)
        if lost:
            await self._yield_to_others([ticket for ticket in batch.tickets if lost & ticket.ids], lost)

    async def _take_over(self, changes: Sequence[Change]) -> None:
        """These are durable; of many, some at a time."""
        for position, change in enumerate(changes, 1):
            self.saved.put((change.kind, change.id), change.record)
            if position % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _yield_to_others(self, refused: list[Ticket], lost: set[RecordId]) -> None:
        """Another process changed records: theirs is taken over, and only who touched these is refused."""
        names = ", ".join(sorted(f"{kind} {name}" for kind, name in lost)[:5])
        LOG.error("records were changed by another process", records=names)
        found = await self._runner.call(lambda: self._store.read(list(lost)))
        for record_id in lost:
            self.saved.put(record_id, found.get(record_id))
        error = StaleWriteError(f"changed by another process: {names}; repeat the call")
        self._revert(self._backlog.refuse(refused, error))

    # Failing

    def _away(self) -> UnavailableError:
        return UnavailableError(f"the store does not work: {self.failure}; repeat the call later")

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Everybody who waits is told, and memory goes back to what is saved."""
        if not isinstance(error, StoreError):
            LOG.exception("a write failed as no write should")
        self.failure = str(error) or type(error).__name__
        self.working.clear()
        LOG.error("store failed", error=self.failure, waiting=len(batch.records) + len(self._backlog))
        refused = self._backlog.refuse(batch.tickets, self._away()) | self._backlog.refuse_all(self._away())
        self._revert(refused)

    def _revert(self, record_ids: Iterable[RecordId]) -> None:
        """What is in the write under way counts as saved: should that fail, it is taken back with it."""
        writing = self._backlog.writing
        written = writing.records if writing else {}
        found = {name: written[name] if name in written else self.saved.get(name) for name in record_ids}
        if found:
            self._on_revert(found)

    async def _recover(self, batch: Batch) -> None:
        """Try until the store works; a refused write that it carried out after all is taken back first."""
        pause_s = FIRST_PAUSE_S
        while self.failure:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._runner.call(self._reopen)
                await self._take_back(batch)
            except Exception as error:  # noqa: BLE001 - it is shown, and tried again
                self.failure = str(error) or type(error).__name__
            else:
                self._works()
        LOG.info("store works again")

    def _reopen(self) -> None:
        self._store.open()
        self._store.ping()

    async def _take_back(self, batch: Batch) -> None:
        """Find out what became of the write that failed. Raises StoreError."""
        found = await self._runner.call(lambda: self._store.read(list(batch.records)))
        undone = []
        for record_id, attempted in batch.records.items():
            there, before = found.get(record_id), self.saved.get(record_id)
            if there == before:
                continue
            if there != attempted:
                self.saved.put(record_id, there)  # somebody else's: it is taken over
                continue
            back = replace(before, version=(there.version if there else 0) + 1) if before else None
            undone.append(change_of(record_id, back, there))
        conflicts = await self._runner.call(lambda: self._store.write(undone)) if undone else []
        if conflicts:
            raise StoreError(f"{conflicts[0].kind} {conflicts[0].id} is being changed by another process")
        for change in undone:
            self.saved.put((change.kind, change.id), change.record)
        if undone:
            LOG.warning("a refused write had reached the store: it was taken back", records=len(undone))
        self._revert(batch.records)


def _failed(error: ClusterError) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # marks it retrieved: nobody may be waiting
    return future
