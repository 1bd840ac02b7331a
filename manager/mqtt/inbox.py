"""What nodes sent and nobody has handled yet, bounded by what matters.

Written by the thread that receives, read by the loop. Of telemetry only the newest of each node matters, and of an
inventory or a word about its connection; an engine sends a list per runtime, so a few of its newest are kept. Every
state that is acknowledged is kept: the broker sends only so many before the first is acknowledged.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from math import inf
from typing import Final

from cluster.topics import Channel

LISTS_KEPT: Final = 8
MOST_KEPT: Final = 200_000
_INVENTORY: Final = b'{"inventory"'
_Key = tuple[Channel, str, int]


@dataclass(slots=True)
class Incoming:
    """A message from a node. `mono_s` is when it arrived; `mid` is what acknowledges it."""

    topic_id: str
    channel: Channel
    payload: bytes
    mono_s: float
    mid: int
    qos: int


class Inbox:
    """Telemetry, and everything else in order of arrival."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._telemetry: dict[str, Incoming] = {}
        self._others: dict[_Key, Incoming] = {}
        self._lists: dict[str, deque[_Key]] = {}
        self._serial = 0

    def put(self, incoming: Incoming) -> None:
        """Keep a message, in place of what it supersedes."""
        with self._lock:
            if len(self) >= MOST_KEPT and not (incoming.channel is Channel.STATE and incoming.qos):
                self._counters["mqtt_dropped"] += 1  # more than any cluster's nodes send: somebody makes ids up
            elif incoming.channel is Channel.INFORMATION:
                is_newer = self._telemetry.pop(incoming.topic_id, None) is not None
                self._counters["mqtt_telemetry_superseded"] += is_newer
                self._telemetry[incoming.topic_id] = incoming
            else:
                self._put_other(incoming)

    def _put_other(self, incoming: Incoming) -> None:
        self._serial += 1
        is_single = incoming.channel is Channel.CONNECTION or incoming.payload.startswith(_INVENTORY)
        key = (incoming.channel, incoming.topic_id, 0 if is_single else self._serial)
        if is_single:
            self._counters["mqtt_lists_superseded"] += self._others.pop(key, None) is not None
        elif incoming.channel is Channel.RESOURCES:
            self._make_room(incoming.topic_id, key)
        self._others[key] = incoming

    def _make_room(self, topic_id: str, key: _Key) -> None:
        kept = self._lists.setdefault(topic_id, deque())
        kept.append(key)
        while len(kept) > LISTS_KEPT:
            self._counters["mqtt_lists_superseded"] += self._others.pop(kept.popleft(), None) is not None

    def take_telemetry(self, limit: int) -> list[Incoming]:
        """Up to `limit` messages, those first that waited longest."""
        with self._lock:
            topic_ids = [topic_id for topic_id, _ in zip(self._telemetry, range(limit), strict=False)]
            return [self._telemetry.pop(topic_id) for topic_id in topic_ids]

    def take_others(self, limit: int) -> list[Incoming]:
        """Up to `limit` messages in order of arrival."""
        with self._lock:
            keys = [key for key, _ in zip(self._others, range(limit), strict=False)]
            if len(keys) == len(self._others):
                self._lists.clear()
            return [self._others.pop(key) for key in keys]

    def __len__(self) -> int:
        return len(self._telemetry) + len(self._others)

    @property
    def has_telemetry(self) -> bool:
        """Whether `take_telemetry` would give something."""
        return bool(self._telemetry)

    @property
    def others_since_s(self) -> float:
        """When the first of what `take_others` would give arrived; inf without any."""
        with self._lock:
            first = next(iter(self._others.values()), None)
            return inf if first is None else first.mono_s

    @property
    def has_others(self) -> bool:
        """Whether `take_others` would give something."""
        return bool(self._others)
