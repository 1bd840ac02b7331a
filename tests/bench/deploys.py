"""From a deploy over HTTP to its command over MQTT: how long, one by one, and how many a second, many at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import orjson
from bench.echo_nodes import Arrivals, EchoNodes
from bench.figures import Figure, percentile
from bench.rig import bench_cluster, cpu_s
from bench.telemetry import register

from testbed.cluster import HOST, Cluster
from testbed.waiting import wait_until

LIMIT_P50_MS: Final = 10.0
LIMIT_P99_MS: Final = 40.0
LIMIT_PER_S: Final = 300.0
LIMIT_ANSWER_P99_MS: Final = 100.0
PACE_PER_S: Final = 50
_PACED_CLIENTS: Final = 4
_PAUSE_S: Final = 0.005
_JOB: Final = {"image": "local/busybox:1", "technology": "docker", "vcpus": 0.01, "memory": 1, "cmd": ["sleep", "1000"]}
Sent = dict[tuple[str, int], float]


def run(
    *, nodes: int = 10, singles: int = 300, many: int = 3000, clients: int = 16, paced: int = 500
) -> dict[str, Any]:
    """Milliseconds from the first byte of the request to the command at the node, and deploys per second.

    `paced` deploys come as a busy root sends them, 50 a second whatever the answers do: how long an answer takes.

    `singles` go one after the other with a short pause. `many` go from `clients` connections as fast as they are
    answered; the rate is theirs from the first request to the arrival of the last command.
    """
    with bench_cluster() as made:
        node_ids = register(made, nodes)
        echoes = EchoNodes(made.ports["broker"], node_ids)
        echoes.start()
        wait_until(lambda: made.http.get("/api/cluster/status")["nodes"].get("READY") == nodes, what="nodes are READY")
        asyncio.run(_send(made, "warm", 20, 1, _PAUSE_S))
        one_by_one = asyncio.run(_send(made, "single", singles, 1, _PAUSE_S))
        wait_until(lambda: echoes.count.value >= 20 + singles, what="all commands have arrived")
        answers_ms = asyncio.run(_paced(made, "paced", paced))
        wait_until(lambda: echoes.count.value >= 20 + singles + paced, what="all commands have arrived")
        cpu_before = cpu_s(made)
        began = time.monotonic()
        at_once = asyncio.run(_send(made, "many", many, clients, 0.0))
        answered_s = time.monotonic() - began
        wait_until(
            lambda: echoes.count.value >= 20 + singles + paced + many, timeout=120, what="all commands have arrived"
        )
        cpu_ms = {name: round((used - cpu_before[name]) * 1e3 / many, 2) for name, used in cpu_s(made).items()}
        arrivals = echoes.stop()
    took_s = max(arrivals[key] for key in at_once) - began
    return {
        "nodes": nodes,
        "one_by_one": _latencies(one_by_one, arrivals),
        "at_once": {"clients": clients, **_latencies(at_once, arrivals)},
        "paced": {"per_s": PACE_PER_S, "answer_p99_ms": round(percentile(answers_ms, 0.99), 2)},
        "answers_per_s": round(many / answered_s, 1),
        "deploys_per_s": round(many / took_s, 1),
        "cpu_ms_per_deploy": cpu_ms,
    }


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    single, loaded = result["one_by_one"], result["at_once"]
    what = f"deploy, {result['nodes']} nodes: HTTP to MQTT"
    many = f"deploys by {loaded['clients']} clients"
    return [
        Figure(name=f"{what} p50", value=single["p50_ms"], unit="ms", limit=LIMIT_P50_MS),
        Figure(name=f"{what} p99", value=single["p99_ms"], unit="ms", limit=LIMIT_P99_MS),
        Figure(
            name=f"answer to a deploy at {PACE_PER_S} a second p99",
            value=result["paced"]["answer_p99_ms"],
            unit="ms",
            limit=LIMIT_ANSWER_P99_MS,
        ),
        Figure(name=many, value=result["deploys_per_s"], unit="/s", limit=LIMIT_PER_S, is_floor=True),
        Figure(name=f"{many}: HTTP to MQTT p50", value=loaded["p50_ms"], unit="ms"),
        Figure(name=f"{many}: HTTP to MQTT p99", value=loaded["p99_ms"], unit="ms"),
        *(
            Figure(name=f"cpu per deploy: {name}", value=ms, unit="ms")
            for name, ms in result["cpu_ms_per_deploy"].items()
        ),
    ]


def _latencies(sent: Sent, arrivals: Arrivals) -> dict[str, float]:
    taken = [(arrivals[key] - at) * 1e3 for key, at in sent.items()]
    return {"p50_ms": round(percentile(taken, 0.5), 2), "p99_ms": round(percentile(taken, 0.99), 2)}


async def _send(made: Cluster, job_id: str, count: int, clients: int, pause_s: float) -> Sent:
    """Deploy instances 0 to `count` of a job over keep-alive connections; answers when each was sent."""
    sent: Sent = {}
    numbers = iter(range(count))
    body = orjson.dumps({"name": job_id, **_JOB})

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, made.ports["gateway"])
        for number in numbers:
            head = f"POST /api/service/{job_id}/{number} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
            sent[job_id, number] = time.monotonic()
            writer.write(head.encode() + body)
            await _read_answer(reader)
            await asyncio.sleep(pause_s)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return sent


async def _paced(made: Cluster, job_id: str, count: int) -> list[float]:
    """Send deploys at fixed times; answers how many milliseconds after its time each was answered."""
    body = orjson.dumps({"name": job_id, **_JOB})
    began = time.monotonic()
    taken_ms: list[float] = []

    async def client(first: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, made.ports["gateway"])
        for number in range(first, count, _PACED_CLIENTS):
            due = began + number / PACE_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            head = f"POST /api/deploy/{job_id}/{number} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await _read_answer(reader)
            taken_ms.append((time.monotonic() - due) * 1e3)
        writer.close()

    await asyncio.gather(*(client(first) for first in range(_PACED_CLIENTS)))
    return taken_ms


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"a deploy was answered {head!r} {body!r}")
