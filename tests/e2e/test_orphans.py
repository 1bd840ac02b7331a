"""Orphans on a real worker: taken in without a restart, or ended, after the cluster lost its store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster, cluster
from testbed.operating import clusterctl, copies_of, deploy, instance, wait_for_state
from testbed.waiting import wait_until

EDGE = "edge"
MINE = {"environment": ["MINE=1"], "stop_grace_s": 1}


@pytest.fixture
def lost() -> Iterator[Cluster]:
    """A cluster that has lost its store while its worker runs three copies of `web`."""
    with cluster() as made:
        made.add_worker(EDGE)
        made.wait_until_node_is(EDGE, "READY")
        for number in range(3):
            deploy(made, "web", number, **MINE)
        for number in range(3):
            wait_for_state(made, "web", number=number)
        lose_the_store(made)
        yield made


def lose_the_store(made: Cluster) -> None:
    """The manager starts on nothing; its worker registers again with all that it runs."""
    made.kill("manager")
    for file in made.folder.glob("cluster.db*"):
        file.unlink()
    made.start_part("manager")
    made.wait_until_ready()
    made.kill(EDGE)
    made.start_part(EDGE)
    made.wait_until_node_is(EDGE, "READY")
    wait_until(lambda: len(orphans(made)) == 3, what="three orphans")


def orphans(made: Cluster) -> list[int]:
    """The numbers of the orphans on the node."""
    return [item["instance_number"] for item in made.http.get(f"/api/nodes/{EDGE}")["orphans"]]


def history(made: Cluster, number: int) -> list[str]:
    """What happened to an instance, as the cluster's history tells it."""
    events = made.http.get(f"/api/events?job_id=web&instance_number={number}")["events"]
    return [event["kind"] for event in events]


def test_orphans_are_adopted_without_a_restart(lost: Cluster) -> None:
    """Same processes, same generations; they are instances like any other from then on, and the worker said what."""
    before = copies_of(lost, "web")
    said = clusterctl(lost, "orphans", "adopt", EDGE, "web", "1")
    assert (said.status, said.output) == (0, "adopted: web/1 on edge, as web/1\n")
    found = instance(lost, "web", 1)
    assert (found["state"], found["placements"][0]["generation"]) == ("RUNNING", before[1].generation)
    assert found["spec"]["environment"] == ["MINE=1"]
    assert "adopted" in history(lost, 1)
    wait_until(lambda: orphans(lost) == [0, 2], what="two are left")
    assert clusterctl(lost, "orphans", "adopt", EDGE, "web").status == 0
    assert clusterctl(lost, "orphans", "adopt", EDGE, "web").status == 0
    assert [item["state"] for item in lost.http.instances("&job_id=web")] == ["RUNNING"] * 3
    lost.kill("manager")
    lost.start_part("manager")
    lost.wait_until_ready()
    wait_until(lambda: orphans(lost) == [] and lost.node(EDGE)["state"] == "READY", what="no orphan is left")
    assert copies_of(lost, "web") == before
    deploy(lost, "web", 0, **MINE)
    assert clusterctl(lost, "scale", "web", "1").status == 0
    wait_until(lambda: len(copies_of(lost, "web")) == 1, what="the surplus is stopped")


def test_orphans_are_deleted_until_they_are_gone(lost: Cluster) -> None:
    """Over HTTP and on the command line, also while the worker is away and over kill -9 of the manager."""
    path = f"/api/nodes/{EDGE}/orphans/web"
    for _ in range(2):
        answer = lost.http.request("DELETE", f"{path}/0")
        assert (answer.status, answer.json["instances"][0]["id"]) == (200, "web/0")
    wait_until(lambda: [copy.number for copy in copies_of(lost, "web")] == [1, 2], what="the first is gone")
    assert "orphan_deleted" in history(lost, 0)
    lost.kill(EDGE)
    said = clusterctl(lost, "orphans", "delete", EDGE, "web")
    assert said.status == 0, said
    lost.kill("manager")
    lost.start_part("manager")
    lost.start_part(EDGE)
    wait_until(lambda: not copies_of(lost, "web"), what="all are gone")
    wait_until(lambda: lost.http.request("GET", "/status").status == 200, what="the cluster is ready")
    for number in range(3):
        wait_for_state(lost, "web", "STOPPED", number)
    assert orphans(lost) == []
    assert clusterctl(lost, "orphans", "delete", EDGE, "web").status == 0


def test_errors_are_clear(lost: Cluster, tmp_path: Path) -> None:
    """Nothing of that name, a node that is not there, a document that cannot be it: refused, and nothing is changed."""
    for command in ("adopt", "delete"):
        said = clusterctl(lost, "orphans", command, EDGE, "nothing")
        assert (said.status, f"node {EDGE} runs no orphan nothing" in said.output) == (3, True)
        assert clusterctl(lost, "orphans", command, "nowhere", "web").status == 3
    document = tmp_path / "job.json"
    for facts, words in (
        ({"name": "other", "technology": "wasm"}, "what runs is called 'web'"),
        ({"name": "web", "technology": "docker"}, "runs as wasm, the job says docker"),
        ({"name": "web", "technology": "wasm", "_id": "other"}, "belongs to job web, not to other"),
    ):
        document.write_text(json.dumps({"image": "builtin:hello", **facts}))
        said = clusterctl(lost, "orphans", "adopt", EDGE, "web", "0", "--file", str(document))
        assert (said.status, words in said.output) == (2, True), said
    deploy(lost, "web", 7, technology="docker", image="demo/web:1")
    assert sorted(orphans(lost)) == [0, 1, 2]
    lost.kill(EDGE)
    lost.wait_until_node_is(EDGE, "DOWN")
    said = clusterctl(lost, "orphans", "adopt", EDGE, "web")
    assert (said.status, "is DOWN: what runs there is not known now" in said.output) == (1, True)
    assert len(copies_of(lost, "web")) == 3


def test_a_document_says_what_an_orphan_is_over_http(lost: Cluster) -> None:
    """Its body goes before what the worker says; without a restart."""
    before = copies_of(lost, "web")
    body = {"name": "web", "image": "builtin:hello", "technology": "wasm", "environment": ["MINE=2"]}
    answer = lost.http.request("POST", f"/api/nodes/{EDGE}/orphans/web/2", body)
    assert (answer.status, answer.json["instances"][0]["state"]) == (200, "RUNNING")
    assert instance(lost, "web", 2)["spec"]["environment"] == ["MINE=2"]
    assert copies_of(lost, "web") == before
