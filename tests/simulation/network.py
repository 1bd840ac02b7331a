"""Links between hosts and the broker's host, and what is on its way through them: in order, late, or stuck.

A link that is cut loses nothing by itself: what is under way waits, as TCP makes it wait, until the link is mended or
one of both ends gives the connection up.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

RESENT_S = (0.1, 4.0)  # how long after a cut the kernel sends again


@dataclass
class Quality:
    """How bad the network is now: shares (0..1) of QoS 0 messages lost and QoS 1 messages doubled, longest delay."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.05


class User(Protocol):
    """A connection through a link."""

    def on_cut(self) -> None:
        """Nothing gets through any more."""

    def on_mend(self, pause_s: float) -> None:
        """Something gets through again, after a pause."""


class Link:
    """The way of one host to the broker and the gateway; `epoch` counts its changes."""

    def __init__(self, name: str, rng: random.Random, quality: Quality) -> None:
        self.name = name
        self.rng = rng
        self.quality = quality
        self.is_cut = False
        self.epoch = 0
        self.pipes: dict[Pipe, None] = {}
        self.users: dict[User, None] = {}

    def cut(self) -> None:
        """Nothing gets through any more."""
        if not self.is_cut:
            self.is_cut, self.epoch = True, self.epoch + 1
            for user in list(self.users):
                user.on_cut()

    def mend(self) -> None:
        """What waits comes through soon."""
        if self.is_cut:
            self.is_cut, self.epoch = False, self.epoch + 1
            pause_s = self.rng.uniform(*RESENT_S)
            for pipe in list(self.pipes):
                pipe.resume(pause_s)
            for user in list(self.users):
                user.on_mend(pause_s)


class Pipe:
    """One direction of one connection: first in, first out."""

    def __init__(self, link: Link, receive: Callable[[Any], None], *, is_instant: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._receive = receive
        self._is_instant = is_instant
        self._waiting: deque[tuple[float, Any]] = deque()
        self._is_armed = False
        self.is_open = True
        link.pipes[self] = None

    def send(self, item: Any) -> None:
        """Put something in at this end."""
        if not self.is_open:
            return
        if self._is_instant and not self._waiting and not self._link.is_cut:
            self._receive(item)
            return
        delay_s = 0.0 if self._is_instant else self._link.rng.random() * self._link.quality.delay_s
        at_s = self._loop.time() + delay_s
        if self._waiting:
            at_s = max(at_s, self._waiting[-1][0])
        self._waiting.append((at_s, item))
        if not self._is_armed and not self._link.is_cut:
            self._arm(at_s)

    def resume(self, pause_s: float) -> None:
        """The link is mended."""
        if self._waiting and not self._is_armed:
            self._arm(self._loop.time() + pause_s)

    def close(self) -> None:
        """What is under way is lost."""
        self.is_open = False
        self._waiting.clear()
        self._link.pipes.pop(self, None)

    def _arm(self, at_s: float) -> None:
        self._is_armed = True
        self._loop.call_at(at_s, self._deliver)

    def _deliver(self) -> None:
        self._is_armed = False
        if self._link.is_cut:
            return
        now_s = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now_s and self.is_open:
            self._receive(self._waiting.popleft()[1])
        if self._waiting and self.is_open and not self._is_armed:
            self._arm(max(self._waiting[0][0], now_s))
