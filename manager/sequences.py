"""The numbers of plans: a scheduler forgets what it promised up to the number before which all are settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Plan:
    """A plan under way, and the nodes that it was about."""

    number: int
    node_ids: set[str] = field(default_factory=set)


class PlanSequences:
    """Plans and moves in the order in which they began; `on_settled` is told of which nodes promises have ended."""

    def __init__(self, on_settled: Callable[[Iterable[str]], None]) -> None:
        self._on_settled = on_settled
        self._last = 0
        self._open: dict[int, None] = {}
        self._ended: dict[int, set[str]] = {}

    @property
    def settled(self) -> int:
        """Up to here every plan was carried out or dropped."""
        return next(iter(self._open), self._last + 1) - 1

    @contextmanager
    def plan(self) -> Iterator[Plan]:
        """A plan that is settled at the end of the block, once all before it are."""
        self._last += 1
        plan = Plan(self._last)
        self._open[plan.number] = None
        try:
            yield plan
        finally:
            del self._open[plan.number]
            self._ended[plan.number] = plan.node_ids
            settled = [number for number in self._ended if number <= self.settled]
            node_ids = {node_id for number in settled for node_id in self._ended.pop(number)}
            if node_ids:
                self._on_settled(node_ids)
