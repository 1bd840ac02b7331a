"""The nodes as columns of numbers, so that one question is asked of ten thousand of them at once.

An amount of cpu, memory or storage that a node does not announce is unknown: its free amount is infinite, or, where
the node measures itself nearly full, minus infinite. Rows are dense: the last one fills the gap of a removed one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.jobs import Resources

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Rows = slice | NDArray[np.intp]
Feature = tuple[str, str]
Cell = TypeVar("Cell", bound=np.generic)

OVERLOADED_PERCENT: Final = 95.0
# What an instance costs beside its demand when loads are compared: jobs that ask for nothing still spread.
OVERHEAD_MILLICORES: Final = 10
OVERHEAD_BYTES: Final = 16 * 1024 * 1024

_FLAGS: Final = (
    "is_ready",
    "is_uncordoned",
    "is_cpu_unknown",
    "is_memory_unknown",
    "is_storage_unknown",
    "is_architecture_unknown",
    "is_all_unknown",
)
_NUMBERS: Final = (
    "free_cpu",
    "free_memory",
    "free_storage",
    "free_gpus",
    "load",
    "load_per_millicore",
    "load_per_byte",
    "instance_count",
)
_LOG_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """All that decides about placements on one node.

    `aliases` are its name and further ids; `features` are pairs such as ("technology", "docker"). The measured
    percentages (0..100) are kept only where the capacity that they judge is unknown.
    """

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    state: str = "ready"
    is_cordoned: bool = False
    capacity: Resources = field(default_factory=Resources)
    allocated: Resources = field(default_factory=Resources)
    instance_count: int = 0
    features: frozenset[Feature] = frozenset()
    cpu_percent: float = 0.0
    memory_percent: float = 0.0


class Columns:
    """A table of nodes. `version` grows with every row that changes, beyond that of the table that it replaces."""

    is_ready: Mask
    is_uncordoned: Mask
    is_cpu_unknown: Mask
    is_memory_unknown: Mask
    is_storage_unknown: Mask
    is_architecture_unknown: Mask
    is_all_unknown: Mask
    free_cpu: Numbers
    free_memory: Numbers
    free_storage: Numbers
    free_gpus: Numbers
    load: Numbers
    load_per_millicore: Numbers
    load_per_byte: Numbers
    instance_count: Numbers

    def __init__(self, nodes: Iterable[NodeFacts] = (), *, length: int = 64, version: int = 0) -> None:
        self.length = length
        self.nodes: list[NodeFacts] = []
        self._assumed: list[tuple[Resources, int]] = []
        self._rows: dict[str, int] = {}
        self._ids_by_alias: dict[str, set[str]] = {}
        self._features: dict[Feature, Mask] = {}
        self._feature_counts: dict[Feature, int] = {}
        self._changed: list[int] = []
        self._forgotten = version
        for name in _FLAGS:
            setattr(self, name, np.zeros(length, np.bool_))
        for name in _NUMBERS:
            setattr(self, name, np.zeros(length, np.float64))
        for node in sorted(nodes, key=lambda node: (node.name, node.id)):
            self.upsert(node)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def version(self) -> int:
        """Equal to what it was before exactly where nothing changed since."""
        return self._forgotten + len(self._changed)

    def changed_since(self, version: int) -> set[int] | None:
        """The rows that changed after `version`; None when that is too long ago to tell."""
        if version < self._forgotten:
            return None
        return set(self._changed[version - self._forgotten :])

    def row_of(self, node_id: str) -> int | None:
        """The row of a node by its id."""
        return self._rows.get(node_id)

    def rows_named(self, words: Iterable[str]) -> list[int]:
        """The rows of all nodes whose id, name or alias is among `words`."""
        ids = {node_id for word in words for node_id in (word, *self._ids_by_alias.get(word, ()))}
        return [self._rows[node_id] for node_id in ids if node_id in self._rows]

    def feature(self, feature: Feature) -> Mask | None:
        """Which rows have the feature; None where no node has it."""
        return self._features.get(feature)

    def upsert(self, node: NodeFacts) -> None:
        """Take what is now known of a node; a no-op where nothing changed."""
        row = self._rows.get(node.id)
        if row is None:
            self._append(node)
        elif self.nodes[row] != node:
            self._replace(row, node)

    def remove(self, node_id: str) -> None:
        """Forget a node; the last row takes its place."""
        row = self._rows.pop(node_id, None)
        if row is None:
            return
        last = len(self.nodes) - 1
        self._set_features(row, self.nodes[row].features, frozenset())
        self._set_aliases(self.nodes[row], present=False)
        if row != last:
            self._move(last, row)
        self.nodes.pop()
        self._assumed.pop()
        self._note(row)
        self._note(last)

    def assume(self, row: int, amounts: Resources, count: int) -> None:
        """Count `amounts` and `count` instances as allocated beyond what the node's facts say, or back if negative."""
        held, held_count = self._assumed[row]
        self._assumed[row] = (held + amounts, held_count + count)
        self._write_amounts(row)
        self._note(row)

    def taken(self, row: int) -> Resources:
        """What is allocated and assumed on a row."""
        return self.nodes[row].allocated + self._assumed[row][0]

    def _append(self, node: NodeFacts) -> None:
        row = len(self.nodes)
        if row == self.length:
            self._grow()
        self.nodes.append(node)
        self._assumed.append((Resources(), 0))
        self._rows[node.id] = row
        self._set_features(row, frozenset(), node.features)
        self._set_aliases(node, present=True)
        self._write(row)

    def _replace(self, row: int, node: NodeFacts) -> None:
        old, self.nodes[row] = self.nodes[row], node
        if old.features is not node.features:
            self._set_features(row, old.features, node.features)
        if old.aliases != node.aliases:
            self._set_aliases(old, present=False)
            self._set_aliases(node, present=True)
        self._write(row)

    def _move(self, source: int, target: int) -> None:
        node = self.nodes[source]
        self._set_features(source, node.features, frozenset())
        self._set_features(target, frozenset(), node.features)
        self.nodes[target] = node
        self._assumed[target] = self._assumed[source]
        self._rows[node.id] = target
        self._write(target)

    def _write(self, row: int) -> None:
        node, have = self.nodes[row], self.nodes[row].capacity
        self.is_ready[row] = node.state == "ready"
        self.is_uncordoned[row] = not node.is_cordoned
        self.is_cpu_unknown[row] = have.cpu_millicores is None
        self.is_memory_unknown[row] = have.memory_bytes is None
        self.is_storage_unknown[row] = have.storage_bytes is None
        self.is_all_unknown[row] = have.cpu_millicores is None and have.memory_bytes is None
        self.is_architecture_unknown[row] = not any(kind == "architecture" for kind, _ in node.features)
        known = (have.cpu_millicores is not None) + (have.memory_bytes is not None)
        self.load_per_millicore[row] = 1 / (known * have.cpu_millicores) if have.cpu_millicores else 0.0
        self.load_per_byte[row] = 1 / (known * have.memory_bytes) if have.memory_bytes else 0.0
        self._write_amounts(row)
        self._note(row)

    def _write_amounts(self, row: int) -> None:
        node, have = self.nodes[row], self.nodes[row].capacity
        taken = self.taken(row)
        cpu, memory = taken.cpu_millicores or 0, taken.memory_bytes or 0
        count = node.instance_count + self._assumed[row][1]
        self.free_cpu[row] = _free(have.cpu_millicores, cpu, node.cpu_percent)
        self.free_memory[row] = _free(have.memory_bytes, memory, node.memory_percent)
        self.free_storage[row] = _free(have.storage_bytes, taken.storage_bytes or 0, 0.0)
        self.free_gpus[row] = (have.gpus or 0) - (taken.gpus or 0)
        self.instance_count[row] = count
        self.load[row] = self.load_per_millicore[row] * (cpu + count * OVERHEAD_MILLICORES)
        self.load[row] += self.load_per_byte[row] * (memory + count * OVERHEAD_BYTES)

    def _note(self, row: int) -> None:
        if len(self._changed) >= max(_LOG_LIMIT, self.length):
            self._forgotten += len(self._changed)
            self._changed.clear()
        self._changed.append(row)

    def _set_features(self, row: int, old: frozenset[Feature], new: frozenset[Feature]) -> None:
        for feature in old - new:
            self._features[feature][row] = False
            self._feature_counts[feature] -= 1
            if not self._feature_counts[feature]:
                del self._features[feature], self._feature_counts[feature]
        for feature in new - old:
            if feature not in self._features:
                self._features[feature] = np.zeros(self.length, np.bool_)
            self._features[feature][row] = True
            self._feature_counts[feature] = self._feature_counts.get(feature, 0) + 1

    def _set_aliases(self, node: NodeFacts, *, present: bool) -> None:
        for alias in node.aliases:
            ids = self._ids_by_alias.setdefault(alias, set())
            if present:
                ids.add(node.id)
                continue
            ids.discard(node.id)
            if not ids:
                del self._ids_by_alias[alias]

    def _grow(self) -> None:
        self.length *= 2
        for name in (*_FLAGS, *_NUMBERS):
            setattr(self, name, _doubled(getattr(self, name)))
        for feature, mask in self._features.items():
            self._features[feature] = _doubled(mask)


def _doubled(column: NDArray[Cell]) -> NDArray[Cell]:
    return np.concatenate([column, np.zeros_like(column)])


def _free(capacity: int | None, taken: int, measured_percent: float) -> float:
    if capacity is not None:
        return capacity - taken
    return -np.inf if measured_percent >= OVERLOADED_PERCENT else np.inf
