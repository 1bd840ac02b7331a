"""The times of the life cycle, and exponential back-off with a jitter that is a pure function of what waits."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Times in milliseconds; the defaults are those of the settings."""

    schedule_deadline_ms: int = 30_000
    start_deadline_ms: int = 600_000
    engine_deadline_ms: int = 600_000
    stop_margin_ms: int = 5_000
    retry_base_ms: int = 1_000
    retry_cap_ms: int = 300_000
    pending_cap_ms: int = 30_000
    stable_ms: int = 60_000
    refence_ms: int = 10_000
    engine_period_ms: int = 2_000
    retention_ms: int = 86_400_000


def backoff_ms(attempt: int, base_ms: int, cap_ms: int, salt: str) -> int:
    """Half to all of `base_ms * 2**(attempt - 1)`, at most `cap_ms`; the same for the same salt and attempt."""
    full = min(cap_ms, base_ms << min(max(attempt - 1, 0), 30))
    share = zlib.crc32(f"{salt}#{attempt}".encode()) / 0xFFFFFFFF
    return int(full / 2 + full / 2 * share)
