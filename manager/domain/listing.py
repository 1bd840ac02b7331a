"""What an engine's resource lists said over time. Pure: it knows names and monotonic times, and nothing of the store.

An engine sends one list per runtime and period, and an extra containerd runtime repeats the list of another: so an
instance is absent only when so many lists in a row came without it that every runtime had its say several times. After
an outage the engine delivers what it stored in random order: lists of the first full period after a gap are not trusted
and count for nothing. A period is the configured one or, where an engine is slower for good, its own: otherwise each of
its lists would follow a gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, inf, isfinite
from statistics import median
from typing import Final

from cluster.payloads import ResourceEntry

Name = tuple[str, int]
GAP_PERIODS: Final = 2.5
FORGET_PERIODS: Final = 3
SOURCE_MEMORY_S: Final = 60.0
BLOCKED_MS: Final = 300_000
_ALTERNATIONS: Final = 4
_ARRIVALS_KEPT: Final = 256
_SILENCES_KEPT: Final = 5
_BEATS_KEPT: Final = 25
_SHORTEST_SHARE: Final = 0.8


@dataclass(slots=True)
class Listed:
    """An instance in the lists: since when without a break, when last, and what was done about it if unwanted."""

    entry: ResourceEntry
    first_s: float
    last_s: float
    arrival: int
    delete_count: int = 0
    deleted_s: float = -inf
    is_zombie: bool = False


@dataclass
class Listing:
    """One engine's lists, and who sent its telemetry.

    `period_s` is how often it is heard: the configured period, or the middle of its last silences where that is more.
    `beat_before_s` is how often it was heard before somebody registered under its name while it was heard; else 0.
    `ended_at_ms` is when the engine last told an end.
    `conflicts` holds the generation of each deploy that an older container of the same name blocked once; `blocked`
    since when (milliseconds) the names are blocked whose second attempt it blocked as well. `back_ms` is when it was
    first heard after the last gap.
    `started_ms` is when the engine started: what ended before is gone. `closing` holds when an instance last ended
    here that may still be there, `free` when it last ended of those that lists have shown to be gone.
    """

    period_s: float = 0.0
    beat_before_s: float = 0.0
    ended_at_ms: int = 0
    heard_s: float = -inf
    back_since_s: float = -inf
    back_ms: int = 0
    trusted_from_s: float = inf
    is_settling: bool = True
    listed: dict[Name, Listed] = field(default_factory=dict)
    conflicts: dict[Name, int] = field(default_factory=dict)
    blocked: dict[Name, int] = field(default_factory=dict)
    started_ms: int = 0
    closing: dict[Name, int] = field(default_factory=dict)
    free: dict[Name, int] = field(default_factory=dict)
    _arrival: int = 0
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_ARRIVALS_KEPT))
    _gone: dict[Name, float] = field(default_factory=dict)
    _sources: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=_ALTERNATIONS))
    _silences: deque[float] = field(default_factory=lambda: deque(maxlen=_SILENCES_KEPT))
    _beats: deque[float] = field(default_factory=lambda: deque(maxlen=_BEATS_KEPT))

    def hear(self, mono_s: float, configured_period_s: float, now_ms: int = 0) -> None:
        """Note a message of any kind; after a gap nothing is trusted for one full period."""
        silence_s = mono_s - self.heard_s
        self.period_s = max(configured_period_s, self._usual_silence_s())
        if silence_s > GAP_PERIODS * self.period_s:
            self.back_since_s, self.back_ms = mono_s, now_ms
            self.trusted_from_s = mono_s + self.period_s
            self.is_settling = True
        if isfinite(silence_s) and silence_s > configured_period_s / 2:
            self._silences.append(silence_s)
        self.heard_s = max(self.heard_s, mono_s)

    def _usual_silence_s(self) -> float:
        """The middle one of the last, so that one outage or two do not count; 0 while there are few."""
        return median(self._silences) if len(self._silences) == _SILENCES_KEPT else 0.0

    def take(self, entries: Iterable[ResourceEntry], mono_s: float, cycle: int) -> list[Listed]:
        """Add a list that is trusted, of `cycle` per period; answers what has disappeared from the lists since."""
        self._arrival += 1
        self._arrivals.append(mono_s)
        for entry in entries:
            name = (entry.job_name, entry.number)
            known = self.listed.get(name)
            if known is None:
                self.listed[name] = Listed(entry, mono_s, mono_s, self._arrival)
            else:
                known.entry, known.last_s, known.arrival = entry, max(known.last_s, mono_s), self._arrival
            self._gone.pop(name, None)
        oldest = self._arrival - FORGET_PERIODS * cycle
        gone = [self.listed.pop(name) for name, item in tuple(self.listed.items()) if item.arrival <= oldest]
        self._gone = {name: last_s for name, last_s in self._gone.items() if last_s >= self._arrivals[0]}
        self._gone.update(((item.entry.job_name, item.entry.number), item.last_s) for item in gone)
        return gone

    def is_trusted(self, mono_s: float) -> bool:
        """Whether a list that arrived then tells the present."""
        return mono_s >= self.trusted_from_s

    def has_settled(self, cycle: int) -> bool:
        """True once after each gap: when every runtime (`cycle` of them) has sent a list that is trusted."""
        if self.is_settling and self._count_after(self.back_since_s) >= cycle:
            self.is_settling = False
            return True
        return False

    def lacks(self, name: Name, since_s: float, periods: float, cycle: int) -> bool:
        """Whether the trusted lists of the last `periods` (at least two) after `since_s` all came without `name`.

        What trusted lists said before a gap stands: in an engine that is heard by fits and starts, too, an end is seen.
        """
        known = self.listed.get(name)
        start_s = max(since_s, known.last_s if known else self._gone.get(name, -inf))
        if not self._arrivals or self._arrivals[-1] - start_s < periods * self.period_s:
            return False
        return self._count_after(start_s) >= min(max(2, ceil(periods)) * cycle, _ARRIVALS_KEPT)

    def is_free(self, name: Name, ended_ms: int) -> bool:
        """Whether what ended then is known to be gone, so that another of that name may be started."""
        return ended_ms <= max(self.started_ms, self.free.get(name, 0))

    def unblock(self, cycle: int, now_ms: int, mono_s: float, fence_ms: int) -> bool:
        """After a list: forget what is in nobody's way any more. True where something was."""
        gone = {
            name: ended_ms
            for name, ended_ms in self.closing.items()
            if now_ms - ended_ms >= fence_ms or self.lacks(name, mono_s - (now_ms - ended_ms) / 1000, 1, cycle)
        }
        passed = [name for name, since_ms in self.blocked.items() if now_ms - since_ms >= BLOCKED_MS]
        for name in gone:
            del self.closing[name]
        for name in passed:
            del self.blocked[name]
        self.free = {name: ended_ms for name, ended_ms in self.free.items() if now_ms - ended_ms < fence_ms}
        self.free.update(gone)
        return bool(gone or passed)

    def _count_after(self, mono_s: float) -> int:
        return sum(1 for arrival in self._arrivals if arrival > mono_s)

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

    def usual_beat_s(self) -> float:
        """How often telemetry came, in the middle; infinite while little is known."""
        pauses = [later - earlier for earlier, later in pairwise(self._beats)]
        return median(pauses) if len(pauses) >= _SILENCES_KEPT else inf

    def is_doubled(self, mono_s: float, configured_period_s: float) -> bool:
        """Note telemetry; True when, after a second registration, more comes than one engine sends.

        The backlog after a gap is not counted: it is delivered all at once.
        """
        if not self.is_trusted(mono_s):
            self._beats.clear()
            return False
        self._beats.append(mono_s)
        alone_s = (_BEATS_KEPT - 1) * min(self.beat_before_s, configured_period_s)
        if len(self._beats) < _BEATS_KEPT or mono_s - self._beats[0] >= _SHORTEST_SHARE * alone_s:
            return False
        self._beats.clear()
        return True
