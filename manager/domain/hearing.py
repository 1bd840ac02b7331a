"""What can be heard: when each node was heard last, and since when, and with which gaps, this manager hears at all.

Written by the thread that receives messages, read by the loop; every write is one assignment, so no lock is needed.
Times are seconds of one monotonic clock, passed in. An echo to ourselves, sent at T and returned through the broker,
shows that everything that reached the broker before T has been received: silence is judged only up to then. Where
echoes stay away for longer than GAP_S nobody could be heard: such an outage does not count as anybody's silence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

GAP_S: Final = 2.5
_MOST_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which nobody could be heard; `before_s` is the length of all earlier ones together."""

    began_s: float
    ended_s: float
    before_s: float

    @property
    def length_s(self) -> float:
        """How long it lasted."""
        return self.ended_s - self.began_s


class Hearing:
    """`begin_s` is when this manager began; for `deaf_s` before that nobody could be heard, as far as is known.

    `origin_s` is from when on it may be that nobody was heard: what a node never heard is measured by.
    """

    def __init__(self, begin_s: float, deaf_s: float = 0.0) -> None:
        self.origin_s = begin_s - deaf_s
        self._heard: dict[str, float] = {}
        self._back: dict[str, float] = {}
        self._ended_s = begin_s
        self._as_of_s = self.origin_s
        self._is_listening = False
        self._outages: list[Outage] = []
        self._longest: list[Outage] = []

    # The receiving thread

    def heard(self, topic_id: str, at_s: float) -> None:
        """A sign of life arrived; what is told late does not put the clock back."""
        before_s = self._heard.get(topic_id, -inf)
        if before_s > at_s:
            return
        if self._back.get(topic_id, -inf) < self._ended_s:
            self._back[topic_id] = before_s if before_s >= self._ended_s else at_s
        self._heard[topic_id] = at_s

    def echoed(self, sent_s: float) -> None:
        """An echo that was sent at `sent_s` came back: everything up to then has been received."""
        if sent_s < self._as_of_s:
            return
        if not self._is_listening or sent_s - self._as_of_s > GAP_S:
            self._end_outage(sent_s)
        self._is_listening = True
        self._as_of_s = sent_s

    def deafen(self) -> None:
        """The session broke: whatever comes after the next echo follows an outage."""
        self._is_listening = False

    # Everybody

    @property
    def as_of_s(self) -> float:
        """Up to when everything was received."""
        return self._as_of_s

    @property
    def outages(self) -> tuple[Outage, ...]:
        """The outages so far, oldest first."""
        return tuple(self._outages)

    def is_listening(self, now_s: float) -> bool:
        """Whether what is sent now would be heard."""
        return self._is_listening and now_s - self._as_of_s <= GAP_S

    def last_heard_s(self, topic_ids: Iterable[str]) -> float | None:
        """When something arrived under one of these ids; None where nothing did since the begin."""
        times = [at_s for topic_id in topic_ids if (at_s := self._heard.get(topic_id)) is not None]
        return max(times, default=None)

    def back_s(self, topic_ids: Iterable[str]) -> float | None:
        """When a node was first heard after the last outage; None where it was not yet."""
        topic_ids = tuple(topic_ids)
        heard_s = self.last_heard_s(topic_ids)
        if heard_s is None or heard_s < self._ended_s:
            return None
        back_s = max((self._back.get(topic_id, -inf) for topic_id in topic_ids), default=-inf)
        return back_s if back_s >= self._ended_s else heard_s  # heard after the echo was sent, and before it came back

    def forget(self, topic_ids: Iterable[str]) -> None:
        """A node is gone."""
        for topic_id in topic_ids:
            self._heard.pop(topic_id, None)
            self._back.pop(topic_id, None)

    def listened_s(self, at_s: float) -> float:
        """How long somebody could have been heard up to a time, since the begin of counting.

        Of the time since the newest echo nobody knows yet whether it belongs to an outage: it is not counted.
        """
        at_s = min(at_s, self._as_of_s)
        position = bisect_right(self._outages, at_s, key=lambda outage: outage.began_s)
        if not position:
            return at_s - (self._outages[0].before_s if self._outages else 0.0)
        last = self._outages[position - 1]
        return at_s - last.before_s - (min(at_s, last.ended_s) - last.began_s)

    def longest_outage_s(self, since_s: float) -> float:
        """The length of the longest outage that ended after a time; 0 without one."""
        position = bisect_right(self._longest, since_s, key=lambda outage: outage.ended_s)
        return self._longest[position].length_s if position < len(self._longest) else 0.0

    def ended_after(self, since_s: float) -> list[Outage]:
        """The outages that ended after a time."""
        return self._outages[bisect_right(self._outages, since_s, key=lambda outage: outage.ended_s) :]

    def _end_outage(self, ended_s: float) -> None:
        before_s = self._outages[-1].before_s + self._outages[-1].length_s if self._outages else 0.0
        outage = Outage(self._as_of_s, ended_s, before_s)
        self._ended_s = ended_s
        while self._longest and self._longest[-1].length_s <= outage.length_s:
            self._longest.pop()
        self._longest.append(outage)
        self._outages.append(outage)
        if len(self._outages) > _MOST_KEPT:
            del self._outages[: _MOST_KEPT // 2]
