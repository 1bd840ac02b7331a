"""Which saved specifications are in use: each is saved with its first record and goes after its last.

Of a write that failed nobody knows what it left, and so which specifications are in use: until the next start, which
counts them again, none is taken for unused. One too many costs a kilobyte, one too few a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

from cluster.jobs import JobSpec
from manager.domain.model import Record
from manager.store.codec import specs_of


class SpecLibrary:
    """Counts the references of saved records to saved specifications."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()
        self._unused: list[str] = []
        self._is_exact = True

    def count(self, records: Iterable[Record], saved: Iterable[str], quarantined: str = "") -> None:
        """Begin with what was loaded, the keys of what is `saved`, and the text of what is in quarantine."""
        self._uses = Counter(key for record in records for key in specs_of(record))
        self._unused = [key for key in saved if key not in self._uses and key not in quarantined]
        self._is_exact = True

    def fresh(self, records: Iterable[Record | None]) -> dict[str, JobSpec]:
        """The specifications that have to be saved before these records."""
        return {key: spec for record in records for key, spec in specs_of(record).items() if self._uses[key] <= 0}

    def unused(self, fresh: Container[str]) -> list[str]:
        """What may be dropped by a write that saves those that are `fresh`."""
        return [key for key in self._unused if key not in fresh and self._uses[key] <= 0]

    def doubt(self) -> None:
        """A write failed: it may have been carried out, or a part of it."""
        self._unused, self._is_exact = [], False

    def replaced(self, changes: Iterable[tuple[Record | None, Record | None]]) -> None:
        """Records took the place of others (before, after), durably."""
        touched: set[str] = set()
        for before, after in changes:
            old, new = specs_of(before).keys(), specs_of(after).keys()
            self._uses.update(new - old)
            self._uses.subtract(old - new)
            touched |= old - new
        self._unused = [key for key in touched if self._uses[key] <= 0] if self._is_exact else []
        for key in self._unused:
            del self._uses[key]
