"""Pages of ordered lists: a token is the key of the last element given."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeVar

from cluster.errors import InvalidInputError

DEFAULT_SIZE: Final = 100
MAX_SIZE: Final = 1000
Item = TypeVar("Item")


def size_of(page_size: int) -> int:
    """The number of elements of a page. Raises InvalidInputError outside 0..1000; 0 means 100."""
    if not 0 <= page_size <= MAX_SIZE:
        raise InvalidInputError(f"page_size must be 1 to {MAX_SIZE}, or 0 for {DEFAULT_SIZE}", field="page_size")
    return page_size or DEFAULT_SIZE


def page(items: Iterable[Item], size: int) -> tuple[list[Item], bool]:
    """The first `size` of ordered elements, and whether more follow."""
    found = list(islice(items, size + 1))
    return found[:size], len(found) > size
