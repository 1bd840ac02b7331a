"""A machine dies in the middle of a move, and the commands of a move as the nodes of each dialect hear them."""

from collections.abc import Iterator
from typing import Any

import pytest

from testbed.cluster import Cluster, cluster
from testbed.module_server import ModuleServer, module_server
from testbed.operating import causes, copies_of, deploy, instance, move, wait_for_state, wait_until_settled
from testbed.scripted_node import ScriptedNode, SeedNode, WorkerNode, nodes
from testbed.waiting import wait_until

HERE, THERE = "edge-a", "edge-b"


@pytest.fixture
def modules() -> Iterator[ModuleServer]:
    """A server whose answers can be held back."""
    with module_server() as server:
        yield server


@pytest.fixture
def moving(modules: ModuleServer) -> Iterator[Cluster]:
    """Two real workers, and a move that waits for the target's download."""
    with cluster(GRACE_S="1") as made:
        made.add_worker(HERE)
        made.wait_until_node_is(HERE, "READY")
        deploy(made, "web", image=f"{modules.url}/web.wat", stop_grace_s=1)
        wait_for_state(made, "web")
        made.add_worker(THERE)
        made.wait_until_node_is(THERE, "READY")
        modules.go.clear()
        assert move(made, "web", HERE, THERE).status == 200
        wait_until(lambda: modules.fetches["/web.wat"] == 2, what="the target downloads")
        yield made


def test_the_target_dies_during_the_move(moving: Cluster) -> None:
    """The successor is dropped with the dead target; the old process goes on, and the history says why."""
    before = copies_of(moving, "web")
    moving.kill(THERE)
    moving.wait_until_node_is(THERE, "DOWN")
    [cause] = wait_until(lambda: causes(moving, "web", kind="move_failed"), what="the move has failed")
    assert "the target went down" in cause
    found = wait_until_settled(moving, "web")
    assert (found["node_id"], copies_of(moving, "web")) == (moving.node(HERE)["id"], before)


def test_the_source_dies_during_the_move(moving: Cluster, modules: ModuleServer) -> None:
    """The successor takes over; when the source is back its old copy is stopped, and one is left."""
    moving.kill(HERE)
    moving.wait_until_node_is(HERE, "DOWN")
    wait_until(lambda: causes(moving, "web", kind="promoted"), what="the successor takes over")
    modules.go.set()
    found = wait_until_settled(moving, "web")
    assert found["node_id"] == moving.node(THERE)["id"]
    moving.start_part(HERE)
    moving.wait_until_node_is(HERE, "READY")
    wait_until(lambda: [c.worker for c in copies_of(moving, "web")] == [THERE], 60.0, what="the stale copy is stopped")
    assert instance(moving, "web")["state"] == "RUNNING"


class TalkingSeed(SeedNode):
    """Answers as a worker of the documented contract that reports states."""

    def on_command(self, body: dict[str, Any]) -> None:
        """CREATED for a deploy, UNDEPLOYED for a delete."""
        words = {"deploy": "CREATED", "replicate": "CREATED", "delete": "UNDEPLOYED"}
        if body["command"] in words:
            self.say(body["job"], words[body["command"]])


class EngineNode(ScriptedNode):
    """A worker engine of the deployed ecosystem: commanded on topics of its own, knows deploy and delete alone."""

    def registration(self) -> dict[str, Any]:
        """An engine's handshake."""
        return {
            "host": self.name,
            "ip": "127.0.0.1",
            "port": 3000,
            "virtualization": ["docker"],
            "architecture": "amd64",
        }

    def telemetry(self) -> dict[str, Any]:
        """An older engine's words: `cpu` is the load average."""
        return {"cpu": 0.3, "memory": 10.0, "free_cores": 3, "memory_free_in_MB": 4000}

    def _on_connect(self, client: Any, *_facts: Any) -> None:
        client.subscribe(f"nodes/{self.id}/control/deploy", qos=1)
        client.subscribe(f"nodes/{self.id}/control/delete", qos=1)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        import json

        body = json.loads(message.payload)
        verb = message.topic.rsplit("/", 1)[1]
        job = {"name": body["job_name"], "instance_number": body["instance_number"], "id": body.get("_id", "")}
        with self.lock:
            self.verbs = [*getattr(self, "verbs", []), verb]
            self.say(job, "CREATED" if verb == "deploy" else "UNDEPLOYED")


@pytest.fixture
def broker_cluster() -> Iterator[Cluster]:
    """A cluster for scripted nodes."""
    with cluster() as made:
        yield made


def test_the_source_hears_the_documented_move(broker_cluster: Cluster) -> None:
    """Target: deploy; source: `move` with the target's id; after RUNNING the source gets delete; all with four keys."""
    source, target = WorkerNode(broker_cluster, "source"), WorkerNode(broker_cluster, "target")
    with nodes(source):
        deploy(broker_cluster, "web")
        source.wait_for("deploy", "web")
        wait_for_state(broker_cluster, "web")
        with nodes(target):
            assert move(broker_cluster, "web", "source", "target").status == 200
            arrived = target.wait_for("deploy", "web")
            advice = source.wait_for("move", "web")
            removed = source.wait_for("delete", "web")
            wait_until_settled(broker_cluster, "web")
            cluster_id = target.registered["cluster_id"]
    assert {body["cluster"] for body in (arrived, advice, removed)} == {cluster_id}
    assert advice["worker"] == target.id
    assert (advice["job"]["id"], advice["job"]["name"]) == ("web", "web")
    assert advice["job"]["generation"] == removed["job"]["generation"] < arrived["job"]["generation"]
    assert [heard.topic for heard in source.heard] == [f"nodes/{source.id}/controls"] * 3
    for heard in (*source.heard, *target.heard):
        assert {"command", "job", "cluster"} <= heard.body.keys()
        assert {"id", "name"} <= heard.body["job"].keys()


def test_a_seed_node_that_reports_is_moved_to_and_from(broker_cluster: Cluster) -> None:
    """A node of the documented contract that reports states takes part in moves; one that never did is refused."""
    talking, silent = TalkingSeed(broker_cluster, "talking"), SeedNode(broker_cluster, "silent")
    ours = WorkerNode(broker_cluster, "ours")
    with nodes(talking):
        deploy(broker_cluster, "web", image="local/busybox:1", technology="docker")
        wait_for_state(broker_cluster, "web")
        with nodes(silent, ours):
            refused = move(broker_cluster, "web", "talking", "silent")
            assert refused.status == 409
            assert "never reported" in refused.json["detail"]
            assert move(broker_cluster, "web", "talking", "ours").status == 200
            wait_until_settled(broker_cluster, "web")
            advice = talking.wait_for("move", "web")
            assert advice["worker"] == ours.id
            assert talking.wait_for("delete", "web")["job"]["instance_number"] == 0


def test_an_engine_is_moved_by_deploy_and_delete_alone(broker_cluster: Cluster) -> None:
    """An engine that knows neither `move` nor `replicate` hears deploy as a target and delete as a source."""
    engine, ours = EngineNode(broker_cluster, "engine"), WorkerNode(broker_cluster, "ours")
    with nodes(ours):
        deploy(broker_cluster, "web", image="local/busybox:1", technology="docker")
        wait_for_state(broker_cluster, "web")
        with nodes(engine):
            assert move(broker_cluster, "web", "ours", "engine").status == 200
            wait_until_settled(broker_cluster, "web")
            assert move(broker_cluster, "web", "engine", "ours").status == 200
            wait_until_settled(broker_cluster, "web")
            wait_until(lambda: engine.verbs == ["deploy", "delete"], what="the engine heard deploy and delete")
