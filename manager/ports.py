"""What the manager needs from outside, as protocols: adapters live in clock.py, store/, mqtt/ and planner.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from manager.domain.model import Event, Instance, Job, Logged, Node, Record, Setting

Result = TypeVar("Result")


class Kind(StrEnum):
    """The kinds of records in a store."""

    NODE = "node"
    JOB = "job"
    INSTANCE = "instance"
    SETTING = "setting"


RecordId = tuple[Kind, str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One compare-and-set: `record` replaces the saved one of version `expected` (0: there must be none).

    `record` None removes it. The record's own `version` is what is saved; it is greater than `expected`. `before` is
    the saved record as far as the writer knows.
    """

    kind: Kind
    id: str
    expected: int
    record: Record | None
    before: Record | None = None


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A saved record that cannot be read: `document` is its JSON as it was saved, `error` why, `at_ms` since when."""

    kind: Kind
    id: str
    document: str
    error: str
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that is saved, but for the log."""

    nodes: tuple[Node, ...] = ()
    jobs: tuple[Job, ...] = ()
    instances: tuple[Instance, ...] = ()
    settings: tuple[Setting, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


class StoreError(Exception):
    """The store does not work now: nothing, or only a first part of what was asked, is known to be saved."""


class StoreLockedError(StoreError):
    """Another process owns the store."""


class StoreTooNewError(StoreError):
    """A newer program wrote the store: this one must not touch it."""


class UnsavableError(StoreError):
    """One record has no form in which it can be saved; nothing was written, and without it all else can be."""

    def __init__(self, record_id: RecordId, why: str) -> None:
        super().__init__(f"the {record_id[0].value} {record_id[1]!r} cannot be saved: {why}")
        self.record_id = record_id


class Store(Protocol):
    """Durable records with compare-and-set, and a log. Blocking: called on the store's one executor thread only."""

    def open(self) -> None:
        """Connect, take ownership where there can be only one owner, and bring the schema up to date.

        Raises StoreLockedError, StoreTooNewError or StoreError; may be called again after a failure.
        """

    def load(self, now_ms: int) -> Contents:
        """Read everything; what cannot be read is put into quarantine first. Raises StoreError."""

    def read(self, ids: Sequence[RecordId]) -> dict[RecordId, Record]:
        """Those of these records that are there. Raises StoreError."""

    def write(self, changes: Sequence[Change], events: Sequence[Logged] = ()) -> list[Change]:
        """Apply changes in order, durably before it returns; answers those whose `expected` did not hold.

        A change that did not hold changed nothing; the others were applied all the same. Of each subject the newest
        KEPT_EVENTS events are kept, until its record is removed. Raises UnsavableError before anything was written, or
        StoreError: then a first part may have been applied.
        """

    def events(self, subject: str) -> list[Event]:
        """The logged events of a subject, oldest first. Raises StoreError."""

    def release(self, kind: Kind, record_id: str) -> None:
        """Drop a record from quarantine; a no-op where there is none. Raises StoreError."""

    def ping(self) -> None:
        """Raise StoreError where a write would fail now."""

    def close(self) -> None:
        """Give everything back; may be called twice."""


class StoreRunner(Protocol):
    """Where the store's blocking calls run, one after the other."""

    def call(self, function: Callable[[], Result]) -> Awaitable[Result]:
        """The result of the function, once it is done. Raises what it raises."""

    def close(self) -> None:
        """After the last call."""


class Clock(Protocol):
    """The manager's times."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 that neither jump nor go back."""

    def mono_s(self) -> float:
        """Seconds of a monotonic clock."""

    def start_after(self, newest_ms: int) -> int:
        """Go on from a time that was already seen; answers by how much the machine's clock is behind it, 0 if not."""

    def new_step_ms(self) -> int:
        """By how much the machine's clock was set since the last answer; 0 if not."""
