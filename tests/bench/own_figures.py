"""The figures of each part, with their limits."""

from __future__ import annotations

from typing import Any

from bench import deploys, memory, placement, startup, telemetry
from bench.figures import Figure


def figures_of(name: str, result: dict[str, Any]) -> list[Figure]:
    """The figures of one part's result."""
    match name:
        case "placement":
            return _placement(result)
        case "store_writes":
            return _store_writes(result)
        case "telemetry":
            return telemetry.figures(result)
        case "deploys":
            return deploys.figures(result)
        case "startup":
            return startup.figures(result)
        case "memory":
            return memory.figures(result)
        case _:
            raise ValueError(f"no part is called {name}")


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
