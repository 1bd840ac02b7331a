"""What the scheduler tells Prometheus."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

PLANS: Final = Counter("scheduler_plans", "Items planned, by outcome (placed or refused).", ["outcome"])
REFUSALS: Final = Counter(
    "scheduler_refusals", "Items that no node fitted, by each reason that ruled nodes out.", ["reason"]
)
PLANNING: Final = Histogram(
    "scheduler_planning_seconds",
    "Time to plan one item, averaged over its batch.",
    buckets=(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.01, 0.1),
)
NODES: Final = Gauge("scheduler_nodes", "Nodes in view.")
ASSUMPTIONS: Final = Gauge("scheduler_assumptions", "Promises that the manager has neither confirmed nor denied.")
