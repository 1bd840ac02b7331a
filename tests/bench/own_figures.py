"""The figures of each part, with their limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bench import deploys, full_memory, loop, memory, outage, placement, startup, storm, telemetry
from bench.figures import Figure


def figures_of(name: str, result: dict[str, Any]) -> list[Figure]:
    """The figures of one part's result. Raises KeyError for a part that is not there."""
    return _FIGURES[name](result)


def _placement(result: dict[str, Any]) -> list[Figure]:
    return [
        Figure(name=f"placement, {count} nodes: {kind} p50", value=times["p50_ms"], unit="ms", limit=placement.LIMIT_MS)
        for count, kinds in result["nodes"].items()
        for kind, times in kinds.items()
    ]


def _store_writes(result: dict[str, Any]) -> list[Figure]:
    return [
        Figure(name=f"{store}: writes in batches of {size.removeprefix('batch_')}", value=of["writes_per_s"], unit="/s")
        for store in ("sqlite", "mongo")
        for size, of in result.get(store, {}).items()
        if size.startswith("batch_")
    ]


_FIGURES: Final[dict[str, Callable[[dict[str, Any]], list[Figure]]]] = {
    "telemetry": telemetry.figures,
    "deploys": deploys.figures,
    "placement": _placement,
    "startup": startup.figures,
    "memory": memory.figures,
    "store_writes": _store_writes,
    "loop": loop.figures,
    "storm": storm.figures,
    "outage": outage.figures,
    "full_memory": full_memory.figures,
}
