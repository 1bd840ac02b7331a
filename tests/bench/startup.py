"""How long `clusterctl up` takes until the API is ready, from the start of its process."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure

from testbed.cluster import Http
from testbed.ports import free_offset
from testbed.processes import process
from testbed.waiting import wait_until

LIMIT_S: Final = 2.0
_GATEWAY: Final = 10100
_PORTS: Final = (10001, 10003, _GATEWAY, 10101, 10105, 10106)


def run(*, times: int = 3) -> dict[str, Any]:
    """Seconds until `GET /status` is 200: the first start in an empty folder, then the median of starts on its data."""
    with tempfile.TemporaryDirectory(prefix="bench-up-") as folder:
        first = _once(Path(folder))
        again = [_once(Path(folder)) for _ in range(times)]
    return {"first_s": round(first, 2), "again_s": round(statistics.median(again), 2)}


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    return [
        Figure(name="clusterctl up to API ready, first", value=result["first_s"], unit="s", limit=LIMIT_S),
        Figure(name="clusterctl up to API ready, again", value=result["again_s"], unit="s", limit=LIMIT_S),
    ]


def _once(folder: Path) -> float:
    offset = free_offset(_PORTS)
    argv = [sys.executable, "-P", "-m", "clusterctl", "up", "--no-worker", "--data-dir", str(folder)]
    http = Http(_GATEWAY + offset)
    began = time.monotonic()
    with process([*argv, "--port-offset", str(offset)]) as up:
        wait_until(lambda: http.request("GET", "/status").status == 200 or not up.is_running, what="the API is ready")
        took_s = time.monotonic() - began
        if not up.is_running:
            raise RuntimeError(up.output())
        up.stop()
    return took_s
