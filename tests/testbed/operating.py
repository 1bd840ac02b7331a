"""What an operator asks of a whole cluster, and what is true on its nodes whatever the cluster says of them."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cluster.v1.manager_pb2_grpc import ManagerServiceStub
from testbed.cluster import HOST, Answer, Cluster
from testbed.processes import REPOSITORY
from testbed.scripted_node import Key
from testbed.waiting import wait_until

HELLO = {"image": "builtin:hello", "technology": "wasm"}
_RUNNER = b"worker.runtime.wasm_runner"


@dataclass(frozen=True)
class Copy:
    """A wasm workload that runs on a node of this machine."""

    worker: str
    job_id: str
    number: int
    generation: int
    pid: int

    @property
    def key(self) -> Key:
        """The instance that it is a copy of."""
        return (self.job_id, self.number)


@dataclass(frozen=True)
class Said:
    """Exit status and output of a command."""

    status: int
    output: str


def deploy(cluster: Cluster, job_id: str, number: int = 0, **document: Any) -> None:
    """Ask for one instance of a job; `document` goes on top of a wasm service."""
    body = {"name": job_id, **HELLO, **document}
    answer = cluster.http.insist("POST", f"/api/deploy/{job_id}/{number}", body)
    assert answer.status == 200, answer


def delete(cluster: Cluster, job_id: str, number: int = -1) -> None:
    """Ask that an instance, or all of the job, be gone."""
    assert cluster.http.insist("GET", f"/api/delete/{job_id}/{number}").status == 200


def instance(cluster: Cluster, job_id: str, number: int = 0) -> dict[str, Any]:
    """An instance with its history."""
    found: dict[str, Any] = cluster.http.get(f"/api/instances/{job_id}/{number}")
    return found


def causes(cluster: Cluster, job_id: str, number: int = 0, kind: str = "") -> list[str]:
    """Why an instance changed, oldest first."""
    events = instance(cluster, job_id, number)["events"]
    return [event["cause"] for event in events if kind in ("", event["kind"])]


def wait_for_state(
    cluster: Cluster, job_id: str, state: str = "RUNNING", number: int = 0, timeout: float = 60.0
) -> dict[str, Any]:
    """Wait until the cluster says so of an instance."""
    return wait_until(
        lambda: found if (found := instance(cluster, job_id, number))["state"] == state else {},
        timeout,
        0.05,
        f"{job_id}/{number} is {state}",
    )


def wait_until_settled(cluster: Cluster, job_id: str, number: int = 0, timeout: float = 60.0) -> dict[str, Any]:
    """Wait until an instance runs and holds one placement only."""

    def is_settled() -> dict[str, Any]:
        found = instance(cluster, job_id, number)
        return found if found["state"] == "RUNNING" and len(found["placements"]) == 1 else {}

    return wait_until(is_settled, timeout, 0.05, f"{job_id}/{number} runs in one place")


def running_count(cluster: Cluster, job_id: str) -> int:
    """How many instances of a job the cluster calls RUNNING."""
    return sum(1 for item in cluster.http.instances(f"&job_id={job_id}") if item["state"] == "RUNNING")


def move(cluster: Cluster, job_id: str, source: str, target: str = "", **more: Any) -> Answer:
    """POST /api/move/ once."""
    body = {"job": job_id, "node_from": source, **({"node_to": target} if target else {}), **more}
    return cluster.http.request("POST", "/api/move/", body)


def replicate(cluster: Cluster, job: object, count: int) -> Answer:
    """POST /api/replicate/ once."""
    return cluster.http.request("POST", "/api/replicate/", {"job": job, "int_replicas": count}, timeout=60.0)


def manager_api(channel: grpc.Channel) -> ManagerServiceStub:
    """The typed API."""
    stub: ManagerServiceStub = ManagerServiceStub(channel)
    return stub


def manager_channel(cluster: Cluster) -> grpc.Channel:
    """A channel to the manager; to be used in a `with`."""
    return grpc.insecure_channel(f"{HOST}:{cluster.ports['manager']}", options=[("grpc.enable_http_proxy", 0)])


def clusterctl(cluster: Cluster, *arguments: str, timeout: float = 120.0) -> Said:
    """Run the operator's command line to its end."""
    environment = {**os.environ, "CLUSTERCTL_MANAGER": f"{HOST}:{cluster.ports['manager']}"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "clusterctl", *arguments],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Said(done.returncode, done.stdout + done.stderr)


def copies(folder: Path, job_id: str = "") -> list[Copy]:
    """The wasm workloads that really run below `folder`, read from the process table."""
    found = [copy for copy in _copies(folder) if job_id in ("", copy.job_id)]
    return sorted(found, key=lambda copy: (copy.key, copy.generation))


def _copies(folder: Path) -> Iterator[Copy]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            place = (entry / "cwd").readlink().relative_to(folder.resolve())
        except (OSError, ValueError):
            continue
        # the shim that waits for the runner has "sh" as its first word
        if _RUNNER in words and not words[0].endswith(b"sh"):
            job_id, number, generation = place.parts[2].rsplit(".", 2)
            yield Copy(place.parts[0], job_id, int(number), int(generation), int(entry.name))


def copies_of(cluster: Cluster, job_id: str = "") -> list[Copy]:
    """The wasm workloads that really run on the nodes of a cluster."""
    return copies(cluster.folder, job_id)


def doubled(found: list[Copy]) -> list[Key]:
    """The instances that run more than once."""
    return [key for key, count in Counter(copy.key for copy in found).items() if count > 1]
