"""Figures of this moment, counted on the loop: for people who ask, and kept for whoever reads metrics in a thread."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from manager.core import Core
from manager.domain.model import InstanceState, NodeState
from manager.domain.silence import UNKNOWN_WHEN_SILENT

PERIOD_S: Final = 0.05
KEPT_S: Final = 60
COUNT_PERIOD_S: Final = 1.0


def node_counts(core: Core) -> dict[str, int]:
    """Nodes by what is known of them."""
    counts = Counter({state.value: count for state, count in core.state.node_counts.items()})
    counts[NodeState.READY.value] -= core.leases.suspect_count
    counts[NodeState.SUSPECT.value] += core.leases.suspect_count
    return {state: count for state, count in counts.items() if count}


def instance_counts(core: Core) -> dict[str, int]:
    """Instances by their shown state."""
    silent = set(core.leases.held())
    counts: Counter[str] = Counter()
    for (node_id, state), count in core.saved_records.states.items():
        is_unknown = node_id in silent and state in UNKNOWN_WHEN_SILENT
        counts[InstanceState.UNKNOWN.value if is_unknown else state.value] += count
    return dict(counts)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Numbers of one moment."""

    nodes: dict[str, int] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)
    held_nodes: int = 0
    quarantined: int = 0
    backlog: int = 0


class Gauge:
    """Counts once a second, and measures how long the loop was busy with one thing."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._gaps: deque[float] = deque([0.0], maxlen=KEPT_S)
        self.figures = Figures()

    @property
    def loop_gap_s(self) -> float:
        """The longest pause of the loop in the last minute."""
        return max(tuple(self._gaps))

    async def run(self) -> None:
        """Count and measure until cancelled."""
        second_s, longest_s = time.perf_counter() + COUNT_PERIOD_S, 0.0
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(PERIOD_S)
            now_s = time.perf_counter()
            longest_s = max(longest_s, now_s - began_s - PERIOD_S)
            if now_s >= second_s:
                self._gaps.append(longest_s)
                self.figures = self._count()
                second_s, longest_s = now_s + COUNT_PERIOD_S, 0.0

    def _count(self) -> Figures:
        core = self._core
        return Figures(
            nodes=node_counts(core),
            instances=instance_counts(core),
            held_nodes=sum(1 for _ in core.leases.held()),
            quarantined=len(core.quarantined),
            backlog=core.writer.backlog,
        )
