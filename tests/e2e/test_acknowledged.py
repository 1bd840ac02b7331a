"""Acknowledged means for ever: deletes, repetitions, scales and names on real parts, over kills and retention."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import modules
from testbed.cluster import HOST, Answer, Cluster, cluster
from testbed.operating import (
    clusterctl,
    copies_of,
    delete,
    deploy,
    instance,
    replicate,
    running_count,
    wait_for_state,
)
from testbed.scripted_node import SeedNode, nodes
from testbed.waiting import wait_until

EDGE = "edge"
ONCE = {"image": "builtin:hello-once", "technology": "wasm", "one_shot": True}


@pytest.fixture
def made() -> Iterator[Cluster]:
    """A cluster that judges and forgets fast, with one real worker."""
    with cluster(LEASE_S="3", GRACE_S="1", RETENTION_S="1") as found:
        found.add_worker(EDGE)
        found.wait_until_node_is(EDGE, "READY")
        yield found


def is_known(made: Cluster, job_id: str, number: int = 0) -> bool:
    """Whether the cluster remembers an instance."""
    return made.http.request("GET", f"/api/instances/{job_id}/{number}").status == 200


def restart_manager(made: Cluster) -> None:
    """kill -9 and a new start on its data."""
    made.kill("manager")
    made.start_part("manager")
    wait_until(lambda: made.http.request("GET", "/status").status == 200, 60.0, what="the manager is back")


def explained(made: Cluster, job_id: str) -> str:
    """Why an instance is where it is."""
    return str(made.http.get(f"/api/instances/{job_id}/0/explain")["summary"])


def metric(made: Cluster, line: str) -> bool:
    """Whether the manager's metrics hold a line."""
    with urllib.request.urlopen(f"http://{HOST}:{made.ports['metrics']}/metrics") as answer:
        return line in answer.read().decode().splitlines()


# 1. Tombstones


def test_a_delete_acknowledged_while_the_node_is_away_outlives_the_retention(made: Cluster) -> None:
    """kill -9 of the worker, delete, retention over, kill -9 of the manager: the copy that lived on is deleted at last.

    Until then the instance is STOPPED to everybody, and `explain` names the node that owes a confirmation.
    """
    deploy(made, "web", stop_grace_s=1)
    wait_for_state(made, "web")
    [copy] = copies_of(made, "web")
    made.kill(EDGE)
    made.wait_until_node_is(EDGE, "DOWN")
    delete(made, "web")
    wait_for_state(made, "web", "STOPPED")
    time.sleep(4.0)  # several times the retention
    assert f"Still to confirm that no copy of it is left: node {EDGE} (DOWN)" in explained(made, "web")
    restart_manager(made)
    assert instance(made, "web")["state"] == "STOPPED"
    assert copies_of(made, "web") == [copy]
    made.start_part(EDGE)
    wait_until(lambda: not copies_of(made, "web"), what="the copy is gone")
    wait_until(lambda: not is_known(made, "web"), what="it is forgotten after that")
    assert made.http.get(f"/api/nodes/{EDGE}")["orphans"] == []


def test_a_copy_replaced_elsewhere_and_then_deleted_is_stopped_on_its_first_node_too(made: Cluster) -> None:
    """The second node confirms at once, the first one when it is back, long after the retention."""
    deploy(made, "web", stop_grace_s=1)
    wait_for_state(made, "web")
    made.add_worker("other")
    made.wait_until_node_is("other", "READY")
    made.kill(EDGE)
    wait_until(lambda: len(copies_of(made, "web")) == 2, what="it is replaced")
    wait_for_state(made, "web")
    delete(made, "web")
    wait_until(lambda: [copy.worker for copy in copies_of(made, "web")] == [EDGE], what="the new copy is gone")
    time.sleep(4.0)  # several times the retention
    assert is_known(made, "web")
    made.start_part(EDGE)
    wait_until(lambda: not copies_of(made, "web"), what="the old copy is gone")
    wait_until(lambda: not is_known(made, "web"), what="it is forgotten after that")


@pytest.mark.parametrize("has_reported", [False, True])
def test_a_node_of_the_seeds_dialect_is_told_when_it_is_back(made: Cluster, *, has_reported: bool) -> None:
    """It sends no lists: READY again, long after the retention, it is told to delete, and then it is forgotten."""
    node = SeedNode(made, "seed")
    with nodes(node):
        document = {"technology": "docker", "image": "demo/web:1", "stop_grace_s": 1, "on_disconnect": "keep"}
        deploy(made, "web", **document)
        order = node.wait_for("deploy", "web")
        if has_reported:
            node.say(order["job"], "RUNNING")
            wait_for_state(made, "web")
        node.fall_silent()
        made.wait_until_node_is("seed", "DOWN")
        delete(made, "web")
        wait_for_state(made, "web", "STOPPED")
        time.sleep(4.0)  # several times the retention
        assert "Still to confirm that no copy of it is left: node seed (DOWN)" in explained(made, "web")
        with node.lock:
            node.heard.clear()
        node.speak_again()
        order = node.wait_for("delete", "web")
        if has_reported:
            node.say(order["job"], "UNDEPLOYED")
        wait_until(lambda: not is_known(made, "web"), what="it is forgotten after that")


# 2. Repetitions


def rerun(made: Cluster, job_id: str, request_id: str, **document: Any) -> Answer:
    """Ask for another run over HTTP."""
    body = {"name": job_id, **ONCE, **document}
    return made.http.request("POST", f"/api/deploy/{job_id}/0?rerun=true", body, request_id=request_id)


def placed_count(made: Cluster, job_id: str) -> int:
    """How often an instance was given a node."""
    return [event["kind"] for event in instance(made, job_id)["events"]].count("placed")


def test_a_one_shot_runs_again_only_by_a_new_request_with_the_wish(made: Cluster) -> None:
    """A repeated deploy starts nothing; `?rerun=true` does, once for each request id, also over a restart."""
    deploy(made, "once", **ONCE)
    wait_for_state(made, "once", "COMPLETED")
    deploy(made, "once", **ONCE)
    assert (instance(made, "once")["state"], placed_count(made, "once")) == ("COMPLETED", 1)
    refused = rerun(made, "once", "")
    assert (refused.status, refused.json["field"]) == (400, "X-Request-Id")
    assert rerun(made, "once", "second-run").status == 200
    wait_until(lambda: placed_count(made, "once") == 2, what="it runs again")
    wait_for_state(made, "once", "COMPLETED")
    restart_manager(made)
    assert rerun(made, "once", "second-run").status == 200
    assert (instance(made, "once")["state"], placed_count(made, "once")) == ("COMPLETED", 2)
    assert "deploy it with --rerun" in explained(made, "once")
    said = clusterctl(made, "deploy", "--rerun", "--name", "once", "--wait")
    assert (said.status, placed_count(made, "once")) == (0, 3), said
    for _ in range(2):
        assert clusterctl(made, "deploy", "--rerun", "--id", "once", "--request-id", "fourth", "--wait").status == 0
    assert placed_count(made, "once") == 4


def test_a_one_shot_starts_at_once_after_a_delete(made: Cluster) -> None:
    """Numbers are used again, as roots do: no wish beyond the deploy is needed."""
    for count in (1, 2):
        deploy(made, "once", **ONCE)
        wait_for_state(made, "once", "COMPLETED")
        assert instance(made, "once")["exit_code"] == 0
        delete(made, "once")
        wait_until(lambda: not is_known(made, "once") or instance(made, "once")["state"] == "STOPPED", what="gone")
        assert count


# 4. Scaled to none


def test_a_job_scaled_to_none_is_kept_until_it_is_deleted(made: Cluster) -> None:
    """Over the retention and kill -9 of the manager it is listed with 0 instances, and it is scaled up again."""
    deploy(made, "web", stop_grace_s=1)
    wait_for_state(made, "web")
    assert clusterctl(made, "scale", "web", "0").status == 0
    wait_until(lambda: not is_known(made, "web"), what="the instance is forgotten")
    restart_manager(made)
    [job] = made.http.get("/api/jobs")["jobs"]
    assert (job["id"], job["instance_count"], job["is_deleted"]) == ("web", 0, False)
    assert clusterctl(made, "scale", "web", "2").status == 0
    wait_until(lambda: running_count(made, "web") == 2, what="both run")
    assert replicate(made, "web", 0).status == 200
    assert clusterctl(made, "delete", "web").status == 0
    wait_until(lambda: made.http.get("/api/jobs")["jobs"] == [], what="the job is gone")


# 5. Names


def test_a_name_is_the_living_jobs_at_once() -> None:
    """Deleted and deployed again with clusterctl: every command by name means the new job."""
    with cluster() as found:
        found.add_worker(EDGE)
        found.wait_until_node_is(EDGE, "READY")
        run = ["deploy", "--name", "hello", "--technology", "wasm", "--image", "builtin:hello", "--wait"]
        assert clusterctl(found, *run).status == 0
        assert clusterctl(found, "delete", "hello").status == 0
        assert clusterctl(found, *run).status == 0
        jobs = found.http.get("/api/jobs?name=hello")["jobs"]
        assert sorted(job["is_deleted"] for job in jobs) == [False, True]
        [living] = [job["id"] for job in jobs if not job["is_deleted"]]
        assert found.http.get("/api/jobs/hello")["id"] == living
        wait_until(lambda: "hello from wasm" in clusterctl(found, "logs", "hello").output, what="its output is there")
        shown = json.loads(clusterctl(found, "describe", "instance", "hello", "-o", "json").output)
        assert shown["job_id"] == living
        assert f"hello ({living}/0) is RUNNING" in clusterctl(found, "explain", "hello/0").output
        for command in (["scale", "hello", "2", "--wait"], ["update", "hello", "--image", "builtin:hello-once"]):
            said = clusterctl(found, *command)
            assert said.status == 0, said
        assert clusterctl(found, "update", "hello", "--rollback").status == 0
        assert clusterctl(found, "delete", "hello", "--wait").status == 0
        assert clusterctl(found, "delete", "hello").status == 0
        for _ in range(2):
            assert clusterctl(found, *run).status == 0
        said = clusterctl(found, "explain", "hello/0")
        assert said.status == 2
        assert "2 jobs are called 'hello': use an id of" in said.output


# 6. Crash loops


def test_a_crash_loop_is_shown(made: Cluster, tmp_path: Path) -> None:
    """RESTARTING in HTTP, on the command line, in metrics and for its job, with what it ended of and a count."""
    image = modules.write(tmp_path, modules.EXIT_3)
    deploy(made, "loop", image=image, restart_policy="always")
    found = wait_until(
        lambda: (
            found
            if (found := instance(made, "loop"))["state"] == "RESTARTING" and "next try in" in found["detail"]
            else {}
        ),
        what="it is started again",
    )
    assert found["detail"].startswith("exited with status 3; next try in ")
    found = wait_until(
        lambda: found if (found := instance(made, "loop"))["restarts"] >= 3 else {}, what="three restarts"
    )
    wait_for_state(made, "loop", "RESTARTING")
    assert len({event["node_id"] for event in found["events"] if event["kind"] == "placed"}) == 1
    wait_until(
        lambda: _row(clusterctl(made, "get", "instances").output)[:2] == ["loop/0", "RESTARTING"], what="listed so"
    )
    wait_until(lambda: made.http.get("/api/jobs/loop")["state"] == "RESTARTING", what="its job too")
    wait_until(lambda: metric(made, 'cluster_instances{state="RESTARTING"} 1.0'), what="in the metrics")
    assert clusterctl(made, "get", "instances", "--state", "restarting").status == 0
    wait_until(lambda: "is RESTARTING: exited with status 3" in explained(made, "loop"), what="explained")


def _row(listed: str) -> list[str]:
    """The first instance's name, state and restarts in a table."""
    header, *rows = listed.splitlines()
    assert "RESTARTS" in header
    name, _, state, restarts, *_ = rows[0].split()
    return [name, state, restarts]
