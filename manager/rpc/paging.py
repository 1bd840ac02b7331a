"""Pages of ordered lists: a token is the key of the last element given."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from cluster.errors import InvalidInputError

DEFAULT_SIZE: Final = 100
MAX_SIZE: Final = 1000
Item = TypeVar("Item")


def size_of(page_size: int) -> int:
    """The number of elements of a page. Raises InvalidInputError outside 0..1000; 0 means 100."""
    if not 0 <= page_size <= MAX_SIZE:
        raise InvalidInputError(f"page_size must be 1 to {MAX_SIZE}, or 0 for {DEFAULT_SIZE}", field="page_size")
    return page_size or DEFAULT_SIZE


def page(items: Iterable[Item], key: Callable[[Item], Any], after: Any, size: int) -> tuple[list[Item], bool]:
    """The first `size` elements in key order after a key (None: from the start), and whether more follow."""
    later = (item for item in items if after is None or key(item) > after)
    found = heapq.nsmallest(size + 1, later, key=key)
    return found[:size], len(found) > size
