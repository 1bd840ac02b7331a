"""Virtual time: callbacks in order of their time, then of their making."""

import heapq
from collections.abc import Callable


class Loop:
    """`now` is in seconds; nothing happens between two callbacks."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call something later."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + max(delay_s, 0.0), self._count, call))

    def every(self, period_s: float, call: Callable[[], object]) -> None:
        """Call something again and again, for the first time after one period."""

        def beat() -> None:
            call()
            self.after(period_s, beat)

        self.after(period_s, beat)

    def run_until(self, time_s: float) -> None:
        """Let everything happen that is due until then."""
        while self._queue and self._queue[0][0] <= time_s:
            self.now, _, call = heapq.heappop(self._queue)
            call()
        self.now = time_s
