"""Up to when everything was acknowledged by the root: saved now and then, so that a restart does not tell it again."""

from __future__ import annotations

import asyncio
from typing import Final

from manager.core import Core
from manager.roots import ACKNOWLEDGED, Roots

PERIOD_MS: Final = 30_000


class Watermark:
    """The newest moment before which nothing is untold.

    A change is heard of only once it is durable. So a moment is taken, what had changed before it is waited for, and
    when that was told as well the moment is saved.
    """

    def __init__(self, core: Core, roots: Roots) -> None:
        self._core = core
        self._roots = roots
        self._has_news = False
        self._is_waiting = False
        self._durable_ms = 0

    def told(self) -> None:
        """The root acknowledged a change."""
        self._has_news = True

    def all_told(self) -> None:
        """Nothing waits that was heard of."""
        if self._durable_ms:
            self._save(self._durable_ms - 1)
            self._durable_ms = 0
        if self._has_news and not self._is_waiting:
            self._is_waiting, at_ms = True, self._core.now_ms()
            self._core.commit().add_done_callback(lambda saved: self._on_saved(at_ms, saved))

    def _on_saved(self, at_ms: int, saved: asyncio.Future[None]) -> None:
        self._is_waiting = False
        if not saved.cancelled() and not saved.exception():
            self._durable_ms = at_ms

    def _save(self, at_ms: int) -> None:
        if at_ms - self._roots.acknowledged_ms > PERIOD_MS:
            self._has_news = False
            self._roots.save(ACKNOWLEDGED, str(at_ms))
