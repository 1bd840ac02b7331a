"""Amounts against what is free: allocated, not measured, decides, except where a capacity is not announced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cluster.jobs import Resources
from scheduler.columns import OVERLOADED_PERCENT, Columns, Mask, NodeFacts, Numbers, Rows
from scheduler.miss import Miss

_MIB: Final = 1024 * 1024
# Below every free amount but the minus infinity of an overloaded node of unknown capacity.
_NOTHING_ASKED: Final = -float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True)
class Amount:
    """`needed` of one resource beside what is allocated: cpu (millicores), memory, storage (bytes) or gpu."""

    reason: str
    needed: int

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """Nodes with enough free, or with unknown capacity and no overload."""
        return self._free(columns)[rows] >= (self.needed or _NOTHING_ASKED)

    def gap(self, columns: Columns) -> Numbers:
        """The missing share of what is needed."""
        missing = self.needed - self._free(columns)[: len(columns)]
        return np.clip(missing / max(self.needed, 1), 1e-9, 1.0)

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says what is needed and free, and by how much to change either."""
        node, free = columns.nodes[row], float(self._free(columns)[row])
        if np.isinf(free):
            return self._overload(node)
        missing, capacity = self.needed - int(free), _amount(node.capacity, self.reason)
        there = f"{self._words(max(int(free), 0))} free of {self._words(capacity)}" if capacity else "none"
        shortfall = f"needs {self._words(self.needed, up=True)}; {node.name} has {there}"
        change = f"lower the {self.reason} demand by {self._words(missing, up=True)}"
        if capacity >= self.needed:
            change += f" or free as much on {node.name}"
        return Miss(shortfall, change)

    def _overload(self, node: NodeFacts) -> Miss:
        percent = node.cpu_percent if self.reason == "cpu" else node.memory_percent
        return Miss(
            f"{node.name} does not say how much {self.reason} it has, and uses {percent:g} % of it",
            f"bring the {self.reason} in use on {node.name} below {OVERLOADED_PERCENT:g} %",
        )

    def _free(self, columns: Columns) -> Numbers:
        match self.reason:
            case "cpu":
                return columns.free_cpu
            case "memory":
                return columns.free_memory
            case "storage":
                return columns.free_storage
            case _:
                return columns.free_gpus

    def _words(self, amount: int, *, up: bool = False) -> str:
        match self.reason:
            case "cpu":
                return f"{amount} millicores"
            case "gpu":
                return f"{amount} GPU" if amount == 1 else f"{amount} GPUs"
            case _:
                return f"{-(-amount // _MIB) if up else amount // _MIB} MiB"


def _amount(amounts: Resources, reason: str) -> int:
    match reason:
        case "cpu":
            return amounts.cpu_millicores or 0
        case "memory":
            return amounts.memory_bytes or 0
        case "storage":
            return amounts.storage_bytes or 0
        case _:
            return amounts.gpus or 0
