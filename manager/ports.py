"""What the manager needs from outside, as protocols: adapters live in store/, mqtt/ and planner.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from manager.domain.model import Instance, Job, Node, Record, Setting


class Kind(StrEnum):
    """The kinds of records in a store."""

    NODE = "node"
    JOB = "job"
    INSTANCE = "instance"
    SETTING = "setting"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One compare-and-set: `record` replaces the saved one of version `expected` (0: there must be none).

    `record` None removes it. The record's own `version` is what is saved; it is greater than `expected`.
    """

    kind: Kind
    id: str
    expected: int
    record: Record | None


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that is saved."""

    nodes: tuple[Node, ...] = ()
    jobs: tuple[Job, ...] = ()
    instances: tuple[Instance, ...] = ()
    settings: tuple[Setting, ...] = ()


class StoreError(Exception):
    """The store does not work now: nothing, or only a first part of what was asked, is known to be saved."""


class StoreLockedError(StoreError):
    """Another process owns the store."""


class Store(Protocol):
    """Durable records with compare-and-set. Blocking: called on the store's one executor thread only."""

    def open(self) -> None:
        """Connect, take ownership where there can be only one owner, and bring the schema up to date.

        Raises StoreLockedError or StoreError; may be called again after a failure.
        """

    def load(self) -> Contents:
        """Read everything. Raises StoreError."""

    def write(self, changes: Sequence[Change]) -> list[Change]:
        """Apply changes in order, durably before it returns; answers those whose `expected` did not hold.

        A change that did not hold changed nothing; the others were applied all the same. Raises StoreError: then a
        first part may have been applied.
        """

    def ping(self) -> None:
        """Raise StoreError where a write would fail now."""

    def close(self) -> None:
        """Give everything back; may be called twice."""
