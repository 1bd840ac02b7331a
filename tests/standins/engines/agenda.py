"""One thread that does what is due, in order of time: everything in an engine happens on it."""

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Agenda:
    """Calls functions after a pause, one at a time, until it is closed."""

    def __init__(self, name: str) -> None:
        self._items: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def after(self, pause_s: float, function: Callable[[], None]) -> None:
        """Call a function later; nothing is called after `close`."""
        with self._changed:
            heapq.heappush(self._items, (time.monotonic() + pause_s, next(self._order), function))
            self._changed.notify()

    def close(self) -> None:
        """Drop what is left; waits for what is under way unless it is called by that."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while function := self._next():
            with contextlib.suppress(OSError):
                function()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                if self._items and self._items[0][0] <= now:
                    return heapq.heappop(self._items)[2]
                self._changed.wait(self._items[0][0] - now if self._items else None)
        return None
