"""Manager, gateway and scheduler as processes, attached to a stand-in root of each generation."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from standins.roots.r1 import R1
from standins.roots.r3 import R2, R3
from standins.roots.root import Root
from testbed.attached import NAME, attached, attached_with_node, clusterctl, link, started
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

GENERATIONS = [R1, R2, R3]
every_generation = pytest.mark.parametrize("make", GENERATIONS)
Make = Callable[[], Root]


@every_generation
def test_root_deploys_and_believes_the_truth(make: Make) -> None:
    """A cluster attaches and runs what the root deploys; the root believes each state, and no report is wrong."""
    root = make()
    with attached_with_node(root) as (running, node):
        service = root.data.add_service("web", "local/busybox:1", memory=64)
        assert [root.deploy(service), root.deploy(service)] == [0, 1]
        root.wait_for_status(service, "RUNNING", 0)
        root.wait_for_status(service, "RUNNING", 1)
        assert service.status == "RUNNING"
        assert service.instances[0]["worker_id"] == node.id
        assert root.undeploy(service, 1) == 200
        wait_until(lambda: (service.id, 1) not in node.running, what="the second instance is gone")
        root.wait_for_reports(2)
        assert root.data.faults == []
        assert running.http.request("GET", "/status").status == 200
        numbers = root.registered(NAME).numbers
        assert numbers.get("active_nodes", numbers.get("number_of_nodes")) == 1
        assert numbers["cpu_percent"] == 12.5


@every_generation
def test_no_capacity_reaches_the_root_in_its_own_words(make: Make) -> None:
    """What no node can take is reported as such, and runs as soon as one can."""
    root = make()
    with attached_with_node(root) as (_, _node):
        known = root.data.add_service("known", "local/busybox:1")
        root.deploy(known)
        root.wait_for_status(known, "RUNNING")
        big = root.data.add_service("big", "local/busybox:1", memory=10_000_000)
        root.deploy(big)
        root.wait_for_status(big, "NO_WORKER_CAPACITY")
        assert big.instances[0]["status_detail"]
        assert root.data.faults == []


@every_generation
def test_root_away_and_back_hears_of_everything(make: Make) -> None:
    """What changed and what ended while the root was away is told when it is back, also over a manager's restart."""
    root = make()
    with attached_with_node(root, RETENTION_S="2") as (running, node):
        web, batch = (root.data.add_service(name, "local/busybox:1") for name in ("web", "batch"))
        for service in (web, batch):
            root.deploy(service)
            root.wait_for_status(service, "RUNNING")
        root.stop()
        wait_until(lambda: link(running)["root"]["detail"].startswith("lost"), what="the link is lost")
        assert running.http.request("GET", "/status").status == 200
        assert running.http.request("DELETE", f"/api/service/{batch.id}/0").status == 200
        wait_until(lambda: (batch.id, 0) not in node.running, what="the batch is gone")
        time.sleep(3)
        running.kill("manager")
        running.start_part("manager")
        running.wait_until_ready()
        root.start()
        if isinstance(root, R1):
            root.wait_for_reports(1)
        root.wait_for_status(batch, "UNDEPLOYED")
        root.wait_for_status(web, "RUNNING")
        assert root.data.faults == []
        wait_until(
            lambda: f"{batch.id}" not in str(running.http.instances()), what="what the root has heard of is purged"
        )


@every_generation
def test_root_restarted_keeps_the_cluster(make: Make) -> None:
    """A root that restarts, in R1 with a new signing key, gets reports under the same id again, and can deploy."""
    root = make()
    with attached_with_node(root) as (running, _node):
        service = root.data.add_service("web", "local/busybox:1")
        root.deploy(service)
        root.wait_for_status(service, "RUNNING")
        before = root.registered(NAME).id
        root.restart()
        root.wait_for_reports(2)
        later = root.data.add_service("later", "local/busybox:1")
        root.deploy(later)
        root.wait_for_status(later, "RUNNING")
        assert list(root.data.clusters) == [before]
        assert root.data.faults == []
        assert link(running)["connected_to_root"]


@every_generation
@pytest.mark.parametrize("decision", ["keep", "confirm-deletes"])
def test_lost_database_deletes_nothing_before_the_operator_decides(make: Make, decision: str) -> None:
    """A root that lost its database orders everything deleted: that is held, shown, and decided by the operator."""
    root = make()
    with attached_with_node(root) as (running, node):
        service = root.data.add_service("web", "local/busybox:1")
        root.deploy(service)
        root.wait_for_status(service, "RUNNING")
        before = root.registered(NAME).id
        root.stop()
        root.data.wipe()
        root.start()
        if isinstance(root, R1):
            key = root.add_cluster(NAME)
            (running.folder / ".env").write_text(f" export CLUSTER_PAIRING_KEY='{key}'\r\n")
            running.parts["manager"].env.pop("CLUSTER_PAIRING_KEY")
            running.kill("manager")
            running.start_part("manager")
            running.wait_until_ready()
        assert root.wait_until_registered(NAME).id != before
        path = root.delete_route.format(service.id, -1)
        wait_until(lambda: (root.delete_method, path, 200) in root.calls, what="the root orders the job deleted")
        wait_until(lambda: "1 deletes held" in link(running)["root"]["detail"], what="the delete is held")
        assert "root_delete_held" in clusterctl(running, "get", "events", "-o", "json")
        assert service.id in clusterctl(running, "root", "show")
        assert (service.id, 0) in node.running
        ordered = root.calls.count((root.delete_method, path, 200))
        root.wait_for_reports(3)
        assert root.calls.count((root.delete_method, path, 200)) == ordered
        clusterctl(running, "root", decision)
        if decision == "keep":
            root.wait_for_reports(3)
            assert (service.id, 0) in node.running
            assert "jobs guarded" not in link(running)["root"]["detail"]
            assert running.http.request(root.delete_method, path).status == 200
            time.sleep(1)
            assert (service.id, 0) in node.running
        else:
            wait_until(lambda: (service.id, 0) not in node.running, what="the confirmed delete is carried out")
        assert root.data.faults == []


def test_node_that_registers_wakes_a_report() -> None:
    """The root can schedule on it at once, though the next report is due in ten minutes; a lost one it hears of too."""
    root = R3()
    with started(root), attached(root, ROOT_REPORT_PERIOD_S="600", LEASE_S="2", GRACE_S="1") as running:
        root.wait_until_registered(NAME)

        def active_nodes() -> object:
            return root.registered(NAME).numbers["active_nodes"]

        with nodes(WorkerNode(running, "worker-1")):
            wait_until(lambda: active_nodes() == 1, what="the root knows of the node")
        wait_until(lambda: active_nodes() == 0, what="the root knows that the node is lost")


def test_operator_jobs_are_never_told_to_the_root() -> None:
    """A job that the root did not order is not reported, so that the root cannot order it deleted."""
    root = R3()
    with attached_with_node(root) as (running, node):
        clusterctl(running, "deploy", "--name", "own", "--image", "local/busybox:1", "--technology", "docker")
        wait_until(lambda: node.running, what="the job runs")
        root.wait_for_reports(3)
        assert all(report["jobs"] == [] for report in root.data.reports)
        assert root.calls == []


def test_manager_restart_uses_the_secret_key_that_it_saved() -> None:
    """The pairing key is needed once; what the root gave then is durable."""
    root = R1()
    with attached_with_node(root) as (running, _node):
        running.parts["manager"].env.pop("CLUSTER_PAIRING_KEY")
        seen = len(root.registrations)
        running.kill("manager")
        running.start_part("manager")
        wait_until(lambda: len(root.registrations) > seen, what="the cluster registers again")
        root.wait_for_reports(2)
        last = root.registrations[-1]
        assert (last["pairing_key"], last["manager_port"]) == ("", str(running.ports["gateway"]))
        assert last["secret_key"]
        assert root.data.faults == []


def test_refused_key_of_a_known_cluster_stays_attached() -> None:
    """A restarted R1 refuses every old key, yet lists the cluster: reports go on, and a new key in .env is taken."""
    root = R1()
    with attached_with_node(root) as (running, _node):
        root.restart()
        running.kill("manager")
        running.parts["manager"].env.pop("CLUSTER_PAIRING_KEY")
        running.start_part("manager")
        running.wait_until_ready()
        wait_until(lambda: link(running)["connected_to_root"], what="attached as before")
        assert "CLUSTER_PAIRING_KEY that it shows" in link(running)["root"]["detail"]
        root.wait_for_reports(2)
        (running.folder / ".env").write_text(f"CLUSTER_PAIRING_KEY={root.add_cluster(NAME)}\n")
        wait_until(lambda: "that it shows" not in link(running)["root"]["detail"], what="the new key is taken")
        assert root.registrations[-1]["pairing_key"] == ""
        assert root.data.faults == []


def test_guard_can_be_turned_off() -> None:
    """With ROOT_GUARD=false a root that lost its database is obeyed."""
    root = R3()
    with attached_with_node(root, ROOT_GUARD="false") as (running, node):
        service = root.data.add_service("web", "local/busybox:1")
        root.deploy(service)
        root.wait_for_status(service, "RUNNING")
        root.stop()
        root.data.wipe()
        root.start()
        wait_until(lambda: (service.id, 0) not in node.running, what="the job is deleted")
        assert link(running)["connected_to_root"]


def test_secret_key_is_renewed_before_it_expires() -> None:
    """A key of a few seconds never runs out: the cluster gets another with a third of its life left."""
    root = R1(secret_life_s=6)
    with attached_with_node(root) as (running, _node):
        seen = len(root.registrations)
        wait_until(lambda: len(root.registrations) >= seen + 3, timeout=40, what="three renewals")
        assert all(message["secret_key"] for message in root.registrations[seen:])
        assert "refused" not in running.parts["manager"].output()


@pytest.mark.parametrize("silent", [False, True], ids=["wrong-key", "no-answer"])
def test_refused_cluster_says_what_to_do_and_waits(silent: bool) -> None:
    """A wrong key, or a root that does not answer, is one clear line in log and status; a newer key in .env helps."""
    root = R1()
    with started(root):
        key = root.add_cluster(NAME)
        root.is_silent = silent
        with attached(root, CLUSTER_PAIRING_KEY=key if silent else "eyJ.eyJ.nonsense", ROOT_ANSWER_S="1") as running:
            manager = running.parts["manager"]
            manager.env.pop("CLUSTER_PAIRING_KEY")
            (running.folder / ".env").write_text("CLUSTER_PAIRING_KEY=eyJ.eyJ.nonsense\n")
            running.kill("manager")
            running.start_part("manager")
            running.wait_until_ready()
            wait_until(
                lambda: "CLUSTER_PAIRING_KEY that it shows" in link(running)["root"]["detail"], what="the advice"
            )
            time.sleep(3)
            assert manager.is_running
            assert manager.output().count("CLUSTER_PAIRING_KEY that it shows") <= 2
            assert len(root.registrations) < 40
            assert not link(running)["connected_to_root"]
            root.is_silent = False
            (running.folder / ".env").write_text(f'CLUSTER_PAIRING_KEY="{key}"\n')
            root.wait_until_registered(NAME)
            assert root.data.faults == []
