"""The database away, locked or slow, on real processes (section 2 of the reliability work)."""

from __future__ import annotations

import contextlib
import http.client
import sqlite3
import time
from collections.abc import Iterator

from testbed.cluster import HOST, Cluster, cluster
from testbed.operating import clusterctl, copies_of, deploy, instance, wait_for_state
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

SHORT = {"LEASE_S": "3", "GRACE_S": "1", "WILL_GRACE_S": "3"}
FAST = {"TELEMETRY_INTERVAL_S": "0.5", "INVENTORY_INTERVAL_S": "1"}
AWAY_S = 20.0


@contextlib.contextmanager
def locked(made: Cluster) -> Iterator[None]:
    """Another program holds the database locked for the time of the block, and the manager has noticed."""
    with contextlib.closing(sqlite3.connect(made.folder / "cluster.db", isolation_level=None)) as thief:
        thief.execute("BEGIN EXCLUSIVE")
        wait_until(lambda: _refused_deploy(made, "noticed"), what="the manager has noticed")
        yield
        thief.execute("ROLLBACK")


def _refused_deploy(made: Cluster, name: str) -> bool:
    document = {"name": name, "image": "builtin:hello", "technology": "wasm"}
    return made.http.request("POST", f"/api/deploy/{name}/0", document).status in (503, 504)


def is_saved_only(made: Cluster, path: str) -> str:
    """What an answer says of the database: "" where it works."""
    connection = http.client.HTTPConnection(HOST, made.http.port, timeout=15.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.headers.get("x-saved-only", "")
    finally:
        connection.close()


def test_2_a_locked_database_stops_no_healthy_workload_and_judges_nobody() -> None:
    """Leases of `stop_after` jobs go on, and every node stays READY, for much longer than lease and `stop_after`."""
    with cluster(**SHORT) as made:
        for name in ("edge-0", "edge-1"):
            made.add_worker(name, WORKER_TECHNOLOGIES="wasm", **FAST)
        for name in ("edge-0", "edge-1"):
            made.wait_until_node_is(name, "READY")
        for number in range(4):
            deploy(made, "web", number, on_disconnect="stop_after", stop_after_s=5)
        for number in range(4):
            wait_for_state(made, "web", number=number)
        before = copies_of(made, "web")
        with locked(made):
            end = time.monotonic() + AWAY_S
            while time.monotonic() < end:
                assert _refused_deploy(made, "new")
                assert {node["state"] for node in made.http.get("/api/nodes")["nodes"]} == {"READY"}
                time.sleep(0.5)
        made.wait_until_ready()
        time.sleep(8.0)
        assert copies_of(made, "web") == before
        assert {node["state"] for node in made.http.get("/api/nodes")["nodes"]} == {"READY"}


def test_2_reads_show_what_is_saved_and_what_was_refused_never_was() -> None:
    """A deploy and a delete refused while the database is away are neither shown meanwhile nor saved later."""
    with cluster(**SHORT) as made, nodes(node := WorkerNode(made, "edge-0")):
        deploy(made, "kept")
        wait_for_state(made, "kept")
        assert is_saved_only(made, "/api/instances") == ""
        with locked(made):
            assert _refused_deploy(made, "refused")
            assert made.http.request("GET", "/api/delete/kept/-1").status in (503, 504)
            wait_until(lambda: is_saved_only(made, "/api/instances"), what="answers say that they are of before")
            assert [item["job_id"] for item in made.http.instances()] == ["kept"]
            assert instance(made, "kept")["state"] == "RUNNING"
            assert made.http.request("GET", "/api/jobs/refused").status == 404
            assert "this is what was saved last" in clusterctl(made, "get", "instances").output
        made.wait_until_ready()
        wait_until(lambda: not is_saved_only(made, "/api/instances"), what="answers are of now")
        assert [item["job_id"] for item in made.http.instances()] == ["kept"]
        made.kill("manager")
        made.start_part("manager")
        made.wait_until_ready()
        assert [item["job_id"] for item in made.http.instances()] == ["kept"]
        assert node.commands("delete") == []
        assert node.commands("deploy", "refused") == []


def test_2_what_nodes_say_while_the_database_is_away_is_known_afterwards() -> None:
    """States wait for the database, in order, and none is lost."""
    with cluster(**SHORT) as made, nodes(node := WorkerNode(made, "edge-0")):
        deploy(made, "web", one_shot=True)
        job = node.wait_for("deploy", "web")["job"]
        wait_for_state(made, "web")
        with locked(made):
            node.running.pop(("web", 0))
            node.say(job, "COMPLETED", "done", job_id="web", generation=job["generation"], sequence=2**50, exit_code=0)
            time.sleep(3.0)
            assert instance(made, "web")["state"] == "RUNNING"
        wait_for_state(made, "web", "COMPLETED")
