"""What waits to be saved, and who waits for it. No IO: the writer takes batches from here, and tells what came of them.

Whoever submits gets a future. A newer version of a record holds the changes of all who submitted it before, so they are
saved, answered and refused together. A call that changed nothing waits for all that was on its way before it, but adds
nothing to any write. A submission may come in parts (`begin`, `extend`, `close`): until it is closed, it and whatever
builds on it are in no write, so that it is saved as a whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import ClusterError, UnavailableError
from manager.domain.model import Logged, Record
from manager.ports import Change, RecordId
from manager.saved import Saved

Records = Mapping[RecordId, Record | None]
MAX_BATCH: Final = 500


@dataclass(eq=False)
class Ticket:
    """One submission: its records, its events, and the future of whoever waits for it. `number` grows with each.

    While it `is_growing` more of it is to come.
    """

    number: int
    saved: asyncio.Future[None]
    ids: set[RecordId] = field(default_factory=set)
    events: list[Logged] = field(default_factory=list)
    is_growing: bool = True
    is_taken: bool = False

    def answer(self, error: ClusterError | None = None) -> None:
        """Tell whoever waits, once."""
        if self.saved.done():
            return
        if error is None:
            self.saved.set_result(None)
            return
        self.saved.set_exception(error)
        self.saved.exception()  # marks it retrieved: nobody may be waiting


@dataclass
class Batch:
    """What one write saves; its tickets in order of submission."""

    tickets: list[Ticket] = field(default_factory=list)
    records: dict[RecordId, Record | None] = field(default_factory=dict)

    def changes(self, saved: Saved) -> list[Change]:
        """The compare-and-sets; what came and went before it was ever saved is none."""
        pairs = [(record_id, record, saved.get(record_id)) for record_id, record in self.records.items()]
        return [
            change_of(record_id, record, before)
            for record_id, record, before in pairs
            if record is not None or before is not None
        ]

    @property
    def logged(self) -> list[Logged]:
        """What the log gets: of records that are gone with this write it would keep it for whoever comes next."""
        gone = {f"{kind.value}:{name}" for (kind, name), record in self.records.items() if record is None}
        return [logged for ticket in self.tickets for logged in ticket.events if logged.subject not in gone]


class Backlog:
    """Two lanes, the newest version of each record, and the batch that is being written."""

    def __init__(self) -> None:
        self.writing: Batch | None = None
        self._urgent: deque[Ticket] = deque()
        self._normal: deque[Ticket] = deque()
        self._held: list[tuple[Ticket, deque[Ticket]]] = []
        self._growing: dict[int, Ticket] = {}
        self._pending: dict[RecordId, Record | None] = {}
        self._waiting: dict[RecordId, list[Ticket]] = {}
        self._open: OrderedDict[int, Ticket] = OrderedDict()
        self._barriers: deque[Ticket] = deque()
        self._last = 0

    def __len__(self) -> int:
        return len(self._waiting) + (len(self.writing.records) if self.writing else 0)

    @property
    def has_more(self) -> bool:
        """Whether there is something to take."""
        return bool(self._urgent or self._normal)

    def add(
        self, records: Records, events: Sequence[Logged], awaited: Iterable[RecordId], *, is_urgent: bool
    ) -> asyncio.Future[None]:
        """Let records wait, or for those of `awaited` that are on their way; with neither, for everything that is."""
        ticket = self.begin()
        self.extend(ticket, records, events)
        self.close(ticket, awaited, is_urgent=is_urgent)
        return ticket.saved

    def begin(self) -> Ticket:
        """A submission that comes in parts."""
        self._last += 1
        ticket = Ticket(self._last, asyncio.get_running_loop().create_future())
        self._open[ticket.number] = self._growing[ticket.number] = ticket
        return ticket

    def extend(self, ticket: Ticket, records: Records, events: Sequence[Logged]) -> None:
        """Add to one that is not closed."""
        self._pending.update(records)
        self._join(ticket, records)
        ticket.events += events

    def close(self, ticket: Ticket, awaited: Iterable[RecordId], *, is_urgent: bool) -> None:
        """All of it is there. It also waits for what `add` says."""
        wanted = set(awaited)
        self._join(ticket, wanted & self._waiting.keys())
        self._end_growth(ticket)
        if ticket.ids:
            (self._urgent if is_urgent else self._normal).append(ticket)
            return
        del self._open[ticket.number]
        self._last += 1
        ticket.number = self._last
        if self.writing and (written := wanted & self.writing.records.keys()):
            ticket.ids = written
            self.writing.tickets.append(ticket)
            self._open[ticket.number] = ticket
        elif not wanted and self._open:
            self._barriers.append(ticket)
        else:
            ticket.answer()

    def _join(self, ticket: Ticket, record_ids: Iterable[RecordId]) -> None:
        for record_id in record_ids:
            if record_id not in ticket.ids:
                ticket.ids.add(record_id)
                self._waiting.setdefault(record_id, []).append(ticket)

    def _end_growth(self, ticket: Ticket) -> None:
        """Whatever built on it need not be held any more."""
        ticket.is_growing = False
        self._growing.pop(ticket.number, None)
        held, self._held = self._held, []
        for other, lane in reversed(held):
            lane.appendleft(other)

    def _queue(self, ticket: Ticket, lane: deque[Ticket]) -> None:
        for record_id in ticket.ids:
            self._waiting.setdefault(record_id, []).append(ticket)
        lane.append(ticket)
        self._open[ticket.number] = ticket

    # Writing

    def take(self) -> Batch:
        """What is written next: urgent tickets, then others, until there are enough records."""
        batch = self.writing = Batch()
        for lane in (self._urgent, self._normal):
            while lane and len(batch.records) < MAX_BATCH:
                first = lane.popleft()
                group = self._group(first)
                if any(ticket.is_growing for ticket in group):
                    self._held.append((first, lane))
                else:
                    self._take_group(group, batch)
        batch.tickets.sort(key=lambda ticket: ticket.number)
        return batch

    def _group(self, first: Ticket) -> list[Ticket]:
        """A ticket that nobody has taken, and whoever shares a record with it or with one of these."""
        found: dict[Ticket, None] = {}
        seen: set[RecordId] = set()
        queue = [first]
        while queue:
            ticket = queue.pop()
            if ticket.is_taken or ticket in found:
                continue
            found[ticket] = None
            for record_id in ticket.ids - seen:
                seen.add(record_id)
                queue += self._waiting.get(record_id, ())
        return list(found)

    def _take_group(self, group: list[Ticket], batch: Batch) -> None:
        for ticket in group:
            ticket.is_taken = True
            batch.tickets.append(ticket)
            for record_id in ticket.ids:
                self._waiting.pop(record_id, None)
                if record_id in self._pending:
                    batch.records[record_id] = self._pending.pop(record_id)

    def answer(self, tickets: Iterable[Ticket]) -> None:
        """These are durable."""
        for ticket in tickets:
            self._answer(ticket, None)

    def refuse(self, tickets: Iterable[Ticket], error: ClusterError) -> set[RecordId]:
        """Refuse tickets, and whoever waits and built on their records; answers all that memory has to go back on."""
        touched: set[RecordId] = set()
        refused: set[Ticket] = set()
        queue = list(tickets)
        while queue:
            ticket = queue.pop()
            if ticket in refused:
                continue
            refused.add(ticket)
            ticket.is_taken = True
            self._end_growth(ticket)
            self._answer(ticket, error)
            for record_id in ticket.ids - touched:
                touched.add(record_id)
                self._pending.pop(record_id, None)
                queue += self._waiting.pop(record_id, ())
        return touched

    def refuse_all(self, error: ClusterError) -> set[RecordId]:
        """Refuse everybody who waits."""
        held = [ticket for ticket, _ in self._held]
        touched = self.refuse([*self._urgent, *self._normal, *held, *self._growing.values()], error)
        self._urgent.clear()
        self._normal.clear()
        return touched

    def leave_out(self, batch: Batch, record_id: RecordId, error: ClusterError) -> set[RecordId]:
        """Refuse whoever touched a record of a batch, and who shares records with them; the others wait again."""
        touched, rest = {record_id}, batch.tickets
        while bad := [ticket for ticket in rest if touched & ticket.ids]:
            rest = [ticket for ticket in rest if not touched & ticket.ids]
            touched |= self.refuse(bad, error)
        for ticket in rest:
            ticket.is_taken = False
            for name in ticket.ids & batch.records.keys():
                self._pending.setdefault(name, batch.records[name])
            self._queue(ticket, self._urgent)
        return touched

    def _answer(self, ticket: Ticket, error: ClusterError | None) -> None:
        """Tell a ticket, and those who wait for all that came before them."""
        ticket.answer(error)
        self._open.pop(ticket.number, None)
        if error is not None:
            while self._barriers and self._barriers[-1].number > ticket.number:
                self._barriers.pop().answer(_as_refusal(error))
        first = next(iter(self._open), self._last + 1)
        while self._barriers and self._barriers[0].number < first:
            self._barriers.popleft().answer()


def change_of(record_id: RecordId, record: Record | None, before: Record | None) -> Change:
    """The compare-and-set that puts a record in the place of the one before (None: there is none)."""
    kind, name = record_id
    return Change(kind=kind, id=name, expected=before.version if before else 0, record=record, before=before)


def _as_refusal(error: ClusterError) -> ClusterError:
    """What is wrong with somebody else's change is not wrong with a call that found it made."""
    if isinstance(error, UnavailableError):
        return error
    return UnavailableError("a change that was on its way could not be saved; repeat the call")
