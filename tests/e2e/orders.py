"""What the crash tests order from a cluster, and the proof that nodes and listing agree with what was acknowledged."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from testbed.cluster import Cluster
from testbed.scripted_node import Key, WorkerNode
from testbed.waiting import ConditionNotMetError, wait_until

DEPLOYS: Final = 200
NODES: Final = 5
_CLIENTS: Final = 8
_PER_JOB: Final = 4
_ROUTES: Final = (
    ("POST", "/api/deploy/{}/{}", "GET", "/api/delete/{}/{}"),
    ("POST", "/api/service/{}/{}", "DELETE", "/api/service/{}/{}"),
)


class Orders:
    """200 deploys of 50 jobs from 8 clients; every fifth is deleted again as soon as it is acknowledged."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self._cluster = cluster
        self._document = {"image": image, "technology": "wasm", "vcpus": 0.01, "memory": 1}
        self._lock = threading.Lock()
        self.wanted: set[Key] = set()
        self.deleted: set[Key] = set()

    @property
    def count(self) -> int:
        """How many orders were acknowledged so far."""
        with self._lock:
            return len(self.wanted) + len(self.deleted)

    def run(self, on_half: Callable[[], None]) -> None:
        """Give all orders; `on_half` is called while they are under way."""
        with ThreadPoolExecutor(_CLIENTS + 1) as pool:
            chaos = pool.submit(self._at_half, on_half)
            for done in [pool.submit(self._order, number) for number in range(DEPLOYS)]:
                done.result()
            chaos.result()

    def _at_half(self, on_half: Callable[[], None]) -> None:
        wait_until(lambda: self.count >= DEPLOYS // 2, timeout=60.0, interval=0.002, what="half of the orders are in")
        on_half()

    def _order(self, number: int) -> None:
        key = (f"job-{number // _PER_JOB}", number % _PER_JOB)
        deploy_method, deploy_path, delete_method, delete_path = _ROUTES[number % 2]
        document = {**self._document, "name": f"web-{number // _PER_JOB}"}
        answer = self._cluster.http.insist(deploy_method, deploy_path.format(*key), document)
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        if number % 5 == 4:
            answer = self._cluster.http.insist(delete_method, delete_path.format(*key))
            assert (answer.status, answer.json) == (200, {"status": "ok"})
        with self._lock:
            (self.deleted if number % 5 == 4 else self.wanted).add(key)


def held(workers: Sequence[WorkerNode]) -> list[Key]:
    """Every copy that runs on any node; a key that runs twice is there twice."""
    found: list[Key] = []
    for worker in workers:
        with worker.lock:
            found += worker.running
    return sorted(found)


def listed(cluster: Cluster, *states: str) -> list[Key]:
    """What the cluster says of its instances."""
    return sorted((i["job_id"], i["instance_number"]) for i in cluster.http.instances() if i["state"] in states)


def settle(cluster: Cluster, orders: Orders, running: Callable[[], list[Key]]) -> None:
    """Wait until nodes and listing both show what was acknowledged; tells the difference where they do not."""
    wanted = sorted(orders.wanted)

    def is_settled() -> bool:
        return running() == wanted and listed(cluster, "RUNNING") == wanted and not _unsettled(cluster)

    try:
        wait_until(is_settled, timeout=60.0, interval=0.1, what="the cluster runs what was acknowledged")
    except ConditionNotMetError as error:
        extra, missing = set(running()) - set(wanted), set(wanted) - set(running())
        twice = {key for key, copies in itertools.groupby(running()) if len(list(copies)) > 1}
        pytest.fail(f"{error}\n{extra=}\n{missing=}\n{twice=}\nunsettled={_unsettled(cluster)}\n{cluster.story()}")


def _unsettled(cluster: Cluster) -> list[dict[str, Any]]:
    return [item for item in cluster.http.instances() if item["state"] not in ("RUNNING", "STOPPED")]
