"""What a core needs around it so that its steps can be measured alone: nothing here costs anything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from cluster.topics import Channel
from manager.domain.effects import Effect
from manager.domain.model import Node
from manager.mqtt.inbox import Inbox, Incoming
from manager.planner import Request, Result
from manager.ports import Change, Contents
from manager.store.sqlite import SqliteStore

Found = TypeVar("Found")


class Inline:
    """Runs the store's calls on the spot."""

    async def call(self, function: Callable[[], Found]) -> Found:
        """The result of the function."""
        return function()

    def close(self) -> None:
        """There is nothing to end."""


class Held(SqliteStore):
    """A store that is in memory, and takes every change without looking at it."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def open(self) -> None:
        """It is open."""

    def load(self, now_ms: int) -> Contents:
        """What it was made with."""
        return self._contents

    def ping(self) -> None:
        """It works."""

    def write(self, changes: Sequence[Change], events: Sequence[object] = ()) -> list[Change]:
        """Every change holds."""
        return []


class Taker:
    """A broker, and whoever commands through it, that takes every message."""

    is_ready = True
    is_connected = True

    def __init__(self) -> None:
        self.inbox = Inbox(Counter())

    def send(self, node: Node, effect: Effect) -> bool:
        """It is sent."""
        return True

    def publish(self, topic_id: str, channel: Channel, payload: bytes, *, qos: int = 1, expiry_s: int = 0) -> bool:
        """It is sent."""
        return True

    def acknowledge(self, incoming: Incoming) -> None:
        """The broker knows."""


class Chooser:
    """A scheduler that finds the same node for everything."""

    def __init__(self, node_id: str) -> None:
        self._result = Result(node_id=node_id)

    async def plan(self, requests: Sequence[Request], peers: dict[str, dict[str, int]], sequence: int) -> list[Result]:
        """One result for each request."""
        return [self._result] * len(requests)


def driven(coroutine: Coroutine[Any, Any, Found]) -> Found:
    """The result of a coroutine that waits for nothing; it may let others run. Raises RuntimeError where it waits."""
    waits_for = None
    while waits_for is None:
        try:
            waits_for = coroutine.send(None)
        except StopIteration as done:
            result: Found = done.value
            return result
    coroutine.close()
    raise RuntimeError(f"a step that is measured must not wait for {waits_for}")


def pieces(coroutine: Coroutine[Any, Any, object], *, waits: bool = False) -> Iterator[float]:
    """The seconds of processor time between two moments at which the coroutine lets others run.

    Where it `waits` at its end, it is left there. Raises RuntimeError where it waits and should not, or the reverse.
    """
    is_over, waits_for = False, None
    while not is_over and waits_for is None:
        began_s = time.thread_time()
        is_over, waits_for = _go_on(coroutine)
        yield time.thread_time() - began_s
    coroutine.close()
    if waits is is_over:
        raise RuntimeError(f"a step that is measured {'did not wait' if waits else f'must not wait for {waits_for}'}")


def _go_on(coroutine: Coroutine[Any, Any, object]) -> tuple[bool, object]:
    """Whether the coroutine is over, else what it waits for (None: others shall run)."""
    try:
        return False, coroutine.send(None)
    except StopIteration:
        return True, None
