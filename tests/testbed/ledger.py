"""What was ordered of a cluster of real workers and acknowledged, and whether exactly that runs on its nodes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from testbed.cluster import Cluster
from testbed.operating import copies_of, delete, deploy, doubled
from testbed.scripted_node import Key
from testbed.waiting import ConditionNotMetError, wait_until

CLIENTS = 3


class Ledger:
    """Acknowledged orders. Every order is repeated until it is acknowledged."""

    def __init__(self, cluster: Cluster, **document: Any) -> None:
        self._cluster = cluster
        self._document = {"stop_grace_s": 1, **document}
        self._lock = threading.Lock()
        self.wanted: set[Key] = set()

    def deploy(self, job_id: str, number: int = 0, **document: Any) -> None:
        """Deploy, until acknowledged."""
        deploy(self._cluster, job_id, number, **{**self._document, **document})
        with self._lock:
            self.wanted.add((job_id, number))

    def delete(self, job_id: str, number: int = 0) -> None:
        """Delete, until acknowledged."""
        delete(self._cluster, job_id, number)
        with self._lock:
            self.wanted.discard((job_id, number))

    def orders_amid(self, fault: Callable[[], object], name: str, count: int = 6) -> None:
        """Give `count` deploys, every third of them deleted again, while the fault happens."""
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            given = [pool.submit(self._order, f"{name}-{number}", number % 3 == 2) for number in range(count)]
            broken = pool.submit(fault)
            broken.result()
            for done in given:
                done.result()

    def running(self) -> dict[Key, int]:
        """Process ids of what runs, by instance."""
        return {copy.key: copy.pid for copy in copies_of(self._cluster)}

    def settle(self, timeout: float = 90.0) -> None:
        """Wait until nodes and listing both show exactly what was acknowledged; tell the difference where not."""
        try:
            wait_until(self._is_settled, timeout, 0.2, "the cluster runs what was acknowledged")
        except ConditionNotMetError as error:
            copies = copies_of(self._cluster)
            there = {copy.key for copy in copies}
            extra, missing = there - self.wanted, self.wanted - there
            states = {item["id"]: (item["state"], item["detail"]) for item in self._cluster.http.instances()}
            story = f"{extra=}\n{missing=}\ntwice={doubled(copies)}\n{states=}"
            pytest.fail(f"{error}\n{story}\n{self._cluster.story()}")

    def close(self) -> None:
        """Delete everything and wait until nothing runs."""
        for key in sorted(self.wanted):
            self.delete(*key)
        self.settle()

    def _order(self, job_id: str, is_deleted: bool) -> None:
        self.deploy(job_id)
        if is_deleted:
            self.delete(job_id)

    def _is_settled(self) -> bool:
        wanted = sorted(self.wanted)
        if sorted(copy.key for copy in copies_of(self._cluster)) != wanted:
            return False
        listed = self._cluster.http.instances()
        said = sorted((item["job_id"], item["instance_number"]) for item in listed if item["state"] == "RUNNING")
        return said == wanted and all(item["state"] in ("RUNNING", "STOPPED") for item in listed)


def untouched(before: dict[Key, int], after: dict[Key, int]) -> bool:
    """Whether everything that ran before runs as the same process."""
    changed = {key: (pid, after.get(key)) for key, pid in before.items() if after.get(key) != pid}
    assert not changed, f"healthy workloads were restarted: {changed}"
    return True
