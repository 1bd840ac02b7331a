"""The cluster in numbers, as roots want them: over the READY nodes, never null, percentages from 0 to 100. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from cluster.documents import MEBIBYTE
from cluster.jobs import Resources
from manager.domain.aggregate import NOTHING
from manager.domain.model import Node, NodeLive, NodeState

MAX_WORDS: Final = 200
LONGEST_WORD: Final = 128
MAX_ARCHITECTURES: Final = 50
MOST: Final = 2**53


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Means of what was measured, sums of what there is. Memory is what can still be placed."""

    node_count: int = 0
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    core_count: int = 0
    memory_mb: int = 0
    gpu_count: int = 0
    gpu_percent: float = 0.0
    gpu_temperature_c: float = 0.0
    gpu_memory_mb: int = 0
    gpu_memory_used_mb: int = 0
    gpu_drivers: tuple[str, ...] = ()
    technologies: tuple[str, ...] = ()
    addons: tuple[str, ...] = ()
    csi_drivers: tuple[str, ...] = ()
    by_architecture: Mapping[str, Totals] = field(default_factory=dict)


def totals_of(
    nodes: Iterable[Node], live: Mapping[str, NodeLive], allocated: Mapping[str, Resources], *, is_part: bool = False
) -> Totals:
    """The numbers of this moment; `is_part` leaves out those by architecture."""
    ready = [node for node in nodes if node.state is NodeState.READY and not live[node.id].is_suspect]
    measured = [live[node.id] for node in ready]
    gpus = [told for node in ready if node.capacity.gpus and (told := live[node.id].gpus)]
    return Totals(
        node_count=len(ready),
        cpu_percent=_mean([item.cpu_percent for item in measured if item.cpu_percent is not None]),
        memory_percent=_mean([item.memory_percent for item in measured if item.memory_percent is not None]),
        core_count=_sum(node.capacity.cpu_millicores or 0 for node in ready) // 1000,
        memory_mb=_sum(_free_bytes(node, live[node.id], allocated.get(node.id, NOTHING)) for node in ready) // MEBIBYTE,
        gpu_count=_sum(node.capacity.gpus or 0 for node in ready),
        gpu_percent=_mean([item.percent for item in gpus]),
        gpu_temperature_c=sum(item.temperature_c for item in gpus) / len(gpus) if gpus else 0.0,
        gpu_memory_mb=_sum(item.memory_mb for item in gpus),
        gpu_memory_used_mb=_sum(item.memory_used_mb for item in gpus),
        gpu_drivers=_union((item.driver,) for item in gpus if item.driver),
        technologies=_union(node.registration.offered for node in ready),
        addons=_union(node.registration.addons for node in ready),
        csi_drivers=_union(node.registration.csi_drivers for node in ready),
        by_architecture={} if is_part else _by_architecture(ready, live, allocated),
    )


def _by_architecture(
    ready: Iterable[Node], live: Mapping[str, NodeLive], allocated: Mapping[str, Resources]
) -> dict[str, Totals]:
    groups: defaultdict[str, list[Node]] = defaultdict(list)
    for node in ready:
        if node.registration.architecture:
            groups[node.registration.architecture].append(node)
    parts = islice(sorted(groups.items()), MAX_ARCHITECTURES)
    return {name: totals_of(nodes, live, allocated, is_part=True) for name, nodes in parts}


def _free_bytes(node: Node, live: NodeLive, allocated: Resources) -> int:
    """What a node says is free, and no more than what is not reserved on it."""
    capacity = node.capacity.memory_bytes
    unreserved = None if capacity is None else max(capacity - (allocated.memory_bytes or 0), 0)
    amounts = [amount for amount in (live.memory_free_bytes, unreserved) if amount is not None]
    return min(amounts, default=0)


def _mean(values: Sequence[float]) -> float:
    """The mean, within 0..100: a cluster above 100 % would look negative to a root."""
    return min(max(sum(values) / len(values), 0.0), 100.0) if values else 0.0


def _sum(amounts: Iterable[int]) -> int:
    """The sum, within what JSON readers take for an integer: each node names what it likes."""
    return min(max(sum(amounts), 0), MOST)


def _union(words: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All of them once, within bounds: nodes choose their words."""
    return tuple(sorted({word for group in words for word in group if len(word) <= LONGEST_WORD})[:MAX_WORDS])
