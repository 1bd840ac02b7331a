"""Telemetry messages a second that one manager takes without loss, against a bare MQTT client fed the same way."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from bench.figures import Figure
from bench.flood import BareClient, publish
from bench.rig import BROKER, bench_cluster, cpu_s

from testbed.cluster import Cluster
from testbed.mosquitto import mosquitto

LIMIT_PER_S: Final = 10_000
LIMIT_SHARE: Final = 1 / 3
_QUIET_S: Final = 2.0
_POLL_S: Final = 0.05
_SETTLE_S: Final = 0.5
_LADDER: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def run(*, nodes: int = 1000, flood: int = 100_000, seconds: float = 3.0, publishers: int = 2) -> dict[str, Any]:
    """Messages per second: of the bare client, of the manager under a flood, and at the highest rate without loss.

    The flood gives each `flood` messages as fast as the broker takes them; what is counted is divided by the time until
    the last one was counted. The rate without loss is offered for `seconds`; all of it must be counted half a second
    after its end, none dropped.
    """
    bare = _bare(nodes, flood, publishers)
    with bench_cluster() as made:
        node_ids = register(made, nodes)
        cpu_before = cpu_s(made)
        flooded = _flood(lambda: _counted(made), lambda: publish(_port(made), node_ids, flood, 0, publishers), flood)
        cpu_us = {name: round((used - cpu_before[name]) * 1e6 / flood, 1) for name, used in cpu_s(made).items()}
        steps = []
        for share in _LADDER:
            steps.append(_offer(made, node_ids, flooded["per_s"] * share, seconds, publishers))
            if not steps[-1]["lost"] and not steps[-1]["late"]:
                break
        counters = made.http.get("/api/cluster/status")["counters"]
    last = steps[-1]
    is_lossless = not last["lost"] and not last["late"]
    return {
        "nodes": nodes,
        "bare_per_s": bare["per_s"],
        "bare_lost": bare["lost"],
        "flooded_per_s": flooded["per_s"],
        "flooded_lost": flooded["lost"],
        "superseded": counters.get("mqtt_telemetry_superseded", 0),
        "dropped": counters.get("mqtt_dropped", 0),
        "without_loss_per_s": last["per_s"] if is_lossless else 0.0,
        "share_of_bare": round(last["per_s"] / bare["per_s"], 3) if is_lossless else 0.0,
        "cpu_us_per_message": cpu_us,
        "steps": steps,
    }


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    return [
        Figure(name="telemetry: bare MQTT client", value=result["bare_per_s"], unit="msg/s"),
        Figure(name="telemetry: manager, flooded", value=result["flooded_per_s"], unit="msg/s"),
        Figure(
            name="telemetry: manager, without loss",
            value=result["without_loss_per_s"],
            unit="msg/s",
            limit=LIMIT_PER_S,
            is_floor=True,
        ),
        Figure(
            name="telemetry: share of the bare client",
            value=result["share_of_bare"],
            unit="",
            limit=round(LIMIT_SHARE, 3),
            is_floor=True,
        ),
        Figure(name="telemetry: superseded before it was handled", value=result["superseded"], unit="msg"),
        Figure(name="telemetry: dropped by the manager", value=result["dropped"], unit="msg", limit=0),
        *(
            Figure(name=f"cpu per message: {name}", value=us, unit="us")
            for name, us in result["cpu_us_per_message"].items()
        ),
    ]


def register(made: Cluster, count: int) -> list[str]:
    """Register nodes of the worker's dialect with plenty of room; answers their ids."""

    def one(number: int) -> str:
        body = {"id": "", "name": f"edge-{number}", "ip": "127.0.0.1", "port": "3000", "dialect": "worker"}
        room = {"technology": ["docker"], "vcpus": 100_000, "memory_in_MB": 100_000_000}
        return str(made.http.insist("POST", "/api/node/register", {**body, **room}).json["id"])

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


def _bare(nodes: int, count: int, publishers: int) -> dict[str, float]:
    with mosquitto(extra_configuration=BROKER) as broker:
        client = BareClient(broker.port)
        client.start()
        node_ids = [f"{number:024x}" for number in range(nodes)]
        try:
            return _flood(lambda: client.received, lambda: publish(broker.port, node_ids, count, 0, publishers), count)
        finally:
            client.stop()


def _flood(counted: Callable[[], int], send: Callable[[], float], count: int) -> dict[str, float]:
    before = counted()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        began = time.monotonic()
        while not (seen := counted() - before):
            began = time.monotonic()
            time.sleep(0.001)
        last_at = time.monotonic()
        while seen < count and time.monotonic() - last_at < _QUIET_S:
            time.sleep(_POLL_S)
            now = counted() - before
            if now != seen:
                seen, last_at = now, time.monotonic()
        sending.result()
    return {"per_s": round(seen / (last_at - began)), "lost": count - seen}


def _offer(made: Cluster, node_ids: list[str], per_s: float, seconds: float, publishers: int) -> dict[str, float]:
    count = int(per_s * seconds) // publishers * publishers
    before = _counted(made)
    took_s = publish(_port(made), node_ids, count, per_s, publishers)
    time.sleep(_SETTLE_S)
    soon = _counted(made) - before
    time.sleep(_QUIET_S)
    return {"per_s": round(count / took_s), "lost": count - (_counted(made) - before), "late": count - soon}


def _counted(made: Cluster) -> int:
    """What was handled, and what a newer message of the same node made needless before."""
    counters = made.http.get("/api/cluster/status")["counters"]
    return int(counters.get("mqtt_telemetry", 0)) + int(counters.get("mqtt_telemetry_superseded", 0))


def _port(made: Cluster) -> int:
    return made.ports["broker"]
