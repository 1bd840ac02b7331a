"""The nodes together with what plans have promised of them and the manager has not yet confirmed or denied.

A promise is kept per (plan sequence, job, instance number). A node's next delta with that or a higher sequence settles
it; should none come, it ends after ASSUMPTION_LIFE_S. Times are seconds on one monotonic clock, passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.jobs import Resources
from scheduler.columns import Columns, NodeFacts

ASSUMPTION_LIFE_S: Final = 30.0
_NOTHING: Final = Resources()


class PlanKey(NamedTuple):
    """Names a promise."""

    sequence: int
    job_id: str
    number: int


@dataclass(frozen=True, slots=True)
class _Assumption:
    node_id: str
    amounts: Resources
    count: int
    made_at_s: float
    serial: int


class Ledger:
    """`columns` always show the nodes as if every open promise were kept."""

    def __init__(self) -> None:
        self.columns = Columns()
        self._open: dict[PlanKey, _Assumption] = {}
        self._by_node: dict[str, set[PlanKey]] = {}
        self._serial = 0

    @property
    def open_count(self) -> int:
        """How many promises are neither settled nor expired."""
        return len(self._open)

    def mark(self) -> int:
        """A point in the order of promises, for `replace`."""
        return self._serial

    def replace(self, nodes: Iterable[tuple[NodeFacts, int]], mark: int) -> None:
        """Take a whole snapshot: nodes with their plan sequences. Promises up to `mark`, when it began, are dropped."""
        nodes = list(nodes)
        sequences = {node.id: sequence for node, sequence in nodes}
        self.columns = Columns((node for node, _ in nodes), version=self.columns.version + 1)
        kept = {
            key: held
            for key, held in self._open.items()
            if held.serial > mark and key.sequence > sequences.get(held.node_id, key.sequence)
        }
        self._open, self._by_node = {}, {}
        for key, held in kept.items():
            self._add(key, held)

    def upsert(self, node: NodeFacts, plan_sequence: int) -> None:
        """Take a node's newest facts, which account for all plans up to `plan_sequence`."""
        for key in [key for key in self._by_node.get(node.id, ()) if key.sequence <= plan_sequence]:
            self._drop(key)
        self.columns.upsert(node)

    def remove(self, node_id: str) -> None:
        """Forget a node and what was promised of it."""
        for key in list(self._by_node.get(node_id, ())):
            self._drop(key)
        self.columns.remove(node_id)

    def hold(self, key: PlanKey, row: int, amounts: Resources, count: int, now_s: float) -> None:
        """Promise `amounts` and `count` instances on a row. The same key again replaces its former promise."""
        self.withdraw(key)
        self._serial += 1
        self._add(key, _Assumption(self.columns.nodes[row].id, amounts, count, now_s, self._serial))

    def withdraw(self, key: PlanKey) -> None:
        """Take a promise back, where there is one."""
        if key in self._open:
            self._drop(key)

    def expire(self, now_s: float) -> int:
        """Drop promises older than ASSUMPTION_LIFE_S; returns how many."""
        old = []
        for key, held in self._open.items():
            if held.made_at_s + ASSUMPTION_LIFE_S > now_s:
                break
            old.append(key)
        for key in old:
            self._drop(key)
        return len(old)

    def _add(self, key: PlanKey, held: _Assumption) -> None:
        row = self.columns.row_of(held.node_id)
        if row is not None:
            self._open[key] = held
            self._by_node.setdefault(held.node_id, set()).add(key)
            self.columns.assume(row, held.amounts, held.count)

    def _drop(self, key: PlanKey) -> None:
        held = self._open.pop(key)
        keys = self._by_node[held.node_id]
        keys.discard(key)
        if not keys:
            del self._by_node[held.node_id]
        row = self.columns.row_of(held.node_id)
        if row is not None:
            self.columns.assume(row, _NOTHING - held.amounts, -held.count)
