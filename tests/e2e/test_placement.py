"""Where jobs go, and what is told of those that fit nowhere."""

from collections.abc import Iterator
from typing import Any

import pytest

from testbed.cluster import Cluster, cluster
from testbed.scripted_node import SeedNode, WorkerNode, nodes
from testbed.waiting import wait_until

JOB = {"name": "web", "image": "docker.io/library/nginx:1.27", "technology": "docker"}
SMALL = {"vcpus": 1, "memory_in_MB": 1000}


@pytest.fixture
def made() -> Iterator[Cluster]:
    """A ready cluster without nodes."""
    with cluster() as running:
        yield running


def deploy(made: Cluster, instance: str, **document: Any) -> None:
    """Deploy an instance."""
    assert made.http.request("POST", f"/api/service/{instance}", {**JOB, **document}).status == 200


def wait_for_state(made: Cluster, instance: str, state: str) -> dict[str, Any]:
    """Wait for an instance's state."""

    def look() -> dict[str, Any]:
        found: dict[str, Any] = made.http.get(f"/api/instances/{instance}")
        return found if found["state"] == state else {}

    return wait_until(look, what=f"{instance} is {state}")


def direct(*names: str) -> list[dict[str, str]]:
    """The constraint that allows these nodes only."""
    return [{"type": "direct", "node": ";".join(names)}]


def test_schedule_answers_the_documented_message(made: Cluster) -> None:
    """`POST /api/schedule` answers `workers` and `job.image`, one worker per replica, and changes nothing."""
    first, second = WorkerNode(made, "edge-1", **SMALL), SeedNode(made, "seed-1")
    with nodes(first, second):
        answer = made.http.request("POST", "/api/schedule", {**JOB, "vcpus": 0.5})
        assert (answer.status, answer.json) == (200, {"workers": [first.id], "job": {"image": JOB["image"]}})
        many = made.http.request("POST", "/api/schedule", {**JOB, "replicas": 3}).json
        assert len(many["workers"]) == 3
        assert set(many["workers"]) <= {first.id, second.id}
        assert made.http.instances() == []
        assert first.commands() == second.commands() == []


def test_schedule_without_capacity_answers_no_workers_and_why(made: Cluster) -> None:
    """Where nothing fits the answer is 200 with empty `workers` and the reasons."""
    node = WorkerNode(made, "edge-1", **SMALL)
    with nodes(node):
        answer = made.http.request("POST", "/api/schedule", {**JOB, "memory": 5000})
        assert (answer.status, answer.json["workers"]) == (200, [])
        assert answer.json["reasons"]["memory"]["count"] == 1


def test_instance_without_capacity_waits_with_reasons_until_capacity_frees(made: Cluster) -> None:
    """It is PENDING and says why, in the listing and when explained; it runs as soon as another one is deleted."""
    node = WorkerNode(made, "edge-1", **SMALL)
    with nodes(node):
        deploy(made, "j1/0", vcpus=0.8)
        wait_for_state(made, "j1/0", "RUNNING")
        deploy(made, "j2/0", vcpus=0.8)
        pending = wait_for_state(made, "j2/0", "PENDING")
        assert [(item["reason"], item["node_count"]) for item in pending["refusals"]] == [("cpu", 1)]
        assert "cpu" in made.http.get("/api/instances/j2/0/explain")["summary"]
        assert held(node) == {("j1", 0)}
        made.http.request("DELETE", "/api/service/j1/0")
        wait_for_state(made, "j2/0", "RUNNING")
        assert held(node) == {("j2", 0)}


def test_instance_without_capacity_is_placed_when_a_node_joins(made: Cluster) -> None:
    """What found no node at all is placed on the first one that comes."""
    deploy(made, "j1/0")
    wait_for_state(made, "j1/0", "PENDING")
    node = WorkerNode(made, "edge-1", **SMALL)
    with nodes(node):
        wait_for_state(made, "j1/0", "RUNNING")


def test_direct_constraint_chooses_among_the_named_nodes(made: Cluster) -> None:
    """`direct` with `h1;h2` places on those only, by name; several instances spread over them."""
    workers = [WorkerNode(made, f"edge-{number}") for number in range(3)]
    with nodes(*workers):
        for number in range(4):
            deploy(made, f"j1/{number}", constraints=direct("edge-1", "edge-2"))
        for number in range(4):
            wait_for_state(made, f"j1/{number}", "RUNNING")
        assert [len(held(worker)) for worker in workers] == [0, 2, 2]


def test_direct_constraint_to_an_unknown_node_waits(made: Cluster) -> None:
    """An instance for a node that is not there is PENDING with that reason, and placed when that node joins."""
    other = WorkerNode(made, "edge-1")
    with nodes(other):
        deploy(made, "j1/0", constraints=direct("edge-9"))
        pending = wait_for_state(made, "j1/0", "PENDING")
        assert [item["node_count"] for item in pending["refusals"]] == [1]
        wanted = WorkerNode(made, "edge-9")
        with nodes(wanted):
            assert wait_for_state(made, "j1/0", "RUNNING")["node_id"] == wanted.id
        assert held(other) == set()


def test_two_placements_never_take_the_same_capacity(made: Cluster) -> None:
    """Of 30 instances for 20 places exactly 20 run, none beyond any node's capacity, and the others wait."""
    workers = [WorkerNode(made, f"edge-{number}", vcpus=1, memory_in_MB=1000) for number in range(2)]
    with nodes(*workers):
        for number in range(30):
            deploy(made, f"j1/{number}", vcpus=0.1)
        wait_until(lambda: states(made) == {"RUNNING": 20, "PENDING": 10}, what="20 run and 10 wait")
        assert [len(held(worker)) for worker in workers] == [10, 10]


def held(node: WorkerNode) -> set[tuple[str, int]]:
    """What runs on a node."""
    with node.lock:
        return set(node.running)


def states(made: Cluster) -> dict[str, int]:
    """How many instances are in each state."""
    counts: dict[str, int] = made.http.get("/api/cluster/status")["instances"]
    return {state: count for state, count in counts.items() if count}
