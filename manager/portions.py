"""Long work on the event loop, a portion at a time, so that calls and messages are served in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")
PORTION: Final = 100


async def in_portions(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items; after each portion of them others have their turn."""
    for position, item in enumerate(items, 1):
        yield item
        if position % PORTION == 0:
            await asyncio.sleep(0)
