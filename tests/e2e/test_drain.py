"""Emptying and forgetting machines through clusterctl: drain, cordon, uncordon, remove."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed.cluster import Cluster, cluster
from testbed.operating import (
    Said,
    causes,
    clusterctl,
    copies_of,
    delete,
    deploy,
    instance,
    running_count,
    wait_for_state,
    wait_until_settled,
)
from testbed.waiting import wait_until

HERE, THERE = "edge-a", "edge-b"


@pytest.fixture
def pair() -> Iterator[Cluster]:
    """Two real workers."""
    with cluster(GRACE_S="1") as made:
        for name in (HERE, THERE):
            made.add_worker(name)
        for name in (HERE, THERE):
            made.wait_until_node_is(name, "READY")
        yield made


def node(made: Cluster, *words: str) -> Said:
    """`clusterctl node …`."""
    return clusterctl(made, "node", *words)


def workers_of(made: Cluster, job_id: str) -> set[str]:
    """Where copies of a job run."""
    return {copy.worker for copy in copies_of(made, job_id)}


def start_here(made: Cluster, job_id: str, count: int, **document: object) -> None:
    """`count` instances on the first node, which may run on both."""
    assert node(made, "cordon", THERE).status == 0
    for number in range(count):
        deploy(made, job_id, number, stop_grace_s=1, **document)
    for number in range(count):
        wait_for_state(made, job_id, number=number)
    assert workers_of(made, job_id) == {HERE}
    assert node(made, "uncordon", THERE).status == 0


def test_drain_moves_everything_and_tells_how_far_it_is(pair: Cluster) -> None:
    """A drain moves within its budget, make before break, prints its progress and ends with an empty, cordoned node."""
    start_here(pair, "web", 3)
    said = node(pair, "drain", HERE, "--max-parallel", "1")
    assert said.status == 0, said
    assert "3/3 moved" in said.output
    assert said.output.splitlines()[0].startswith(("0/3", "1/3"))
    for number in range(3):
        wait_until_settled(pair, "web", number)
        kinds = [event["kind"] for event in instance(pair, "web", number)["events"]]
        assert kinds.index("move_started") < kinds.index("moved")
    wait_until(lambda: workers_of(pair, "web") == {THERE}, what="all run on the other node")
    deploy(pair, "new")
    assert wait_for_state(pair, "new")["node_id"] == pair.node(THERE)["id"]
    assert node(pair, "uncordon", HERE).status == 0


def test_the_budget_bounds_how_many_move_at_once(pair: Cluster) -> None:
    """With --max-parallel 1 no two instances are ever moved at the same time."""
    start_here(pair, "web", 3)
    assert node(pair, "drain", HERE, "--max-parallel", "1").status == 0
    times = []
    for number in range(3):
        events = {event["kind"]: event["at"] for event in instance(pair, "web", number)["events"]}
        times.append((events["move_started"], events["closed"]))
    times.sort()
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(times)), times


def test_a_drain_that_cannot_end_says_why(pair: Cluster) -> None:
    """What may run nowhere else stays, untouched; the drain ends at its deadline with a reason and status 1."""
    deploy(pair, "bound", constraints=[{"type": "direct", "node": HERE}])
    wait_for_state(pair, "bound")
    before = copies_of(pair, "bound")
    said = node(pair, "drain", HERE, "--deadline", "3")
    assert said.status == 1
    assert "0/1 moved" in said.output
    assert "no node can take" in said.output
    assert "the deadline passed" in said.output
    assert "the node stays cordoned" in said.output
    assert copies_of(pair, "bound") == before


def test_uncordoning_takes_a_drain_back(pair: Cluster) -> None:
    """What has not moved stays where it is, and the drain says why it ended."""
    deploy(pair, "bound", constraints=[{"type": "direct", "node": HERE}])
    wait_for_state(pair, "bound")
    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(node, pair, "drain", HERE)
        wait_until(lambda: pair.node(HERE)["is_cordoned"], what="the drain has begun")
        assert node(pair, "uncordon", HERE).status == 0
        said = drain.result()
    assert said.status == 1
    assert "the node was uncordoned, the drain ends; 1 stay" in said.output
    deploy(pair, "new", constraints=[{"type": "direct", "node": HERE}])
    wait_for_state(pair, "new")


def test_cordon_keeps_what_runs_and_refuses_what_is_new(pair: Cluster) -> None:
    """On a cordoned node nothing new is placed and nothing is stopped; uncordoned, what waited starts at once."""
    start_here(pair, "web", 1)
    for name in (HERE, THERE):
        assert node(pair, "cordon", name).status == 0
    deploy(pair, "late")
    pending = wait_for_state(pair, "late", "PENDING")
    assert "cordoned" in str(pending["refusals"]).lower()
    assert instance(pair, "web")["state"] == "RUNNING"
    assert node(pair, "uncordon", THERE).status == 0
    assert wait_for_state(pair, "late")["node_id"] == pair.node(THERE)["id"]


def test_a_live_node_is_not_removed_by_mistake(pair: Cluster) -> None:
    """`node remove` of a node that is READY is refused and changes nothing."""
    start_here(pair, "web", 1)
    said = node(pair, "remove", HERE)
    assert said.status == 1
    assert "force" in said.output
    assert instance(pair, "web")["state"] == "RUNNING"


def test_a_machine_that_never_comes_back(pair: Cluster) -> None:
    """`node remove --force` closes the placements of a dead node, also of `keep` jobs and deletions; the rest moves."""
    start_here(pair, "kept", 1, on_disconnect="keep")
    start_here(pair, "going", 1, on_disconnect="keep")
    pair.kill(HERE)
    pair.wait_until_node_is(HERE, "DOWN")
    assert wait_for_state(pair, "kept", "UNKNOWN")["node_id"] == pair.node(HERE)["id"]
    delete(pair, "going")
    wait_for_state(pair, "going", "STOPPED")
    assert node(pair, "remove", HERE).status == 1
    assert node(pair, "remove", HERE, "--force").status == 0
    assert pair.node(HERE) == {}
    found = wait_until_settled(pair, "kept")
    assert found["node_id"] == pair.node(THERE)["id"]
    assert any("its node was removed" in cause for cause in causes(pair, "kept"))
    assert running_count(pair, "kept") == 1


def test_a_removed_machine_that_comes_back_is_told_to_stop(pair: Cluster) -> None:
    """A forcibly removed machine registers again; its stale copy is stopped and one copy is left."""
    start_here(pair, "web", 1)
    pair.kill(HERE)
    pair.wait_until_node_is(HERE, "DOWN")
    assert node(pair, "remove", HERE, "--force").status == 0
    wait_until_settled(pair, "web")
    assert workers_of(pair, "web") == {HERE, THERE}
    pair.start_part(HERE)
    pair.wait_until_node_is(HERE, "READY")
    wait_until(lambda: workers_of(pair, "web") == {THERE}, 60.0, what="the stale copy is stopped")
