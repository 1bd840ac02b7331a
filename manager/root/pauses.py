"""The pauses before a root is tried again: doubling, capped, with jitter, so that clusters do not come back in step."""

from __future__ import annotations

import random


class Pauses:
    """Half to all of `base_s`, doubled each time, at most `cap_s`."""

    def __init__(self, base_s: float, cap_s: float) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._count = 0

    def reset(self) -> None:
        """It worked."""
        self._count = 0

    def next_s(self) -> float:
        """The next pause."""
        full_s = min(self._cap_s, self._base_s * float(1 << min(self._count, 30)))
        self._count += 1
        return full_s * random.uniform(0.5, 1.0)
