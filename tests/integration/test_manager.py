"""The real manager with a real broker, scheduler and store, and scripted nodes of both dialects."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

from cluster.jobs import Constraint
from cluster.v1 import instance_pb2, job_pb2, manager_pb2
from testbed.control_plane import ControlPlane, control_plane
from testbed.scripted_node import SeedNode, WorkerNode, nodes
from testbed.waiting import wait_until

pytestmark = pytest.mark.real("mosquitto")


@pytest.fixture(name="plane", scope="module")
def _plane() -> Iterator[ControlPlane]:
    with control_plane() as plane:
        yield plane


def test_a_worker_runs_what_is_deployed_and_stops_what_is_deleted(plane: ControlPlane) -> None:
    """Deploy, states, delete: end to end, each placed once, and its history says why."""
    with nodes(worker := WorkerNode(plane, "w1")):
        plane.deploy("life", 3)
        for number in range(3):
            plane.wait_for("life", "RUNNING", number)
        assert sorted(worker.running) == [("life", number) for number in range(3)]
        plane.deploy("life", 3)
        plane.delete("life")
        for number in range(3):
            instance = plane.wait_for("life", "STOPPED", number)
            assert all(event.cause and event.actor for event in instance.events)
        assert not worker.running
        assert set(worker.starts.values()) == {1}


def test_a_seed_node_that_reports_is_believed(plane: ControlPlane) -> None:
    """The documented command goes out with all its keys; CREATED counts as running, UNDEPLOYED closes."""
    with nodes(node := SeedNode(plane, "s1")):
        node.publish("job", {"sname": "ghost", "status": "DEAD", "instance": 0})
        wait_until(lambda: plane.counter("reports_of_unknown_instances") > 0)
        plane.deploy("seedjob")
        command = node.wait_for("deploy", "seedjob")
        assert command.keys() >= {"command", "job", "cluster"}
        assert command["job"].keys() >= {"id", "name", "image", "technology", "instance_number", "generation"}
        node.say(command["job"], "CREATED")
        plane.wait_for("seedjob", "RUNNING")
        plane.delete("seedjob")
        node.say(node.wait_for("delete", "seedjob")["job"], "UNDEPLOYED")
        plane.wait_for("seedjob", "STOPPED")


def test_a_node_that_never_reports_gets_each_command_once(plane: ControlPlane) -> None:
    """Its instances stay STARTING, and a deletion is over with the stop grace."""
    with nodes(node := SeedNode(plane, "silent")):
        plane.deploy("quiet", stop_grace_s=0.5)
        node.wait_for("deploy", "quiet")
        plane.wait_for("quiet", "STARTING")
        plane.delete("quiet")
        plane.wait_for("quiet", "STOPPED")
        assert [len(node.commands(verb, "quiet")) for verb in ("deploy", "delete")] == [1, 1]


def test_a_waiting_worker_is_adopted(plane: ControlPlane) -> None:
    """The manager asks a worker for its registration and gives it the answer of one."""
    answers: list[dict[str, Any]] = []

    class Waiting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"id": "", "name": "adopted", "ip": "127.0.0.1", "port": "1"})

        def do_POST(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer({})

        def _answer(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Waiting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_address[1]}"
        adopted = plane.call("AdoptNode", manager_pb2.AdoptNodeRequest(address=address)).node
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert adopted.registration.name == "adopted"
    assert answers[0]["id"] == adopted.id
    assert answers[0]["MQTT_BROKER_PORT"] == str(plane.ports["broker"])


def test_adopting_where_nobody_waits_says_so(plane: ControlPlane) -> None:
    """An address without a worker is UNAVAILABLE, an impossible one INVALID_ARGUMENT; nothing is registered."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    for wrong, code in ((address, grpc.StatusCode.UNAVAILABLE), ("", grpc.StatusCode.INVALID_ARGUMENT)):
        with pytest.raises(grpc.RpcError) as caught:
            plane.call("AdoptNode", manager_pb2.AdoptNodeRequest(address=wrong))
        assert caught.value.code() is code


def test_registering_again_keeps_the_node(plane: ControlPlane) -> None:
    """The same name is the same node; the id of another live node is refused."""
    document = {"id": "", "name": "again", "ip": "127.0.0.1", "port": 1}
    first = plane.register(document).node_id
    assert plane.register({**document, "port": 2}).node_id == first
    with pytest.raises(grpc.RpcError) as caught:
        plane.register({**document, "name": "thief", "id": first})
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


def test_bad_messages_are_counted_and_cost_nothing_else(plane: ControlPlane) -> None:
    """Malformed, oversized, non-UTF-8, foreign and endless: counted, and the node goes on working."""
    with nodes(worker := WorkerNode(plane, "w2")):
        bad = [b"{", b"\xff\xfe", b"[]", b"{}", b"x" * (1024 * 1024 + 1), b'{"sname": 1, "instance": -1}']
        bad.append(b'{"cpu": 1, "memory": 1, "memory_free_in_MB": 1e308}')
        for payload in bad:
            before = plane.counter("mqtt_malformed")
            for channel in ("job", "jobs/resources", "information"):
                worker.publish(channel, payload)
            wait_until(lambda before=before: plane.counter("mqtt_malformed") >= before + 2)
        worker.publish("net/tunnel", b"not ours")
        plane.deploy("unhurt")
        plane.wait_for("unhurt", "RUNNING")
        plane.delete("unhurt")
        plane.wait_for("unhurt", "STOPPED")


def test_lists_are_paged_and_filtered(plane: ControlPlane) -> None:
    """Pages follow each other without gap or double; a token that was not given out is refused."""
    plane.deploy("paged", 25, technology="wasm")
    found, token = [], ""
    while True:
        request = manager_pb2.ListInstancesRequest(page_size=10, page_token=token, job_id="paged")
        page = plane.call("ListInstances", request)
        found += [item.key.number for item in page.instances]
        token = page.next_page_token
        if not token:
            break
    assert found == list(range(25))
    running = manager_pb2.ListInstancesRequest(job_id="paged", states=[instance_pb2.INSTANCE_STATE_RUNNING])
    assert not plane.call("ListInstances", running).instances
    for request in ({"page_size": -1}, {"page_token": "x"}):
        with pytest.raises(grpc.RpcError) as caught:
            plane.call("ListInstances", manager_pb2.ListInstancesRequest(**request))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    plane.delete("paged")


def test_what_finds_no_node_is_pending_with_reasons_until_one_comes(plane: ControlPlane) -> None:
    """No capacity is a state; a node that can take it is used as soon as it is there."""
    plane.deploy("wasmjob", technology="wasm", constraints=(Constraint(type="direct", nodes=("w3",)),))
    pending = plane.wait_for("wasmjob", "PENDING")
    assert pending.refusals or not plane.status().node_counts
    with nodes(WorkerNode(plane, "w3")):
        plane.wait_for("wasmjob", "RUNNING")
        plane.delete("wasmjob")
        plane.wait_for("wasmjob", "STOPPED")


def test_events_tell_the_story_newest_first_and_as_it_happens(plane: ControlPlane) -> None:
    """The history of a job is listed, paged and followed."""
    stream = plane.stub.WatchEvents(manager_pb2.WatchEventsRequest(job_id="story"), timeout=30)
    plane.deploy("story", technology="wasm", constraints=(Constraint(type="direct", nodes=("nobody",)),))
    first = next(stream).events[0]
    stream.cancel()
    assert (first.kind, first.subject) == ("requested", "instance:story/0")
    plane.delete("story")
    plane.wait_for("story", "STOPPED")
    listed = plane.call("ListEvents", manager_pb2.ListEventsRequest(job_id="story", page_size=1))
    assert listed.events[0].kind == "stopped"
    rest = manager_pb2.ListEventsRequest(job_id="story", page_token=listed.next_page_token)
    kinds = [event.kind for event in plane.call("ListEvents", rest).events]
    assert kinds.index("deleted") < kinds.index("requested") == len(kinds) - 1


def test_watching_nodes_gives_a_snapshot_then_deltas(plane: ControlPlane) -> None:
    """All nodes first, marked as the snapshot; then what changes, and what is removed."""
    plane.register({"id": "", "name": "watched", "ip": "127.0.0.1", "port": 1})
    stream = plane.stub.WatchNodes(manager_pb2.WatchNodesRequest(), timeout=60)
    names: set[str] = set()
    for response in stream:
        names |= {node.registration.name for node in response.nodes}
        if response.is_snapshot_end:
            break
    assert "watched" in names
    node_id = plane.node("watched")["id"]
    plane.call("CordonNode", manager_pb2.CordonNodeRequest(node="watched", is_cordoned=True))
    assert any(node.id == node_id and node.is_cordoned for node in _until(stream, node_id).nodes)
    plane.call("RemoveNode", manager_pb2.RemoveNodeRequest(node="watched", is_forced=True))
    assert node_id in _until(stream, node_id).removed_node_ids
    stream.cancel()


def _until(stream: Any, node_id: str) -> Any:
    """The next message of a stream that is about a node."""
    return next(r for r in stream if node_id in (*r.removed_node_ids, *(node.id for node in r.nodes)))


def test_a_wrong_call_changes_nothing(plane: ControlPlane) -> None:
    """One bad deployment of a batch refuses all of it, and the field is named."""
    request = manager_pb2.DeployInstancesRequest(specs=[job_pb2.JobSpec(name="j", image="i", technology="docker")])
    request.deployments.add(key=instance_pb2.InstanceKey(job_id="batch", number=0))
    request.deployments.add(key=instance_pb2.InstanceKey(job_id="batch", number=1), spec_index=9)
    with pytest.raises(grpc.RpcError) as caught:
        plane.call("DeployInstances", request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not plane.call("ListInstances", manager_pb2.ListInstancesRequest(job_id="batch")).instances
