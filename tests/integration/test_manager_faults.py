"""The real manager when its broker, its store, its nodes or itself fail."""

import os
import sqlite3

import grpc
import pytest
from paho.mqtt import publish

from cluster.jobs import Constraint
from cluster.v1 import manager_pb2
from testbed.cluster import HOST
from testbed.control_plane import ControlPlane, control_plane
from testbed.mongo_server import MongoServer
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

pytestmark = pytest.mark.real("mosquitto")


def _other(one: WorkerNode, two: WorkerNode, host: str) -> WorkerNode:
    return two if one.id == host else one


def _fall_silent(node: WorkerNode) -> None:
    """The cable is cut: no message of its worker arrives, and none reaches it."""
    node.stop()


def test_a_restart_of_the_manager_touches_nothing_that_runs() -> None:
    """`kill -9` and a new start: everything is as it was, nothing is started twice, and it goes on working."""
    with control_plane() as plane, nodes(worker := WorkerNode(plane, "w")):
        plane.deploy("kept", 5)
        for number in range(5):
            plane.wait_for("kept", "RUNNING", number)
        plane.kill("manager")
        plane.start_part("manager")
        wait_until(plane.is_ready, 60.0)
        plane.deploy("more")
        plane.wait_for("more", "RUNNING")
        assert {plane.state("kept", number) for number in range(5)} == {"RUNNING"}
        assert set(worker.starts.values()) == {1}


def test_a_restart_of_the_broker_touches_nothing_that_runs() -> None:
    """What is asked meanwhile is taken, and done once the broker is back."""
    with control_plane() as plane, nodes(worker := WorkerNode(plane, "w")):
        plane.deploy("kept")
        plane.wait_for("kept", "RUNNING")
        plane.kill("broker")
        plane.deploy("meanwhile")
        plane.start_part("broker")
        plane.wait_for("meanwhile", "RUNNING")
        plane.wait_for("kept", "RUNNING")
        assert set(worker.starts.values()) == {1}


def test_a_node_that_falls_silent_is_replaced_and_its_stale_copy_stopped() -> None:
    """SUSPECT, DOWN, placed anew; when it returns its old copy is deleted, and the new one stays."""
    with control_plane() as plane, nodes(one := WorkerNode(plane, "one"), two := WorkerNode(plane, "two")):
        plane.deploy("moved")
        host_id = plane.wait_for("moved", "RUNNING").node_id
        other = _other(one, two, host_id)
        host = one if other is two else two
        _fall_silent(host)
        wait_until(lambda: plane.instance("moved").node_id == other.id and plane.state("moved") == "RUNNING", 60.0)
        kinds = [event.kind for event in plane.instance("moved").events]
        assert kinds.count("lost") == 1
        stale = WorkerNode(plane, host.name)
        stale.running, stale.jobs, stale._fences = host.running, host.jobs, host._fences
        with nodes(stale):
            wait_until(lambda: not stale.running, 60.0, what="the stale copy is deleted")
        assert plane.instance("moved").node_id == other.id
        assert list(other.running) == [("moved", 0)]


def test_a_failing_store_is_told_and_loses_nothing() -> None:
    """While the database is locked calls are UNAVAILABLE; what was acknowledged before and after is there."""
    with control_plane() as plane, nodes(WorkerNode(plane, "w")):
        plane.deploy("before")
        plane.wait_for("before", "RUNNING")
        database = sqlite3.connect(plane.folder / "cluster.db", isolation_level=None)
        try:
            database.execute("BEGIN EXCLUSIVE")
            with pytest.raises(grpc.RpcError) as caught:
                _try_to_deploy(plane)
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            database.execute("ROLLBACK")
        finally:
            database.close()
        plane.deploy("after")
        plane.wait_for("after", "RUNNING")
        assert plane.state("before") == "RUNNING"


def _try_to_deploy(plane: ControlPlane) -> None:
    request = manager_pb2.DeployInstancesRequest()
    request.specs.add(name="refused", image="image", technology="docker")
    request.deployments.add().key.job_id = "refused"
    plane.call("DeployInstances", request)


@pytest.mark.real("mongo")
def test_the_same_on_a_server_of_mongodbs_protocol(mongo_server: MongoServer) -> None:
    """Deploy, `kill -9` of manager and database, delete: the same outside, another store inside."""
    url = f"{os.environ.get('STORE_URL') or mongo_server.url}/manager_test"
    with control_plane(STORE_URL=url) as plane, nodes(worker := WorkerNode(plane, "w")):
        plane.deploy("kept", 3)
        for number in range(3):
            plane.wait_for("kept", "RUNNING", number)
        plane.kill("manager")
        mongo_server.restart()
        plane.start_part("manager")
        wait_until(plane.is_ready, 60.0)
        assert {plane.state("kept", number) for number in range(3)} == {"RUNNING"}
        plane.delete("kept")
        for number in range(3):
            plane.wait_for("kept", "STOPPED", number)
        assert set(worker.starts.values()) == {1}


def test_a_last_will_is_faster_than_the_lease() -> None:
    """A node whose connection broke is DOWN one grace later, long before its lease is over."""
    with (
        control_plane(LEASE_S="5", WILL_GRACE_S="0.5") as plane,
        nodes(worker := WorkerNode(plane, "w"), WorkerNode(plane, "other")),
    ):
        plane.deploy("orphaned", constraints=(Constraint(type="direct", nodes=("w",)),))
        plane.wait_for("orphaned", "RUNNING")
        worker.telemetry_s = 3600.0
        worker.stop()
        _send_will(plane, worker)
        wait_until(lambda: plane.node("w")["state"] == "DOWN", 60.0)
        node = plane.call("GetNode", manager_pb2.GetNodeRequest(node="w")).node
        assert "last will" in node.detail


def _send_will(plane: ControlPlane, worker: WorkerNode) -> None:
    """What the broker says for a client that is gone."""
    topic = f"nodes/{worker.id}/connection"
    publish.single(topic, b'{"online": false}', qos=1, hostname=HOST, port=plane.ports["broker"])
