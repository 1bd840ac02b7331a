"""How long one placement decision takes at 10, 1,000 and 10,000 nodes, through the pure planner."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from cluster.jobs import Resources
from scheduler.columns import NodeFacts
from scheduler.ledger import Ledger
from scheduler.plan import Ask, Item, Planner
from scheduler.query import Query
from scheduler.scorers import least_allocated

NODE_COUNTS: Final = (10, 1_000, 10_000)
LIMIT_MS: Final = 0.1
ROUNDS: Final = 2_000
_FEATURES: Final = frozenset({("technology", "docker"), ("architecture", "amd64")})


def run() -> dict[str, object]:
    """Milliseconds per placement, p50 and p99, by number of nodes and by kind.

    `same` are single plans of one specification, `new` single plans of a specification never seen before, `changing`
    single plans with 50 nodes' deltas between two of them, `peers` single plans of a job with 100 instances, and
    `batch` the mean within a batch of 1,000.
    """
    return {"limit_ms": LIMIT_MS, "nodes": {str(count): _measure(count) for count in NODE_COUNTS}}


class _Cluster:
    def __init__(self, count: int) -> None:
        self.ledger = Ledger()
        self.nodes = [_node(index) for index in range(count)]
        self.ledger.replace([(node, 0) for node in self.nodes], 0)
        self.planner = Planner(self.ledger, least_allocated)
        self.sequence = 0

    def plan(self, ask: Ask, count: int = 1) -> float:
        """Milliseconds per item; the plan is settled outside the time taken."""
        self.sequence += 1
        items = [Item(job_id="job", number=number) for number in range(count)]
        started = time.perf_counter()
        choices = self.planner.plan([ask], items, sequence=self.sequence, now_s=0.0)
        elapsed_ms = (time.perf_counter() - started) * 1e3 / count
        if not all(choice.node_id for choice in choices):
            raise RuntimeError("the nodes are full; the figures would be those of refusals")
        return elapsed_ms

    def change(self, count: int) -> None:
        for index in range(count):
            position = (self.sequence * count + index) % len(self.nodes)
            self.ledger.upsert(_node(position, instance_count=self.sequence), self.sequence)


def _measure(count: int) -> dict[str, dict[str, float]]:
    cluster = _Cluster(count)
    one = Ask(query=_query(10))
    peers = Ask(query=_query(10), peers={node.id: 1 for node in cluster.nodes[:100]})

    def changing(_: int) -> float:
        cluster.change(50)
        return cluster.plan(one)

    return {
        "same": _figures(lambda _: cluster.plan(one)),
        "new": _figures(lambda index: cluster.plan(Ask(query=_query(1 + index)))),
        "changing": _figures(changing),
        "peers": _figures(lambda _: cluster.plan(peers)),
        "batch": _figures(lambda _: cluster.plan(one, 1_000), rounds=10),
    }


def _figures(plan: Callable[[int], float], rounds: int = ROUNDS) -> dict[str, float]:
    gc.collect()
    times = [plan(index) for index in range(rounds)]
    return {"p50_ms": round(float(np.percentile(times, 50)), 4), "p99_ms": round(float(np.percentile(times, 99)), 4)}


def _query(cpu_millicores: int) -> Query:
    demand = Resources(cpu_millicores=cpu_millicores, memory_bytes=1 << 20)
    return Query(technology="docker", demand=demand, architectures=("amd64",))


def _node(index: int, instance_count: int = 0) -> NodeFacts:
    name = f"edge-{index:05d}"
    return NodeFacts(
        id=f"{index:024x}",
        name=name,
        aliases=(name,),
        capacity=Resources(cpu_millicores=10**9, memory_bytes=1 << 50, storage_bytes=1 << 50),
        features=_FEATURES,
        instance_count=instance_count,
    )


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
