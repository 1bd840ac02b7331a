"""Why nodes do not fit: counts per first reason, the nearest miss, and the smallest change that would mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scheduler.columns import Columns, Mask, Numbers
from scheduler.filters import Filter

MAX_VERDICTS: Final = 100


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many nodes one reason was the first to rule out; `detail` tells of the one that comes nearest."""

    reason: str
    node_count: int
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of one node. `reasons` is empty where it fits; `score` is higher for better nodes."""

    node_id: str
    reasons: tuple[str, ...]
    score: float
    shortfall: str
    change: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is thought of all nodes; `verdicts` holds the best MAX_VERDICTS of them, best first."""

    node_count: int
    fitting_count: int
    refusals: tuple[ReasonCount, ...]
    verdicts: tuple[Verdict, ...]
    smallest_change: str

    @property
    def nearest(self) -> Verdict | None:
        """The best node that fits, or else the one that misses by the least."""
        return self.verdicts[0] if self.verdicts else None


def refusals(columns: Columns, filters: Sequence[Filter]) -> tuple[ReasonCount, ...]:
    """Count every node that does not pass under the first filter that rules it out, in the filters' order."""
    left = np.ones(len(columns), np.bool_)
    found = []
    for each in filters:
        passes = each.mask(columns, slice(0, len(columns)))
        out = left & ~passes
        count = int(np.count_nonzero(out))
        if count:
            nearest = int(np.argmin(np.where(out, each.gap(columns), np.inf)))
            found.append(ReasonCount(each.reason, count, each.miss(columns, nearest).shortfall))
            left &= passes
    return tuple(found)


def explain(columns: Columns, filters: Sequence[Filter], keys: Numbers) -> Explanation:
    """Judge all nodes; `keys` are lower for better nodes and infinite for those that do not fit."""
    count = len(columns)
    masks = [each.mask(columns, slice(0, count)) for each in filters]
    failures = np.zeros(count, np.int64)
    gaps = np.zeros(count)
    for each, mask in zip(filters, masks, strict=True):
        if not mask.all():
            failures += ~mask
            gaps += np.where(mask, 0.0, each.gap(columns))
    order = np.lexsort((gaps, failures, keys))[:MAX_VERDICTS]
    verdicts = tuple(_verdict(columns, filters, masks, keys, int(row)) for row in order)
    return Explanation(
        node_count=count,
        fitting_count=int(np.count_nonzero(failures == 0)),
        refusals=refusals(columns, filters),
        verdicts=verdicts,
        smallest_change=_smallest_change(columns, verdicts),
    )


def _verdict(columns: Columns, filters: Sequence[Filter], masks: Sequence[Mask], keys: Numbers, row: int) -> Verdict:
    failed = [each for each, mask in zip(filters, masks, strict=True) if not mask[row]]
    misses = [each.miss(columns, row) for each in failed]
    return Verdict(
        node_id=columns.nodes[row].id,
        reasons=tuple(each.reason for each in failed),
        score=0.0 if failed else -float(keys[row]),
        shortfall="; ".join(miss.shortfall for miss in misses),
        change="; ".join(miss.change for miss in misses),
    )


def _smallest_change(columns: Columns, verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "no node is registered: register one"
    nearest = verdicts[0]
    if not nearest.reasons:
        return ""
    row = columns.row_of(nearest.node_id)
    name = columns.nodes[row].name if row is not None else nearest.node_id
    return f"{name} would fit: {nearest.change}"
