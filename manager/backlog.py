"""What waits to be saved, and who waits for it. No IO: the writer takes batches from here, and tells what came of them.

Whoever submits gets a future. A newer version of a record holds the changes of all who submitted it before, so they are
saved, answered and refused together. A call that changed nothing waits for all that was on its way before it, but adds
nothing to any write.
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
    """One submission: its records, its events, and the future of whoever waits for it. `number` grows with each."""

    number: int
    ids: frozenset[RecordId]
    events: Sequence[Logged]
    saved: asyncio.Future[None]
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
        self._pending.update(records)
        wanted = set(awaited)
        self._last += 1
        ids = frozenset({*records, *(wanted & self._waiting.keys())})
        ticket = Ticket(self._last, ids, events, asyncio.get_running_loop().create_future())
        if ids:
            self._queue(ticket, self._urgent if is_urgent else self._normal)
        elif self.writing and (written := wanted & self.writing.records.keys()):
            ticket.ids = frozenset(written)
            self.writing.tickets.append(ticket)
            self._open[ticket.number] = ticket
        elif not wanted and self._open:
            self._barriers.append(ticket)
        else:
            ticket.answer()
        return ticket.saved

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
                self._take_with_peers(lane.popleft(), batch)
        batch.tickets.sort(key=lambda ticket: ticket.number)
        return batch

    def _take_with_peers(self, first: Ticket, batch: Batch) -> None:
        """Whoever shares a record goes along."""
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

    def answer(self, tickets: Iterable[Ticket]) -> None:
        """These are durable."""
        for ticket in tickets:
            self._answer(ticket, None)

    def refuse(self, tickets: Iterable[Ticket], error: ClusterError) -> set[RecordId]:
        """Refuse tickets, and whoever waits and built on their records; answers all that memory has to go back on."""
        touched: set[RecordId] = set()
        queue = list(tickets)
        while queue:
            ticket = queue.pop()
            ticket.is_taken = True
            self._answer(ticket, error)
            for record_id in ticket.ids - touched:
                touched.add(record_id)
                self._pending.pop(record_id, None)
                queue += self._waiting.pop(record_id, ())
        return touched

    def refuse_all(self, error: ClusterError) -> set[RecordId]:
        """Refuse everybody who waits."""
        touched = self.refuse([*self._urgent, *self._normal], error)
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
