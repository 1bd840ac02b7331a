"""Which saved specifications are in use: each is saved with its first record and goes after its last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cluster.jobs import JobSpec
from manager.domain.model import Record
from manager.store.codec import specs_of


class SpecLibrary:
    """Counts the references of saved records to saved specifications."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()

    def count(self, records: Iterable[Record]) -> set[str]:
        """Begin with what was loaded; answers the keys in use."""
        self._uses = Counter(key for record in records for key in specs_of(record))
        return set(self._uses)

    def is_used(self, key: str) -> bool:
        """Whether a saved record refers to it."""
        return self._uses[key] > 0

    def fresh(self, records: Iterable[Record | None]) -> dict[str, JobSpec]:
        """The specifications that have to be saved before these records."""
        return {key: spec for record in records for key, spec in specs_of(record).items() if not self._uses[key]}

    def replaced(self, changes: Iterable[tuple[Record | None, Record | None]]) -> list[str]:
        """Records took the place of others (before, after); answers the keys that nothing refers to any more."""
        touched: set[str] = set()
        for before, after in changes:
            old, new = specs_of(before).keys(), specs_of(after).keys()
            self._uses.update(new - old)
            self._uses.subtract(old - new)
            touched |= old - new
        unused = [key for key in touched if self._uses[key] <= 0]
        for key in unused:
            del self._uses[key]
        return unused
