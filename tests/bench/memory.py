"""What each process takes: its proportional set size (shared pages divided among those who share them)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.rig import bench_cluster

from testbed.cluster import PARTS
from testbed.waiting import wait_until

LIMIT_CORE_MB: Final = 200.0
LIMIT_WORKER_MB: Final = 45.0
_CORE: Final = PARTS[1:]
_WORKER: Final = "edge-1"


def run(*, rest_s: float = 3.0) -> dict[str, Any]:
    """MB of each process, and of the three of the middle tier together, a moment after a worker has joined."""
    with bench_cluster() as made:
        made.add_worker(_WORKER)
        made.wait_until_node_is(_WORKER, "READY")
        wait_until(lambda: made.http.get("/api/cluster/status")["nodes"] == {"READY": 1}, what="the worker is READY")
        time.sleep(rest_s)
        figures_mb = {name: _megabytes(made.parts[name].pid) for name in (*PARTS, _WORKER)}
    figures_mb["worker"] = figures_mb.pop(_WORKER)
    return {"pss_mb": figures_mb, "core_mb": round(sum(figures_mb[name] for name in _CORE), 1)}


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    pss = result["pss_mb"]
    return [
        *(Figure(name=f"memory: {name}", value=pss[name], unit="MB") for name in PARTS),
        Figure(name="memory: gateway + manager + scheduler", value=result["core_mb"], unit="MB", limit=LIMIT_CORE_MB),
        Figure(name="memory: worker", value=pss["worker"], unit="MB", limit=LIMIT_WORKER_MB),
    ]


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(kilobytes / 1024, 1)
