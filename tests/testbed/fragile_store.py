"""A real SQLite store that a test can make slow, make fail, and change behind the manager's back."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manager.domain.model import Event, Logged, Record
from manager.ports import Change, Contents, Kind, RecordId, StoreError
from manager.store.factory import make_store
from testbed.stores import sqlite_url

PATIENCE_S: Final = 60.0


class FragileStore:
    """While `fault` is set writing fails, after having written where `writes_first`; while held it waits.

    After `writes_left` more writes it has a fault (None: never).
    `batches` has the ids of each write that was carried out, `loads` how often everything was read.
    """

    def __init__(self, folder: Path) -> None:
        self.inner = make_store(sqlite_url(folder))
        self.fault = ""
        self.writes_first = False
        self.writes_left: int | None = None
        self.reading_fault = ""
        self.batches: list[list[RecordId]] = []
        self.loads = 0
        self.has_begun = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def hold(self) -> None:
        """Let writes wait from now on."""
        self.has_begun.clear()
        self._may_go_on.clear()

    def let_go(self) -> None:
        """Let writes go on."""
        self._may_go_on.set()

    def theirs(self, *changes: Change) -> None:
        """What another process does to the store."""
        assert self.inner.write(changes) == []

    def open(self) -> None:
        """Part of the port."""
        self.inner.open()

    def load(self, now_ms: int) -> Contents:
        """Part of the port."""
        self.loads += 1
        return self.inner.load(now_ms)

    def read(self, ids: Sequence[RecordId]) -> dict[RecordId, Record]:
        """Part of the port."""
        if self.reading_fault:
            raise StoreError(self.reading_fault)
        return self.inner.read(ids)

    def write(self, changes: Sequence[Change], events: Sequence[Logged] = ()) -> list[Change]:
        """Part of the port."""
        self.has_begun.set()
        assert self._may_go_on.wait(PATIENCE_S)
        self._use_up()
        if self.fault and not self.writes_first:
            raise StoreError(self.fault)
        conflicts = self.inner.write(changes, events)
        self.batches.append([(change.kind, change.id) for change in changes])
        if self.fault:
            raise StoreError(self.fault)
        return conflicts

    def _use_up(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                self.fault, self.writes_left = "no space", None

    def events(self, subject: str) -> list[Event]:
        """Part of the port."""
        return self.inner.events(subject)

    def release(self, kind: Kind, record_id: str) -> None:
        """Part of the port."""
        self.inner.release(kind, record_id)

    def ping(self) -> None:
        """Part of the port."""
        if self.fault:
            raise StoreError(self.fault)
        self.inner.ping()

    def close(self) -> None:
        """Part of the port."""
        self.inner.close()
