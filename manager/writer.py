"""The one writer: gathers changed records while a write is under way and saves them together, people's first.

Memory is ahead of the store by at most what waits here. Whoever submits gets a future, which is done when his records,
in this or a newer version, are durable; whoever answers or sends waits for it. One rule holds for all that fails:
memory goes back to what is saved. What was refused is dropped from memory at once (`on_revert`), and should a write
whose answer was lost have been carried out after all, it is taken back before anything else is saved. Nothing is loaded
anew: history, watchers, queues and counters never held anything that was not saved, so they have nothing to forget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from cluster.errors import ClusterError, InvalidInputError, StaleWriteError, UnavailableError
from cluster.process import LOG
from manager.domain.model import Logged, Record
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
Records = Mapping[RecordId, Record | None]
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
MAX_BATCH: Final = 500


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


@dataclass(eq=False)
class Ticket:
    """One submission: its records, its events, and the future of whoever waits for it."""

    ids: frozenset[RecordId]
    events: Sequence[Logged]
    saved: asyncio.Future[None]
    is_taken: bool = False

    def fail(self, error: ClusterError) -> None:
        """Tell whoever waits."""
        if not self.saved.done():
            self.saved.set_exception(error)
            self.saved.exception()  # marks it retrieved: nobody may be waiting

    def succeed(self) -> None:
        """It is durable."""
        if not self.saved.done():
            self.saved.set_result(None)


@dataclass
class Batch:
    """What one write saves."""

    tickets: list[Ticket] = field(default_factory=list)
    records: dict[RecordId, Record | None] = field(default_factory=dict)

    def changes(self, saved: Saved) -> list[Change]:
        """The compare-and-sets; what came and went before it was ever saved is none."""
        pairs = [(record_id, record, saved.get(record_id)) for record_id, record in self.records.items()]
        return [
            _change(record_id, record, before)
            for record_id, record, before in pairs
            if record is not None or before is not None
        ]

    @property
    def events(self) -> list[Logged]:
        """The events of its tickets, in order."""
        return [logged for ticket in self.tickets for logged in ticket.events]


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
        self._urgent: deque[Ticket] = deque()
        self._normal: deque[Ticket] = deque()
        self._pending: dict[RecordId, Record | None] = {}
        self._waiting: dict[RecordId, list[Ticket]] = {}
        self._writing: Batch | None = None
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
            return _failed(self._away())
        self._pending.update(records)
        awaited = set(awaited)
        is_barrier = not records and not awaited
        ids = {*records, *(self._waiting if is_barrier else awaited & self._waiting.keys())}
        ticket = Ticket(frozenset(ids), events, asyncio.get_running_loop().create_future())
        if ids:
            self._queue(ticket, self._urgent if is_urgent else self._normal)
        elif self._writing and (is_barrier or awaited & self._writing.records.keys()):
            ticket.ids = frozenset(self._writing.records)
            self._writing.tickets.append(ticket)
        else:
            ticket.succeed()
        return ticket.saved

    def _queue(self, ticket: Ticket, lane: deque[Ticket]) -> None:
        for record_id in ticket.ids:
            self._waiting.setdefault(record_id, []).append(ticket)
        lane.append(ticket)
        self._wake.set()

    @property
    def backlog(self) -> int:
        """How many records are on their way."""
        return len(self._waiting) + (len(self._writing.records) if self._writing else 0)

    # Writing

    async def run(self) -> None:
        """Write until cancelled; then finish what is under way, write what is left and close the store."""
        step: asyncio.Future[None] | None = None
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._urgent or self._normal:
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
        while (self._urgent or self._normal) and not self.failure:
            await self._write_next()
        self._refuse_all(UnavailableError("the manager is stopping; repeat the call"))
        await self._runner.call(self._store.close)
        self._runner.close()

    def _take(self) -> Batch:
        """Urgent tickets, then others, until there are enough; whatever shares a record goes together."""
        batch = Batch()
        for lane in (self._urgent, self._normal):
            while lane and len(batch.records) < MAX_BATCH:
                self._take_ticket(lane.popleft(), batch)
        return batch

    def _take_ticket(self, first: Ticket, batch: Batch) -> None:
        """A newer version of a record holds the changes of whoever submitted it: he is answered by the same write."""
        tickets = [first]
        while tickets:
            ticket = tickets.pop()
            if ticket.is_taken:
                continue
            ticket.is_taken = True
            batch.tickets.append(ticket)
            for record_id in ticket.ids:
                tickets += self._waiting.pop(record_id, ())
                if record_id in self._pending:
                    batch.records[record_id] = self._pending.pop(record_id)

    async def _write_next(self) -> None:
        batch = self._writing = self._take()
        changes, events = batch.changes(self.saved), batch.events
        try:
            conflicts = await self._runner.call(lambda: self._store.write(changes, events)) if changes or events else []
        except UnsavableError as error:
            self._leave_out(batch, error)
        except StoreError as error:
            self._fail(batch, str(error))
            if not self._is_stopping:
                await self._recover(batch)
        else:
            await self._settle(batch, changes, conflicts)
        finally:
            self._writing = None

    def _leave_out(self, batch: Batch, error: UnsavableError) -> None:
        """One record cannot be saved: whoever touched it is refused, all others are written without it."""
        LOG.error("record cannot be saved", error=str(error))
        bad = [ticket for ticket in batch.tickets if error.record_id in ticket.ids]
        others = [ticket for ticket in batch.tickets if error.record_id not in ticket.ids]
        touched = {record_id for ticket in bad for record_id in ticket.ids}
        self._refuse(bad, InvalidInputError(str(error)))
        self._revert(touched)
        for ticket in others:
            ticket.is_taken = False
            for record_id in ticket.ids - touched:
                if record_id in batch.records:
                    self._pending.setdefault(record_id, batch.records[record_id])
            self._queue(ticket, self._urgent)

    async def _settle(self, batch: Batch, changes: list[Change], conflicts: list[Change]) -> None:
        lost = {(change.kind, change.id) for change in conflicts}
        for change in changes:
            if (change.kind, change.id) not in lost:
                self.saved.put((change.kind, change.id), change.record)
        refused = [ticket for ticket in batch.tickets if lost & ticket.ids]
        done = [ticket for ticket in batch.tickets if not lost & ticket.ids]
        self._on_saved([logged for ticket in done for logged in ticket.events])
        for ticket in done:
            ticket.succeed()
        if refused:
            await self._yield_to_others(refused, lost)

    async def _yield_to_others(self, refused: list[Ticket], lost: set[RecordId]) -> None:
        """Another process changed records: theirs is taken over, and only who touched these is refused."""
        names = ", ".join(sorted(f"{kind} {name}" for kind, name in lost)[:5])
        LOG.error("records were changed by another process", records=names)
        self._refuse(refused, StaleWriteError(f"changed by another process: {names}; repeat the call"))
        found = await self._runner.call(lambda: self._store.read(list(lost)))
        for record_id in lost:
            self.saved.put(record_id, found.get(record_id))
        self._revert({*lost, *(record_id for ticket in refused for record_id in ticket.ids)})

    # Failing

    def _away(self) -> UnavailableError:
        return UnavailableError(f"the store does not work: {self.failure}; repeat the call later")

    def _fail(self, batch: Batch, failure: str) -> None:
        """Everybody who waits is told, and memory goes back to what is saved."""
        LOG.error("store failed", error=failure, waiting=len(batch.records) + len(self._pending))
        self.failure = failure
        self.working.clear()
        touched = {*batch.records, *self._pending}
        for ticket in batch.tickets:
            ticket.fail(self._away())
        self._refuse_all(self._away())
        self._revert(touched)

    def _refuse_all(self, error: ClusterError) -> None:
        self._refuse([*self._urgent, *self._normal], error)
        self._urgent.clear()
        self._normal.clear()

    def _refuse(self, tickets: Iterable[Ticket], error: ClusterError) -> None:
        """Refuse tickets, and whoever built on their records."""
        queue = list(tickets)
        while queue:
            ticket = queue.pop()
            ticket.is_taken = True
            ticket.fail(error)
            for record_id in ticket.ids:
                self._pending.pop(record_id, None)
                queue += self._waiting.pop(record_id, ())

    def _revert(self, record_ids: Iterable[RecordId]) -> None:
        self._on_revert({record_id: self.saved.get(record_id) for record_id in record_ids})

    async def _recover(self, batch: Batch) -> None:
        """Try until the store works; a refused write that it carried out after all is taken back first."""
        pause_s = FIRST_PAUSE_S
        while self.failure:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._runner.call(self._reopen)
                await self._take_back(batch)
            except StoreError as error:
                self.failure = str(error)
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
            if _version(there) == _version(before):
                continue
            if _version(there) != _version(attempted):
                self.saved.put(record_id, there)  # somebody else's: it is taken over
                continue
            back = replace(before, version=_version(there) + 1) if before else None
            undone.append(_change(record_id, back, there))
        conflicts = await self._runner.call(lambda: self._store.write(undone)) if undone else []
        if conflicts:
            raise StoreError(f"{conflicts[0].kind} {conflicts[0].id} is being changed by another process")
        for change in undone:
            self.saved.put((change.kind, change.id), change.record)
        if undone:
            LOG.warning("a refused write had reached the store: it was taken back", records=len(undone))
        self._revert(batch.records)


def _change(record_id: RecordId, record: Record | None, before: Record | None) -> Change:
    kind, name = record_id
    return Change(kind=kind, id=name, expected=_version(before), record=record, before=before)


def _version(record: Record | None) -> int:
    return record.version if record else 0


def _failed(error: ClusterError) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # marks it retrieved: nobody may be waiting
    return future


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
