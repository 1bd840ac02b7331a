"""The recent history of the whole cluster, in memory: begun at start with what every record keeps of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from manager.domain.model import Event, Instance, Job, Node

MAX_KEPT: Final = 20_000
TOLD_AT_ONCE: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An event and its subject: "instance:JOB/NUMBER", "node:ID", "job:ID" or "cluster". `id` grows with time."""

    id: int
    subject: str
    event: Event

    @property
    def job_id(self) -> str:
        """The job that it is about; "" for nodes."""
        kind, _, name = self.subject.partition(":")
        return name.rpartition("/")[0] if kind == "instance" else name if kind == "job" else ""

    @property
    def instance_number(self) -> int | None:
        """The instance that it is about; None for nodes and jobs."""
        kind, _, name = self.subject.partition(":")
        return int(name.rpartition("/")[2]) if kind == "instance" else None


class History:
    """A bounded list of entries, oldest first, and those who wait for new ones."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MAX_KEPT)
        self._last_id = 0
        self._watchers: set[asyncio.Event] = set()

    def begin(self, nodes: Iterable[Node], jobs: Iterable[Job], instances: Iterable[Instance]) -> None:
        """Begin with the newest of what the records remember."""
        found = [(f"node:{node.id}", event) for node in nodes for event in node.events]
        found += [(f"job:{job.id}", event) for job in jobs for event in job.events]
        found += [(f"instance:{item.key}", event) for item in instances for event in item.events]
        found.sort(key=lambda pair: pair[1].at_ms)
        self.extend(found[-MAX_KEPT:])

    def extend(self, events: Iterable[tuple[str, Event]]) -> None:
        """Append what happened, in order, once it is durable, and wake the watchers."""
        for subject, event in events:
            self._last_id = max(self._last_id + 1, event.at_ms * 1000)
            self._entries.append(Entry(id=self._last_id, subject=subject, event=event))
        for watcher in self._watchers:
            watcher.set()

    def newest_first(self, keep: Callable[[Entry], bool], before_id: int, limit: int) -> list[Entry]:
        """Up to `limit` entries older than `before_id` (0: from the newest)."""
        found: list[Entry] = []
        for entry in reversed(self._entries):
            if (not before_id or entry.id < before_id) and keep(entry):
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    def after(self, entry_id: int) -> list[Entry]:
        """The entries after an id, oldest first."""
        found = []
        for entry in reversed(self._entries):
            if entry.id <= entry_id:
                break
            found.append(entry)
        return found[::-1]

    async def follow(self, after_id: int) -> AsyncIterator[list[Entry]]:
        """Entries after an id (0: from now on) as they come."""
        last = after_id or self._last_id
        with self._watching() as woken:
            while True:
                fresh = self.after(last)
                for first in range(0, len(fresh), TOLD_AT_ONCE):
                    yield fresh[first : first + TOLD_AT_ONCE]
                last = fresh[-1].id if fresh else last
                await woken.wait()
                woken.clear()

    @contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        woken.set()
        self._watchers.add(woken)
        try:
            yield woken
        finally:
            self._watchers.discard(woken)
