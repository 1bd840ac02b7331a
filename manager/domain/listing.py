"""What an engine's resource lists said over time. Pure: it knows names and monotonic times, and nothing of the store.

An engine sends one list per runtime and period, and an extra containerd runtime repeats the list of another: so an
instance is absent only when no list has shown it for a while in which every runtime had its say. After an outage the
engine delivers what it stored in random order: lists of the first full period after a gap are not trusted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from cluster.payloads import ResourceEntry

Name = tuple[str, int]
GAP_PERIODS: Final = 2.5
FORGET_PERIODS: Final = 2.5
SOURCE_MEMORY_S: Final = 60.0
_ALTERNATIONS: Final = 4
_ARRIVALS_KEPT: Final = 64


@dataclass(slots=True)
class Listed:
    """An instance in the lists: since when without a break, when last, and what was done about it if unwanted."""

    entry: ResourceEntry
    first_s: float
    last_s: float
    delete_count: int = 0
    deleted_s: float = -inf
    is_zombie: bool = False


@dataclass
class Listing:
    """One engine's lists, and who sent its telemetry.

    `conflicts` holds the generation of each deploy that an older container of the same name blocked once; `blocked`
    the names whose second attempt it blocked as well.
    """

    heard_s: float = -inf
    back_since_s: float = -inf
    trusted_from_s: float = inf
    is_settling: bool = True
    listed: dict[Name, Listed] = field(default_factory=dict)
    conflicts: dict[Name, int] = field(default_factory=dict)
    blocked: set[Name] = field(default_factory=set)
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_ARRIVALS_KEPT))
    _sources: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=_ALTERNATIONS))

    def hear(self, mono_s: float, period_s: float) -> None:
        """Note a message of any kind; after a gap nothing is trusted for one full period."""
        if mono_s - self.heard_s > GAP_PERIODS * period_s:
            self.back_since_s = mono_s
            self.trusted_from_s = mono_s + period_s
            self.is_settling = True
            self._arrivals.clear()
        self.heard_s = max(self.heard_s, mono_s)

    def take(self, entries: Iterable[ResourceEntry], mono_s: float, period_s: float) -> list[Listed]:
        """Add a list that is trusted; answers what has disappeared from the lists since."""
        limit_s = FORGET_PERIODS * period_s
        self._arrivals.append(mono_s)
        for entry in entries:
            name = (entry.job_name, entry.number)
            known = self.listed.get(name)
            if known is None:
                self.listed[name] = Listed(entry, mono_s, mono_s)
                continue
            if mono_s - known.last_s > limit_s:
                known.first_s = mono_s
            known.entry, known.last_s = entry, max(known.last_s, mono_s)
        gone = [name for name, item in self.listed.items() if mono_s - item.last_s > limit_s]
        return [self.listed.pop(name) for name in gone]

    def is_trusted(self, mono_s: float) -> bool:
        """Whether a list that arrived then tells the present."""
        return mono_s >= self.trusted_from_s

    def has_settled(self, cycle: int) -> bool:
        """True once after each gap: when every runtime (`cycle` of them) has sent a list that is trusted."""
        if self.is_settling and len(self._arrivals) >= cycle:
            self.is_settling = False
            return True
        return False

    def lacks(self, name: Name, since_s: float, window_s: float, cycle: int) -> bool:
        """Whether the lists of the last `window_s`, at least two of every runtime, all came without `name`."""
        if not self._arrivals:
            return False
        known = self.listed.get(name)
        start = max(since_s, self.trusted_from_s, known.last_s if known else -inf)
        if self._arrivals[-1] - start < window_s:
            return False
        return sum(1 for arrival in self._arrivals if arrival > start) >= 2 * cycle

    def alternates(self, source: str, mono_s: float) -> bool:
        """Note who sent telemetry; True when two senders have just taken turns for the fourth time in a minute."""
        if self._sources and self._sources[-1][0] == source:
            return False
        self._sources.append((source, mono_s))
        names = [name for name, _ in self._sources]
        is_full = len(names) == _ALTERNATIONS and len(set(names)) == 2
        if not is_full or mono_s - self._sources[0][1] > SOURCE_MEMORY_S:
            return False
        self._sources.clear()
        return True
