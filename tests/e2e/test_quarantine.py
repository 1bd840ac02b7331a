"""What cannot be read or understood ends no process and holds up nothing else (section 4 of the reliability work)."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import grpc
import pytest

from cluster.v1 import instance_pb2, job_pb2, manager_pb2, node_pb2
from testbed.cluster import Cluster, cluster
from testbed.operating import clusterctl, deploy, instance, manager_api, manager_channel, wait_for_state
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until


def _damage(made: Cluster, table: str, record_id: str, document: str) -> None:
    with contextlib.closing(sqlite3.connect(made.folder / "cluster.db")) as database:
        database.execute(f"UPDATE {table} SET document = ? WHERE id = ?", (document, record_id))
        database.commit()


def _refusal(made: Cluster, method: str, request: object) -> grpc.RpcError:
    with manager_channel(made) as channel, pytest.raises(grpc.RpcError) as caught:
        getattr(manager_api(channel), method)(request, timeout=10)
    return caught.value


def test_4_a_specification_that_no_worker_could_read_is_refused_at_the_edge() -> None:
    """Neither saved nor answered as accepted; the manager goes on, and starts again."""
    with cluster() as made:
        for spec, field in (
            (job_pb2.JobSpec(name="a", image="i", technology="wasm", document_json="{not json"), "document_json"),
            (job_pb2.JobSpec(name="a", image="i", technology="wasm", document_json="[1]"), "document_json"),
            (job_pb2.JobSpec(name="a", image="i", technology="wasm", ports="80:eighty"), "port"),
            (
                job_pb2.JobSpec(
                    name="a",
                    image="i",
                    technology="wasm",
                    constraints=[job_pb2.Constraint(type="direct", document_json="{")],
                ),
                "constraints.0.document_json",
            ),
            (
                job_pb2.JobSpec(
                    name="a", image="i", technology="wasm", volumes=[job_pb2.Volume(id="v", config_json="nope")]
                ),
                "volumes.0.config_json",
            ),
        ):
            wanted = manager_pb2.InstanceDeployment(key=instance_pb2.InstanceKey(job_id="a", number=0))
            error = _refusal(
                made, "DeployInstances", manager_pb2.DeployInstancesRequest(specs=[spec], deployments=[wanted])
            )
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
            assert field in str(error.trailing_metadata()) or field in str(error.details()), error
        assert made.http.get("/api/jobs")["jobs"] == []
        made.kill("manager")
        made.start_part("manager")
        made.wait_until_ready()


def test_4_a_nameless_node_is_refused_at_the_edge() -> None:
    """So is one without an address."""
    with cluster() as made:
        for registration in (
            node_pb2.NodeRegistration(),
            node_pb2.NodeRegistration(name="edge", ip="nowhere", port=1),
            node_pb2.NodeRegistration(name="edge", ip="127.0.0.1", port=0),
        ):
            error = _refusal(made, "RegisterNode", manager_pb2.RegisterNodeRequest(registration=registration))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert made.http.get("/api/nodes")["nodes"] == []


def test_4_records_that_cannot_be_read_are_set_aside_and_the_manager_starts() -> None:
    """They are shown in status and events, exported and dropped by commands; everything else goes on untouched."""
    with cluster() as made, nodes(node := WorkerNode(made, "edge-0")):
        for job_id in ("good", "bad", "worse"):
            deploy(made, job_id)
            wait_for_state(made, job_id)
        made.parts["manager"].stop()
        _damage(made, "instance", "bad/0", '{"broken')
        _damage(made, "job", "worse", '{"id": 5}')
        made.start_part("manager")
        made.wait_until_ready()
        status = made.http.get("/api/cluster/status")
        assert status["quarantined"] == ["instance bad/0", "job worse"]
        kinds = [event["kind"] for event in made.http.get("/api/events")["events"]]
        assert kinds.count("quarantined") == 2
        assert instance(made, "good")["state"] == "RUNNING"
        assert instance(made, "worse")["state"] == "RUNNING"
        wait_until(lambda: made.http.request("GET", "/api/jobs/worse").status == 200, what="its job is made anew")
        assert "bad/0" in clusterctl(made, "quarantine", "list").output
        assert clusterctl(made, "quarantine", "export", "instance", "bad/0").output.strip() == '{"broken'
        assert json.loads(clusterctl(made, "quarantine", "list", "-o", "json").output)[0]["id"] == "bad/0"
        assert clusterctl(made, "quarantine", "drop", "instance", "bad/0").status == 0
        assert clusterctl(made, "quarantine", "drop", "instance", "bad/0").status == 3
        assert made.http.get("/api/cluster/status")["quarantined"] == ["job worse"]
        made.kill("manager")
        made.start_part("manager")
        made.wait_until_ready()
        assert made.http.get("/api/cluster/status")["quarantined"] == ["job worse"]
        assert node.starts == {("good", 0): 1, ("bad", 0): 1, ("worse", 0): 1}


def test_4_a_store_of_a_newer_program_is_refused_with_what_to_do() -> None:
    """The manager ends with one line, and changes nothing."""
    with cluster() as made:
        made.parts["manager"].stop()
        with contextlib.closing(sqlite3.connect(made.folder / "cluster.db")) as database:
            database.execute("PRAGMA user_version=99")
        made.start_part("manager")
        manager = made.parts["manager"]
        wait_until(lambda: not manager.is_running, what="it gives up")
        assert "run the newer version that wrote it" in manager.output()
