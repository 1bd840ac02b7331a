"""Replicate: up, down and to nothing, spread, newest first, and exactly one command for each new instance."""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.v1 import manager_pb2
from testbed.cluster import Cluster, cluster
from testbed.operating import clusterctl, deploy, manager_api, manager_channel, replicate, running_count
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

NODES = 3
MANY = 1000
REPEAT_S = 5.0  # what a node has not confirmed after this time is said again


class TimedNode(WorkerNode):
    """Notes when each command of a generation arrived."""

    def __init__(self, made: Cluster, name: str) -> None:
        super().__init__(made, name)
        self.times: defaultdict[tuple[str, str, int, int], list[float]] = defaultdict(list)

    def on_command(self, body: dict[str, Any]) -> None:
        """As a worker, and note it."""
        job = body["job"]
        self.times[job["id"], body["command"], job["instance_number"], job["generation"]].append(time.monotonic())
        super().on_command(body)


@pytest.fixture(scope="module")
def scaled() -> Iterator[tuple[Cluster, list[TimedNode]]]:
    """A cluster with three scripted nodes."""
    with cluster() as made:
        workers = [TimedNode(made, f"edge-{number}") for number in range(NODES)]
        with nodes(*workers):
            yield made, workers


def held(workers: list[TimedNode], job_id: str) -> dict[int, str]:
    """Which node runs which number; fails where one runs twice."""
    found: dict[int, str] = {}
    for worker in workers:
        with worker.lock:
            numbers = [number for job, number in worker.running if job == job_id]
        for number in numbers:
            assert number not in found, f"{job_id}/{number} runs on {found[number]} and {worker.name}"
            found[number] = worker.name
    return found


def wait_until_runs(made: Cluster, workers: list[TimedNode], job_id: str, numbers: list[int]) -> None:
    """Wait until nodes and cluster agree that exactly these run."""
    wait_until(
        lambda: sorted(held(workers, job_id)) == numbers and running_count(made, job_id) == len(numbers),
        timeout=90.0,
        interval=0.1,
        what=f"{job_id} runs as {numbers[:3]}…",
    )


def heard(workers: list[TimedNode], job_id: str) -> Counter[tuple[str, int]]:
    """How often each verb arrived for each number; what a busy node was told again after `REPEAT_S` counts once."""
    found: Counter[tuple[str, int]] = Counter()
    for worker in workers:
        with worker.lock:
            for (job, verb, number, _), times in worker.times.items():
                if job == job_id:
                    gaps = (after - before for before, after in itertools.pairwise(times))
                    found[verb, number] += 1 + sum(1 for gap in gaps if gap < REPEAT_S * 0.9)
    return found


def ordered(workers: list[TimedNode], job_id: str) -> Counter[int]:
    """How many orders to run arrived for each number; one that was told again to a node too busy to answer is one."""
    orders = {
        (number, verb, generation)
        for worker in workers
        for job, verb, number, generation in list(worker.times)
        if job == job_id and verb != "delete"
    }
    return Counter(number for number, _, _ in orders)


def test_up_down_and_to_nothing(scaled: tuple[Cluster, list[TimedNode]]) -> None:
    """A root's job grows with numbers from 1,000,000, shrinks newest first, repeats as a no-op, and may be 0."""
    made, workers = scaled
    deploy(made, "web")
    wait_until_runs(made, workers, "web", [0])
    grown = replicate(made, "web", 6)
    assert grown.status == 200
    own = list(range(1_000_000, 1_000_005))
    assert sorted(item["instance_number"] for item in grown.json["instances"]) == [0, *own]
    wait_until_runs(made, workers, "web", [0, *own])
    assert max(Counter(held(workers, "web").values()).values()) == 2
    before = heard(workers, "web")
    assert replicate(made, {"_id": "web"}, 6).status == 200
    assert clusterctl(made, "scale", "web", "6", "--wait").status == 0
    assert heard(workers, "web") == before
    assert replicate(made, "web", 3).status == 200
    wait_until_runs(made, workers, "web", [0, 1_000_000, 1_000_001])
    assert replicate(made, "web", 0).status == 200
    wait_until_runs(made, workers, "web", [])
    with manager_channel(made) as channel:
        request = manager_pb2.ReplicateJobRequest(job_id="web", instance_count=2)
        manager_api(channel).ReplicateJob(request, timeout=20.0)
    wait_until(lambda: running_count(made, "web") == 2, what="it runs again")


def test_each_new_instance_gets_one_command(scaled: tuple[Cluster, list[TimedNode]]) -> None:
    """A node that runs the job hears `replicate`, another one `deploy`; nobody hears both or one twice."""
    made, workers = scaled
    deploy(made, "shop")
    wait_until_runs(made, workers, "shop", [0])
    home = held(workers, "shop")[0]
    assert replicate(made, "shop", 4).status == 200
    wait_until_runs(made, workers, "shop", [0, *range(1_000_000, 1_000_003)])
    commands = heard(workers, "shop")
    assert set(commands.values()) == {1}
    assert Counter(number for _, number in commands) == Counter([0, *range(1_000_000, 1_000_003)])
    for worker in workers:
        verbs = [body["command"] for body in worker.commands(job_id="shop")]
        assert "replicate" not in verbs or verbs.index("deploy") < verbs.index("replicate")
    replicas = [(worker.name, body) for worker in workers for body in worker.commands("replicate", "shop")]
    assert {home} <= {name for name, _ in replicas} or not replicas
    for _, body in replicas:
        assert {"command", "job", "cluster"} <= body.keys()
        assert body["job"]["id"] == "shop"
        assert body["job"]["name"] == "shop"


def test_a_replica_beside_its_sibling_is_a_replicate(scaled: tuple[Cluster, list[TimedNode]]) -> None:
    """With one node allowed, every further instance is `replicate` on the documented topic."""
    made, workers = scaled
    [first, *_] = workers
    deploy(made, "near", constraints=[{"type": "direct", "node": first.name}])
    wait_until_runs(made, workers, "near", [0])
    assert replicate(made, "near", 3).status == 200
    wait_until_runs(made, workers, "near", [0, 1_000_000, 1_000_001])
    assert [body["command"] for body in first.commands(job_id="near")] == ["deploy", "replicate", "replicate"]
    assert {item.topic for item in first.heard} == {f"nodes/{first.id}/controls"}


@pytest.mark.parametrize(
    ("job", "count", "status"),
    [("nobody", 2, 404), ("web", -1, 400), ("web", 10_001, 400), ("web", "2", 400), ({}, 1, 400)],
)
def test_a_wrong_replicate_is_refused(
    scaled: tuple[Cluster, list[TimedNode]], job: object, count: object, status: int
) -> None:
    """An unknown job is 404, a wrong number 400."""
    made, _ = scaled
    body = {"job": job, "int_replicas": count}
    answer = made.http.request("POST", "/api/replicate/", body)
    assert (answer.status, "reason" in answer.json) == (status, True)


def test_a_thousand_in_one_call(scaled: tuple[Cluster, list[TimedNode]]) -> None:
    """1,000 instances in one call: spread evenly, one command each, and gone again in one call."""
    made, workers = scaled
    deploy(made, "mass", vcpus=0.01)
    wait_until_runs(made, workers, "mass", [0])
    assert replicate(made, "mass", MANY).status == 200
    numbers = [0, *range(1_000_000, 1_000_000 + MANY - 1)]
    wait_until_runs(made, workers, "mass", numbers)
    assert set(ordered(workers, "mass").values()) == {1}
    shares = Counter(held(workers, "mass").values())
    assert max(shares.values()) - min(shares.values()) <= MANY // 10, shares
    assert replicate(made, "mass", 0).status == 200
    wait_until_runs(made, workers, "mass", [])
    assert set(ordered(workers, "mass").values()) == {1}
