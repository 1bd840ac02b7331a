"""Which of the nodes that fit is best. A key is lower for better nodes and infinite for those that do not fit.

From the most to the least significant: capacity known to fit before unknown, fewer peers of the same job, then the load
(known capacity) or the number of instances (unknown), then the row, which follows the names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from scheduler.columns import Columns, Mask, Numbers, Rows
from scheduler.query import Query

# Loads and scaled instance counts stay far below one peer, and any number of peers below the step to unknown capacity.
PEER_STEP: Final = 1024.0
UNKNOWN_STEP: Final = 2.0**34

Scorer = Callable[[Columns, Query, Rows], Numbers]


def least_allocated(columns: Columns, query: Query, rows: Rows) -> Numbers:
    """The share of cpu and memory that would be allocated, on average: the emptiest node is best."""
    keys = columns.load[rows].copy()
    if query.demand.cpu_millicores:
        keys += columns.load_per_millicore[rows] * query.demand.cpu_millicores
    if query.demand.memory_bytes:
        keys += columns.load_per_byte[rows] * query.demand.memory_bytes
    return _with_unknown(keys, columns, query, rows)


def pack(columns: Columns, query: Query, rows: Rows) -> Numbers:
    """The reverse: the fullest node that still fits is best, so that others stay empty."""
    keys = 1.0 - columns.load[rows]
    if query.demand.cpu_millicores:
        keys -= columns.load_per_millicore[rows] * query.demand.cpu_millicores
    if query.demand.memory_bytes:
        keys -= columns.load_per_byte[rows] * query.demand.memory_bytes
    return _with_unknown(keys, columns, query, rows)


SCORERS: Final[dict[str, Scorer]] = {"least_allocated": least_allocated, "pack": pack}
SCORER_WORDS: Final[dict[Scorer, str]] = {least_allocated: "least allocated", pack: "fullest"}


def is_unknown(columns: Columns, query: Query, rows: Rows) -> Mask:
    """Nodes of which nothing says that they fit: an amount that is asked for, or everything, is unknown."""
    unknown = columns.is_all_unknown[rows].copy()
    if query.demand.cpu_millicores:
        unknown |= columns.is_cpu_unknown[rows]
    if query.demand.memory_bytes:
        unknown |= columns.is_memory_unknown[rows]
    if query.demand.storage_bytes:
        unknown |= columns.is_storage_unknown[rows]
    if query.architectures:
        unknown |= columns.is_architecture_unknown[rows]
    return unknown


def _with_unknown(keys: Numbers, columns: Columns, query: Query, rows: Rows) -> Numbers:
    unknown = is_unknown(columns, query, rows)
    if unknown.any():
        keys[unknown] = UNKNOWN_STEP + columns.instance_count[rows][unknown] / PEER_STEP
    return keys


def shut_out(keys: Numbers, fits: Mask) -> Numbers:
    """Give the nodes that do not fit an infinite key."""
    np.copyto(keys, np.inf, where=~fits)
    return keys
