"""What happened, line by line on virtual time, and how often each fault was injected: printed when a seed fails."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

LAST = 400


class Story:
    """Lines are kept as parts, and put together only when somebody reads them."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lines: list[tuple[float, str, tuple[object, ...]]] = []
        self.faults: Counter[str] = Counter()
        self.checks: Counter[str] = Counter()
        self.stumbles: list[str] = []
        self._before: dict[str, Any] = {}

    def tell(self, what: str, *facts: object) -> None:
        """Something happened."""
        self._lines.append((self._now_s(), what, facts))

    def fault(self, kind: str, *facts: object) -> None:
        """A fault was injected."""
        self.faults[kind] += 1
        self.tell(f"FAULT {kind}", *facts)

    def check(self, kind: str) -> None:
        """An invariant had something to judge."""
        self.checks[kind] += 1

    def text(self, last: int = LAST) -> str:
        """The last lines."""
        return "\n".join(
            f"{at_s:9.3f} {what} {' '.join(map(str, facts))}".rstrip() for at_s, what, facts in self._lines[-last:]
        )

    def log(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> Any:
        """What the real processes log, as a structlog processor."""
        name = str(event.pop("event"))
        if event.pop("exc_info", None):
            self.stumbles.append(f"{name}: {traceback.format_exc()}")
            event["exception"] = traceback.format_exc(limit=-3)
        self.tell(f"log {level}: {name}", *(f"{key}={value}" for key, value in event.items()))
        raise structlog.DropEvent

    def stumble(self, _loop: object, context: dict[str, Any]) -> None:
        """What nobody caught, as a loop's exception handler: of the real parts or of the simulation itself."""
        error = context.get("exception")
        words = "".join(traceback.format_exception(error)) if error else ""
        self.stumbles.append(f"{context['message']}: {words}")

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take over the logs of this process, and what the loop has to say."""
        loop.set_exception_handler(self.stumble)
        self._before = structlog.get_config()
        structlog.configure(processors=[self.log], cache_logger_on_first_use=False)

    def close(self) -> None:
        """Give the logs back."""
        structlog.configure(**self._before)
