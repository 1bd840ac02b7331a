"""The manager's clock: milliseconds since 1970 that neither jump nor go back.

Deadlines, pauses and fences outlive the process, so they are kept in this time. A machine whose clock is set (one
without a battery wakes up in the past and is put right minutes later) must not let all of them pass at once, nor hold
them back for hours. Therefore the machine's clock is read once and then counted on by the clock since boot; and after a
start in the past it goes on from the newest time in the store. A clock that was set is taken over at the next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

STEP_MS: Final = 5_000


def wall_ms() -> int:
    """What the machine calls now."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """Since the machine's boot, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class SteadyClock:
    """Counts on from the time at which it was made."""

    def __init__(
        self,
        wall: Callable[[], int] = wall_ms,
        boot: Callable[[], int] = boot_ms,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._boot = boot
        self._mono = mono
        self._anchor_ms = wall() - boot()
        self._told_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._anchor_ms + self._boot()

    def mono_s(self) -> float:
        """Seconds of the clock by which silence is measured; the thread that receives messages reads the same one."""
        return self._mono()

    def start_after(self, newest_ms: int) -> int:
        """Go on from a time that was already seen; answers by how much the machine's clock is behind it, 0 if not."""
        behind_ms = max(0, newest_ms - self.now_ms())
        self._anchor_ms += behind_ms
        self._told_ms = self.step_ms()
        return behind_ms

    def step_ms(self) -> int:
        """By how much the machine's clock is ahead of this one (less than 0: behind)."""
        return self._wall() - self.now_ms()

    def new_step_ms(self) -> int:
        """`step_ms`, if it differs much from the one that was last answered here; else 0."""
        step_ms = self.step_ms()
        if abs(step_ms - self._told_ms) < STEP_MS:
            return 0
        self._told_ms = step_ms
        return step_ms


CLOCK: Final = SteadyClock()
