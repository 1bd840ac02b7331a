"""Outages on real processes: whoever comes back finds its workloads as they were (section 1 of the reliability work).

Copies are told apart by generation and process id: one that was stopped and started again is another one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.cable import Cable, cable
from testbed.cluster import Cluster, cluster
from testbed.operating import Copy, clusterctl, copies_of, deploy, instance, wait_for_state
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

FAST = {"TELEMETRY_INTERVAL_S": "0.5", "INVENTORY_INTERVAL_S": "1"}
SHORT = {"LEASE_S": "3", "GRACE_S": "1", "WILL_GRACE_S": "3"}


def all_copies(made: Cluster, jobs: list[str]) -> set[Copy]:
    """Every wasm process of these jobs."""
    return {copy for job_id in jobs for copy in copies_of(made, job_id)}


def settled(made: Cluster, jobs: list[str]) -> None:
    """Wait until every job's instance is RUNNING and nothing else is under way."""
    for job_id in jobs:
        wait_for_state(made, job_id, timeout=120.0)
        wait_until(lambda job_id=job_id: len(instance(made, job_id)["placements"]) == 1, what=f"{job_id} is settled")


@contextlib.contextmanager
def busy(count: int, job_count: int, **settings: str) -> Iterator[tuple[Cluster, list[str], set[Copy]]]:
    """A cluster of real workers that run jobs, and what runs."""
    with cluster(**settings) as made:
        names = [f"edge-{number}" for number in range(count)]
        for name in names:
            made.add_worker(name, WORKER_TECHNOLOGIES="wasm", **FAST)
        for name in names:
            made.wait_until_node_is(name, "READY")
        jobs = [f"job{number}" for number in range(job_count)]
        for job_id in jobs:
            deploy(made, job_id)
        settled(made, jobs)
        yield made, jobs, all_copies(made, jobs)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_1_an_outage_of_the_broker_touches_nothing(count: int) -> None:
    """The broker is away for much longer than lease and grace: every copy is the one of before."""
    with busy(count, 2 * count, **SHORT) as (made, jobs, before):
        made.kill("broker")
        time.sleep(15.0)
        made.start_part("broker")
        made.wait_until_ready()
        for number in range(count):
            made.wait_until_node_is(f"edge-{number}", "READY")
        settled(made, jobs)
        time.sleep(8.0)  # longer than lease and grace: what was to be judged wrongly has been by now
        settled(made, jobs)
        assert all_copies(made, jobs) == before


@pytest.mark.timeout(600)
def test_1_an_outage_of_everything_touches_nothing() -> None:
    """Broker, manager, scheduler and gateway are killed and come back in an awkward order."""
    with busy(3, 6, **SHORT) as (made, jobs, before):
        for part in ("manager", "broker", "scheduler", "gateway"):
            made.kill(part)
        time.sleep(10.0)
        for part in ("manager", "gateway", "scheduler"):
            made.start_part(part)
        time.sleep(5.0)
        made.start_part("broker")
        made.wait_until_ready()
        settled(made, jobs)
        time.sleep(8.0)
        settled(made, jobs)
        assert all_copies(made, jobs) == before


@pytest.mark.timeout(600)
@pytest.mark.parametrize("away_s", [0.5, 3.5, 8.0])
def test_1_a_killed_worker_process_that_is_back_within_the_wills_grace_costs_nothing(away_s: float) -> None:
    """Its workloads live on; the will of its old session says nothing about them."""
    with busy(2, 4) as (made, jobs, before):
        made.kill("edge-0")
        time.sleep(away_s)
        made.start_part("edge-0")
        made.wait_until_node_is("edge-0", "READY")
        time.sleep(12.0)
        settled(made, jobs)
        assert all_copies(made, jobs) == before


@contextlib.contextmanager
def cut_off(made: Cluster, name: str, **settings: str) -> Iterator[Cable]:
    """A real worker behind a cable of its own."""
    with cable(made.ports["broker"]) as wire:
        made.add_worker(name, MQTT_BROKER_PORT=str(wire.port), **FAST, **settings)
        made.wait_until_node_is(name, "READY")
        yield wire


@pytest.mark.timeout(600)
@pytest.mark.parametrize("away_s", [12.0, 20.0])
def test_1_a_machine_that_was_cut_off_and_that_alone_can_run_a_job_keeps_its_copies(away_s: float) -> None:
    """It is DOWN, its jobs find no other node: what still runs there in the right generation is adopted."""
    with (
        cluster(**SHORT) as made,
        cut_off(made, "edge-0", WORKER_TECHNOLOGIES="wasm") as wire,
        nodes(*(WorkerNode(made, f"other-{number}", technology=["docker"]) for number in range(2))),
    ):
        jobs = [f"job{number}" for number in range(3)]
        for job_id in jobs:
            deploy(made, job_id)
        settled(made, jobs)
        before = all_copies(made, jobs)
        wire.pull()
        made.wait_until_node_is("edge-0", "DOWN")
        wait_until(lambda: instance(made, jobs[0])["state"] == "PENDING", what="nobody else can run it")
        time.sleep(away_s - 8.0)
        wire.plug()
        made.wait_until_node_is("edge-0", "READY")
        settled(made, jobs)
        time.sleep(3.0)
        settled(made, jobs)
        assert all_copies(made, jobs) == before


@pytest.mark.timeout(600)
def test_1_several_machines_cut_off_together_keep_their_copies() -> None:
    """Two of three are silent for longer than lease and grace; the third one gets nothing of theirs."""
    with cluster(**SHORT) as made, cut_off(made, "edge-0") as first, cut_off(made, "edge-1") as second:
        made.add_worker("edge-2", **FAST)
        made.wait_until_node_is("edge-2", "READY")
        jobs = [f"job{number}" for number in range(6)]
        for job_id in jobs:
            deploy(made, job_id, technology="wasm")
        settled(made, jobs)
        before = all_copies(made, jobs)
        lost = {copy.job_id for copy in before if copy.worker != "edge-2"}
        first.pull()
        second.pull()
        wait_until(lambda: {instance(made, job_id)["state"] for job_id in lost} == {"UNKNOWN"}, what="they are UNKNOWN")
        time.sleep(10.0)
        assert {instance(made, job_id)["state"] for job_id in lost} == {"UNKNOWN"}
        first.plug()
        time.sleep(3.0)
        second.plug()
        settled(made, jobs)
        time.sleep(6.0)
        settled(made, jobs)
        assert all_copies(made, jobs) == before


def _events(made: Cluster, kind: str) -> list[dict[str, Any]]:
    return [event for event in made.http.get("/api/events?page_size=1000")["events"] if event["kind"] == kind]


def _fleet(made: Cluster, count: int, instances: int) -> tuple[list[WorkerNode], list[str]]:
    return [WorkerNode(made, f"edge-{number}") for number in range(count)], [f"job{n}" for n in range(instances)]


def test_1_a_mass_loss_is_told_and_resolved_after_its_bound() -> None:
    """Five of ten nodes are really dead: UNKNOWN and told everywhere meanwhile, placed anew after the bound."""
    with cluster(MASS_HOLD_S="12", **SHORT) as made:
        fleet, jobs = _fleet(made, 10, 20)
        with nodes(*fleet):
            for job_id in jobs:
                deploy(made, job_id)
            settled(made, jobs)
            dead = fleet[:5]
            for node in dead:
                node.stop()
            dead_ids = {node.id for node in dead}
            theirs = [job_id for job_id in jobs if instance(made, job_id)["node_id"] in dead_ids]
            wait_until(lambda: {instance(made, job_id)["state"] for job_id in theirs} == {"UNKNOWN"}, what="UNKNOWN")
            status = made.http.get("/api/cluster/status")
            assert status["instances"].get("UNKNOWN") == len(theirs)
            explained = made.http.get(f"/api/instances/{theirs[0]}/0/explain")["summary"]
            assert "fell silent together" in explained
            assert "confirm-lost" in explained
            assert "5 silent nodes" in _events(made, "replacement_paused")[0]["cause"]
            assert "waited for" in clusterctl(made, "status").output
            settled(made, jobs)
            assert not dead_ids & {instance(made, job_id)["node_id"] for job_id in jobs}
            wait_until(lambda: _events(made, "replacement_resumed"), what="the end is told")


def test_1_an_operator_ends_the_waiting_at_once() -> None:
    """`clusterctl node confirm-lost --all` places anew what waits; a node that is there is refused."""
    with cluster(**SHORT) as made:
        fleet, jobs = _fleet(made, 4, 8)
        with nodes(*fleet):
            for job_id in jobs:
                deploy(made, job_id)
            settled(made, jobs)
            for node in fleet[:2]:
                node.stop()
            refused = clusterctl(made, "node", "confirm-lost", "edge-3")
            assert refused.status == 1
            assert "not waited for" in refused.output
            wait_until(
                lambda: made.http.get("/api/cluster/status")["instances"].get("UNKNOWN"), what="they are waited for"
            )
            said = clusterctl(made, "node", "confirm-lost", "--all")
            assert said.status == 0, said
            assert said.output.count("gave up") == 2
            settled(made, jobs)


def test_1_one_machine_of_two_that_dies_is_replaced() -> None:
    """A cluster of two is judged as any other: one loss is no mass loss."""
    with cluster(**SHORT) as made:
        pair = [WorkerNode(made, "edge-0"), WorkerNode(made, "edge-1")]
        with nodes(*pair):
            deploy(made, "web")
            settled(made, ["web"])
            home = next(node for node in pair if node.id == instance(made, "web")["node_id"])
            other = next(node for node in pair if node is not home)
            home.fall_silent()
            wait_until(lambda: instance(made, "web")["node_id"] == other.id, what="it is replaced")
            assert not _events(made, "replacement_paused")


def test_1_a_flapping_link_of_the_manager_does_not_stop_the_judging() -> None:
    """The broker comes and goes faster than the lease: a dead node is still found."""
    with cluster(LEASE_S="4", GRACE_S="1") as made:
        fleet = [WorkerNode(made, f"edge-{number}") for number in range(4)]
        with nodes(*fleet):
            deploy(made, "web")
            settled(made, ["web"])
            home = next(node for node in fleet if node.id == instance(made, "web")["node_id"])
            home.stop()
            for _ in range(12):
                made.kill("broker")
                time.sleep(1.0)
                made.start_part("broker")
                time.sleep(3.0)
            wait_until(lambda: instance(made, "web")["node_id"] not in ("", home.id), what="it is placed elsewhere")
