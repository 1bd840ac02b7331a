"""The worker without a manager: workloads go on through outages, restarts and reboots, and are reconciled later."""

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster, cluster
from testbed.module_server import ModuleServer, module_server
from testbed.operating import Copy, causes, copies_of, delete, deploy, instance, wait_for_state
from testbed.waiting import wait_until

EDGE = "edge"
FAIL_SOON = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"""


@pytest.fixture
def lonely() -> Iterator[Cluster]:
    """A real worker with three workloads whose manager and broker will go away."""
    with cluster(GRACE_S="1") as made:
        made.add_worker(EDGE)
        made.wait_until_node_is(EDGE, "READY")
        for number in range(3):
            deploy(made, "web", number, stop_grace_s=1)
        for number in range(3):
            wait_for_state(made, "web", number=number)
        yield made


def lose_the_cluster(made: Cluster) -> None:
    """Manager, broker, scheduler and gateway die at once."""
    for part in ("manager", "broker", "scheduler", "gateway"):
        made.kill(part)


def bring_it_back(made: Cluster) -> None:
    """All of them start on their data."""
    for part in ("broker", "manager", "scheduler", "gateway"):
        made.start_part(part)
    made.wait_until_ready()
    made.wait_until_node_is(EDGE, "READY")


def wait_until_all_run(made: Cluster) -> list[Copy]:
    """Wait until three workloads run on the node."""

    def three() -> list[Copy]:
        found = copies_of(made, "web")
        return found if len({copy.key for copy in found}) == len(found) == 3 else []

    return wait_until(three, 60.0, what="three workloads run")


def wait_until_reconciled(made: Cluster) -> None:
    """Wait until the cluster calls all three RUNNING."""
    for number in range(3):
        wait_for_state(made, "web", number=number)


def set_back_boot_id(folder: Path) -> None:
    """Make the worker believe that the machine was booted since: what it remembers is of another boot."""
    with sqlite3.connect(folder / "worker.db") as database:
        database.execute("UPDATE meta SET value = 'an-earlier-boot' WHERE name = 'boot_id'")
    database.close()
    for run in (folder / "wasm").iterdir():
        if (run / "boot").exists():
            (run / "boot").write_text("an-earlier-boot")


def kill_all(copies: list[Copy]) -> None:
    """As a power loss would: the workloads with those that wait for them."""
    for copy in copies:
        shim = Path(f"/proc/{copy.pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
        subprocess.run(["kill", "-9", shim, str(copy.pid)], check=False)


def test_an_outage_restarts_nothing(lonely: Cluster) -> None:
    """Manager and broker gone and back: the same processes, the same generations, nothing stopped."""
    before = copies_of(lonely)
    lose_the_cluster(lonely)
    lonely.parts[EDGE].wait_for_output("broker not connected")
    assert copies_of(lonely) == before
    bring_it_back(lonely)
    wait_until_reconciled(lonely)
    assert copies_of(lonely) == before


def test_a_worker_that_crashes_amid_an_outage_finds_its_workloads(lonely: Cluster) -> None:
    """kill -9 and restart of the worker while nobody is there: the same processes go on."""
    before = copies_of(lonely)
    lose_the_cluster(lonely)
    lonely.kill(EDGE)
    assert copies_of(lonely) == before
    lonely.start_part(EDGE)
    wait_until(lambda: lonely.parts[EDGE].output().count("found again") >= 3, 60.0, what="all are found again")
    bring_it_back(lonely)
    wait_until_reconciled(lonely)
    assert copies_of(lonely) == before


def test_a_workload_that_ends_amid_an_outage_is_started_by_policy(lonely: Cluster) -> None:
    """With nobody to ask the worker starts it again by itself, and touches nothing else."""
    before = copies_of(lonely)
    lose_the_cluster(lonely)
    subprocess.run(["kill", "-9", str(before[0].pid)], check=True)
    wait_until(lambda: before[0] not in copies_of(lonely), what="it has ended")
    after = wait_until_all_run(lonely)
    assert after[1:] == before[1:]
    assert after[0].generation == before[0].generation
    bring_it_back(lonely)
    wait_until_reconciled(lonely)
    assert copies_of(lonely) == after


def test_a_reboot_amid_an_outage(lonely: Cluster) -> None:
    """After a power loss the worker starts everything again by itself, once, in the same generations."""
    before = copies_of(lonely)
    lose_the_cluster(lonely)
    lonely.kill(EDGE)
    kill_all(before)
    wait_until(lambda: not copies_of(lonely), what="nothing runs")
    set_back_boot_id(lonely.folder / EDGE)
    lonely.start_part(EDGE)
    after = wait_until_all_run(lonely)
    assert [(c.key, c.generation) for c in after] == [(c.key, c.generation) for c in before]
    bring_it_back(lonely)
    wait_until_reconciled(lonely)
    assert copies_of(lonely) == after


def test_a_manager_with_an_empty_store_kills_nothing(lonely: Cluster) -> None:
    """A cluster that lost its store sees what runs as orphans; the workloads are the same processes."""
    before = copies_of(lonely)
    lose_the_cluster(lonely)
    for file in lonely.folder.glob("cluster.db*"):
        file.unlink()
    bring_it_back(lonely)
    found = wait_until(lambda: lonely.http.get(f"/api/nodes/{EDGE}")["orphans"], 60.0, what="orphans are shown")
    assert {(item["job_name"], item["status"], item["technology"]) for item in found} == {("web", "RUNNING", "wasm")}
    assert [item["instance_number"] for item in found] == [0, 1, 2]
    assert all(item["job_id"] and item["generation"] for item in found)
    assert copies_of(lonely) == before


def test_orders_of_before_the_outage_are_carried_out_after_it(lonely: Cluster) -> None:
    """A delete that was acknowledged while the worker was away happens on its return; the rest is not touched."""
    before = copies_of(lonely)
    lonely.kill(EDGE)
    delete(lonely, "web", 1)
    lose_the_cluster(lonely)
    lonely.start_part(EDGE)
    bring_it_back(lonely)
    wait_until(lambda: copies_of(lonely) == [before[0], before[2]], 60.0, what="the deleted one is gone")
    wait_until(lambda: instance(lonely, "web", 1)["state"] == "STOPPED", what="and the cluster knows")


def test_an_end_amid_an_outage_is_told_later(lonely: Cluster, tmp_path: Path) -> None:
    """A workload that failed for good while nobody listened is FAILED with its exit status when somebody does."""
    module = tmp_path / "fail.wat"
    module.write_text(FAIL_SOON)
    deploy(lonely, "late", image=str(module), restart_policy="on-failure", max_attempts=2)
    wait_until(lambda: any("next try" in cause for cause in causes(lonely, "late")) or _state(lonely) == "FAILED", 60.0)
    lose_the_cluster(lonely)
    time.sleep(3.0)  # the second attempt fails unheard
    bring_it_back(lonely)
    found = wait_for_state(lonely, "late", "FAILED")
    assert (found["exit_code"], found["retry_at"]) == (3, None)


def _state(made: Cluster) -> str:
    return str(instance(made, "late")["state"])


@pytest.fixture
def modules() -> Iterator[ModuleServer]:
    """Where the node gets its module from."""
    with module_server() as server:
        yield server


def test_an_image_is_fetched_once_whatever_happens(lonely: Cluster, modules: ModuleServer) -> None:
    """Restarts of worker and workload, deletes and redeploys use what the node has, also with no network."""
    image = f"{modules.url}/cached.wat"
    deploy(lonely, "cached", image=image, stop_grace_s=1)
    wait_for_state(lonely, "cached")
    modules.is_serving = False
    delete(lonely, "cached", 0)
    wait_for_state(lonely, "cached", "STOPPED")
    deploy(lonely, "cached", image=image, stop_grace_s=1)
    wait_for_state(lonely, "cached")
    lonely.kill(EDGE)
    [copy] = copies_of(lonely, "cached")
    kill_all([copy])
    lonely.start_part(EDGE)
    wait_until(lambda: [c.pid for c in copies_of(lonely, "cached")] not in ([], [copy.pid]), 60.0, what="it runs again")
    assert modules.fetches["/cached.wat"] == 1
