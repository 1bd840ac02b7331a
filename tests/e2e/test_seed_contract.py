"""The documented messages, exactly as written, between a root that speaks HTTP and a node that speaks MQTT."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.cluster import Cluster, cluster
from testbed.scripted_node import SeedNode, WorkerNode, nodes
from testbed.waiting import wait_until

JOB = {"name": "web", "image": "docker.io/library/nginx:1.27", "technology": "docker", "etc": "etc."}
R1 = ("POST", "/api/deploy/{}/{}", "GET", "/api/delete/{}/{}")
R3 = ("POST", "/api/service/{}/{}", "DELETE", "/api/service/{}/{}")


@pytest.fixture
def made() -> Iterator[Cluster]:
    """A ready cluster without nodes."""
    with cluster() as running:
        yield running


@pytest.fixture
def seed(made: Cluster) -> Iterator[SeedNode]:
    """One READY node that registered with the four documented keys."""
    node = SeedNode(made, "seed-1")
    with nodes(node):
        yield node


def order(made: Cluster, method: str, path: str, body: object = None) -> None:
    """Give an order that must be taken."""
    answer = made.http.request(method, path, body)
    assert (answer.status, answer.json) == (200, {"status": "ok"}), answer


def wait_for_state(made: Cluster, instance: str, state: str) -> dict[str, Any]:
    """Wait for an instance's state."""

    def look() -> dict[str, Any]:
        found: dict[str, Any] = made.http.get(f"/api/instances/{instance}")
        return found if found["state"] == state else {}

    return wait_until(look, what=f"{instance} is {state}")


def test_registration_is_answered_as_documented(made: Cluster) -> None:
    """The four keys are enough; id and port come back as strings; registering again gives the same id."""
    body = {"id": "", "name": "edge", "ip": "127.0.0.1", "port": 3000}
    first = made.http.request("POST", "/api/node/register", body)
    again = made.http.request("POST", "/api/node/register", {**body, "id": first.json["id"], "port": "3000"})
    assert first.status == again.status == 200
    assert first.json == again.json
    assert re.fullmatch("[0-9a-f]{24}", first.json["id"])
    assert first.json["MQTT_BROKER_PORT"] == str(made.ports["broker"])
    assert [node["name"] for node in made.http.get("/api/nodes")["nodes"]] == ["edge"]


def test_node_under_an_id_of_its_own_choice_is_commanded_on_that_topic(made: Cluster) -> None:
    """A given id that is not ours stays the node's topic: telemetry is heard there and commands go there."""
    node = SeedNode(made, "seed-7", id="7")
    node.topic_id = "7"
    with nodes(node):
        order(made, "POST", "/api/deploy/j1/0", JOB)
        node.wait_for("deploy", "j1")
    assert node.heard[0].topic == "nodes/7/controls"


@pytest.mark.parametrize("routes", [R1, R3], ids=["R1", "R3"])
def test_deploy_and_delete_arrive_with_the_documented_keys(
    made: Cluster, seed: SeedNode, routes: tuple[str, ...]
) -> None:
    """Both route sets bring `command`, `job` with its four keys and `cluster`, beside what the job came with."""
    deploy_method, deploy_path, delete_method, delete_path = routes
    order(made, deploy_method, deploy_path.format("5f1a", 3), JOB)
    deploy = seed.wait_for("deploy", "5f1a")
    order(made, delete_method, delete_path.format("5f1a", 3))
    delete = seed.wait_for("delete", "5f1a")
    cluster_id = made.http.get("/api/cluster/status")["cluster_id"]
    for body in (deploy, delete):
        assert set(body) == {"command", "job", "cluster"}
        assert body["cluster"] == cluster_id
        assert {key: body["job"][key] for key in ("id", "name", "image", "technology", "etc")} == {"id": "5f1a", **JOB}
        assert body["job"]["instance_number"] == 3
    assert [deploy["command"], delete["command"]] == ["deploy", "delete"]
    assert {item.topic for item in seed.heard} == {f"nodes/{seed.id}/controls"}
    assert all(json.loads(item.payload) == item.body for item in seed.heard)


def test_states_of_a_seed_node_reach_the_listings(made: Cluster, seed: SeedNode) -> None:
    """ACTIVE makes an instance RUNNING, UNDEPLOYED ends a deleted one; jobs, instances and events tell it."""
    order(made, "POST", "/api/service/j1/0", JOB)
    seed.say(seed.wait_for("deploy", "j1")["job"], "ACTIVE")
    running = wait_for_state(made, "j1/0", "RUNNING")
    assert (running["node_id"], running["image"], running["technology"]) == (seed.id, JOB["image"], "docker")
    [job] = made.http.get("/api/jobs")["jobs"]
    assert (job["id"], job["name"], job["running_count"]) == ("j1", "web", 1)
    [listed] = made.http.get(f"/api/instances?node={seed.id}&state=RUNNING")["instances"]
    assert listed["id"] == "j1/0"
    order(made, "DELETE", "/api/service/j1/0")
    seed.say(seed.wait_for("delete", "j1")["job"], "UNDEPLOYED")
    wait_for_state(made, "j1/0", "STOPPED")
    kinds = [event["kind"] for event in made.http.get("/api/events?job_id=j1")["events"]]
    assert kinds[::-1][:2] == ["requested", "placed"]
    assert {"running", "deleted", "stopped"} <= set(kinds)


def test_silent_seed_node_gets_each_command_once_and_deletes_close(made: Cluster, seed: SeedNode) -> None:
    """A node that never reports keeps its instances STARTING; a delete closes after the stop grace."""
    order(made, "POST", "/api/service/j1/0", {**JOB, "stop_grace_s": 0.5})
    seed.wait_for("deploy", "j1")
    wait_for_state(made, "j1/0", "STARTING")
    order(made, "DELETE", "/api/service/j1/0")
    seed.wait_for("delete", "j1")
    wait_for_state(made, "j1/0", "STOPPED")
    assert [body["command"] for body in seed.commands()] == ["deploy", "delete"]


def test_delete_of_minus_one_means_all(made: Cluster, seed: SeedNode) -> None:
    """-1 deletes every instance of the job and none of another."""
    for number in range(3):
        order(made, "POST", f"/api/service/j1/{number}", JOB)
    order(made, "POST", "/api/service/j2/0", {**JOB, "name": "other"})
    seed.wait_for("deploy", "j1", count=3)
    order(made, "GET", "/api/delete/j1/-1")
    seed.wait_for("delete", "j1", count=3)
    assert {body["job"]["instance_number"] for body in seed.commands("delete")} == {0, 1, 2}
    assert seed.commands("delete", "j2") == []


def test_repeated_orders_change_nothing(made: Cluster) -> None:
    """The same deploy or delete again, on either route set, is answered the same and commands nothing more."""
    node = WorkerNode(made, "edge-1")
    with nodes(node):
        for path in ("/api/service/j1/0", "/api/deploy/j1/0", "/api/service/j1/0"):
            order(made, "POST", path, JOB)
        first = wait_for_state(made, "j1/0", "RUNNING")
        order(made, "POST", "/api/service/j1/0", JOB)
        assert made.http.get("/api/instances/j1/0")["placements"] == first["placements"]
        order(made, "DELETE", "/api/service/j1/0")
        wait_for_state(made, "j1/0", "STOPPED")
        order(made, "GET", "/api/delete/j1/0")
        order(made, "DELETE", "/api/service/j1/-1")
        assert node.starts == {("j1", 0): 1}
        assert len(node.commands("deploy")) == len(node.commands("delete")) == 1


def test_another_image_replaces_the_copy(made: Cluster) -> None:
    """A deploy with another image runs that one, in a newer generation, and the old copy is gone."""
    node = WorkerNode(made, "edge-1")
    with nodes(node):
        order(made, "POST", "/api/service/j1/0", JOB)
        old = wait_for_state(made, "j1/0", "RUNNING")["placements"][0]["generation"]
        order(made, "POST", "/api/service/j1/0", {**JOB, "image": "nginx:2"})
        wait_until(lambda: node.running.get(("j1", 0), 0) > old, what="the newer generation runs")
        wait_until(
            lambda: [item["role"] for item in wait_for_state(made, "j1/0", "RUNNING")["placements"]] == ["CURRENT"],
            what="the old copy is closed",
        )
        assert node.jobs["j1", 0]["image"] == made.http.get("/api/instances/j1/0")["image"] == "nginx:2"


def test_deleted_instance_can_be_deployed_again(made: Cluster) -> None:
    """A deploy after a delete starts a newer generation."""
    node = WorkerNode(made, "edge-1")
    with nodes(node):
        order(made, "POST", "/api/service/j1/0", JOB)
        old = wait_for_state(made, "j1/0", "RUNNING")["placements"][0]["generation"]
        order(made, "DELETE", "/api/service/j1/0")
        wait_for_state(made, "j1/0", "STOPPED")
        order(made, "POST", "/api/service/j1/0", JOB)
        wait_for_state(made, "j1/0", "RUNNING")
        assert node.running["j1", 0] > old
        assert node.starts["j1", 0] == 2


def test_unknown_ids(made: Cluster) -> None:
    """Deletes of what never was succeed; reads of it are problems that name what is missing; nothing comes to be."""
    order(made, "GET", "/api/delete/nothing/0")
    order(made, "DELETE", "/api/service/nothing/-1")
    for path in ("/api/instances/nothing/0", "/api/jobs/nothing", "/api/nodes/nothing"):
        answer = made.http.request("GET", path)
        assert (answer.status, answer.json["reason"]) == (404, "not_found")
    assert made.http.instances() == []
