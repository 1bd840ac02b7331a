"""A control plane on a store that was filled before it began, and what can be seen of it from outside, patiently."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc
from bench.crowd import Crowd
from bench.rig import BROKER

from cluster.v1 import manager_pb2, node_pb2
from manager.ports import Contents
from testbed.cluster import HOST
from testbed.control_plane import ControlPlane
from testbed.full_store import Layout, fill, load
from testbed.ports import is_listening
from testbed.stores import sqlite_url
from testbed.waiting import wait_until

LOOP_GAP: Final = "cluster_manager_loop_gap_seconds"
_STORE: Final = "store.db"
_CALL_S: Final = 30.0
_PATIENCE_S: Final = 180.0
_PAUSE_S: Final = 0.2
_GAPS_PERIOD_S: Final = 10.0
# As deploy/mosquitto/mosquitto.conf has it: what the broker throws away is told once a second.
_BROKER: Final = f"{BROKER}max_queued_messages 100000\nmax_inflight_messages 1000\nsys_interval 1\n"
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_NOT_READY: Final = [state for state in node_pb2.NodeState.values() if state and state != node_pb2.NODE_STATE_READY]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Counts of nodes and instances by state, and the manager's counters."""

    nodes: Mapping[str, int]
    instances: Mapping[str, int]
    counters: Mapping[str, int]

    @property
    def ready(self) -> int:
        """How many nodes are READY."""
        return self.nodes.get("READY", 0)


class BigPlane(ControlPlane):
    """Broker, manager and scheduler over a copy of a filled store; calls are repeated while the manager is busy."""

    def __init__(self, folder: Path, filled: Path, settings: Mapping[str, str]) -> None:
        self.store = folder / _STORE
        self.url = sqlite_url(folder)
        shutil.copy(filled, self.store)
        super().__init__(folder, {"STORE_URL": self.url, **settings}, _BROKER)

    def call(self, method: str, request: Any) -> Any:
        """One call, repeated for minutes where the manager does not come to it. Raises grpc.RpcError."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return getattr(self.stub, method)(request, timeout=_CALL_S)
            except grpc.RpcError as error:
                if error.code() not in _AWAY or time.monotonic() > deadline_s:
                    raise
                time.sleep(_PAUSE_S)

    def sight(self) -> Sight:
        """How it stands: counts over everything, so not to be asked often."""
        status = self.call("GetStatus", manager_pb2.GetStatusRequest())
        return Sight(
            nodes=dict(status.node_counts), instances=dict(status.instance_counts), counters=dict(status.counters)
        )

    def first_unready(self) -> str:
        """The name of the first node that is not READY; "" where all are."""
        request = manager_pb2.ListNodesRequest(states=_NOT_READY, page_size=1)
        nodes = self.call("ListNodes", request).nodes
        return str(nodes[0].registration.name) if nodes else ""

    def loop_gap_s(self) -> float | None:
        """The largest gap of its loop that the manager itself tells of; None where it does not."""
        with urllib.request.urlopen(f"http://{HOST}:{self.ports['metrics']}/metrics", timeout=_CALL_S) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{LOOP_GAP} ")), None)

    def cpu_s(self, part: str) -> float:
        """Processor seconds that a part has taken so far."""
        fields = Path(f"/proc/{self.parts[part].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self, part: str, field: str = "VmRSS") -> float:
        """Resident memory of a part; `VmHWM`: the most it ever was."""
        lines = Path(f"/proc/{self.parts[part].pid}/status").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
        return round(kilobytes / 1024, 1)

    def saved(self) -> Contents:
        """End everything; answers what is in the store then."""
        self.close()
        return load(self.url)


@contextlib.contextmanager
def filled_store(layout: Layout) -> Iterator[Path]:
    """The file of a store that holds a layout, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="filled-") as folder:
        fill(sqlite_url(Path(folder)), layout)
        yield Path(folder) / _STORE


@contextlib.contextmanager
def big_plane(filled: Path, **settings: str) -> Iterator[BigPlane]:
    """A control plane over a copy of a filled store, not started; whatever runs of it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="big-plane-") as folder:
        plane = BigPlane(Path(folder), filled, settings)
        try:
            yield plane
        finally:
            plane.close()


@contextlib.contextmanager
def running(plane: BigPlane, layout: Layout) -> Iterator[Crowd]:
    """The plane started, with its nodes speaking since before its manager could miss them."""
    plane.parts["broker"].start()
    wait_until(lambda: is_listening(plane.ports["broker"]), what="the broker listens")
    crowd = Crowd(plane.ports["broker"], layout).start()
    try:
        plane.start()
        yield crowd
    finally:
        crowd.stop()


class OwnGaps:
    """What a manager itself says of its loop's gaps: the largest of what `loop_gap_s` answers every few seconds.

    It tells of its last minute only, so that one look at the end would miss what a long storm began with.
    """

    def __init__(self, plane: BigPlane) -> None:
        self._plane = plane
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, daemon=True)
        self.largest_s: float | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look_forever(self) -> None:
        while True:
            is_last = self._ended.wait(_GAPS_PERIOD_S)
            with contextlib.suppress(OSError):
                if (gap_s := self._plane.loop_gap_s()) is not None:
                    self.largest_s = max(gap_s, self.largest_s or 0.0)
            if is_last:
                return


def until(is_met: Callable[[], bool], limit_s: float, pause_s: float = 0.25) -> bool:
    """Wait for a condition; whether it came within the limit: a measurement goes on without it."""
    deadline_s = time.monotonic() + limit_s
    while not is_met():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(pause_s)
    return True


def since(before: Sight, after: Sight) -> dict[str, int]:
    """By how much each counter has grown."""
    grown = {name: count - before.counters.get(name, 0) for name, count in after.counters.items()}
    return {name: count for name, count in grown.items() if count}


def dropped(counters: Mapping[str, int]) -> int:
    """Messages that the manager threw away, but for telemetry that newer telemetry of the same node made pointless."""
    return sum(count for name, count in counters.items() if "dropped" in name and "superseded" not in name)
