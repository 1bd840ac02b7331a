"""A worker whose disk is full, takes nothing at all, or takes long: what runs goes on, what is to end ends."""

import contextlib
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.commands import find
from testbed.disks import fill, small_disk
from testbed.mosquitto import Mosquitto
from testbed.netns import scratch_folder
from testbed.requirement import require
from testbed.waiting import wait_until
from testbed.worker import ManagerSide, RealWorker, manager_side, real_worker, runner_of

pytestmark = [pytest.mark.real("small disk"), pytest.mark.timeout(600)]
STOP_AFTER_S = 5.0
LONGER_S = 7.0


@pytest.fixture(name="manager")
def _manager(mosquitto: Mosquitto) -> Iterator[ManagerSide]:
    with manager_side(mosquitto) as manager:
        yield manager


@pytest.fixture(name="disk")
def _disk() -> Iterator[Path]:
    with scratch_folder() as folder, small_disk(folder / "disk", 4) as disk:
        yield disk


@pytest.fixture(name="worker")
def _worker(disk: Path, mosquitto: Mosquitto, manager: ManagerSide) -> Iterator[RealWorker]:
    """A worker whose data and log lie on a disk of 4 MB."""
    with real_worker(disk, mosquitto, manager) as worker:
        try:
            yield worker
        finally:
            (disk / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def leases(manager: ManagerSide) -> Iterator[None]:
    """Acknowledge every heartbeat, as the manager does, for the time of the block."""
    is_over = threading.Event()

    def acknowledge() -> None:
        while not is_over.wait(0.3):
            if manager.telemetry:
                manager.publish("lease", {"beat": manager.telemetry[-1]["beat"]})

    thread = threading.Thread(target=acknowledge)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def deploy(manager: ManagerSide, worker: RealWorker, *names: str, on_disconnect: str = "stop_after") -> dict[str, int]:
    """Running workloads that stop themselves without leases; the process ids of their runners."""
    for name in names:
        manager.command("deploy", name, on_disconnect=on_disconnect, stop_after_s=STOP_AFTER_S, stop_grace_s=1)
    for name in names:
        manager.wait_for(name, "RUNNING")
    return {name: pid for name in names if (pid := runner_of(worker.folder, name))}


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    return False


def said(manager: ManagerSide, job_id: str) -> list[str]:
    """The states of an instance, each sequence once."""
    found = {state["sequence"]: state["status"] for state in manager.states if state["job_id"] == job_id}
    return [found[sequence] for sequence in sorted(found)]


def test_on_a_full_disk_leases_count_and_deletes_are_carried_out(
    manager: ManagerSide, worker: RealWorker, disk: Path
) -> None:
    """Over a crash and a clean restart as well; a new workload fails with the reason, and runs once there is room."""
    with leases(manager):
        pids = deploy(manager, worker, "safe", "kept", "going", "gone")
        filler = fill(disk)
        time.sleep(LONGER_S)
        manager.command("delete", "going")
        manager.wait_for("going", "STOPPED")
        assert not is_running(pids["going"])
        wait_until(lambda: not list(disk.glob("wasm/going.*")), what="its remains are removed")
        fill(disk)  # what was deleted has made some room
        manager.command("deploy", "coming", restart_policy="never")
        assert "the node's disk is full" in manager.wait_for("coming", "FAILED")["status_detail"]
        for restart in (worker.process.kill, worker.process.stop):
            fill(disk)
            restart()
            worker.start()
            time.sleep(LONGER_S)
            assert all(is_running(pids[name]) for name in ("safe", "kept", "gone"))
        fill(disk)
        manager.command("delete", "gone")
        manager.wait_for("gone", "STOPPED")
        manager.command("delete", "coming")
        manager.wait_for("coming", "STOPPED")
        wait_until(lambda: len(manager.inventories[-1]["services"]) == 2, what="what was deleted is forgotten")
        filler.unlink()
        assert deploy(manager, worker, "later")
        assert {said(manager, name)[-1] for name in ("safe", "kept")} == {"RUNNING"}
        assert all(is_running(pids[name]) for name in ("safe", "kept"))
        for name in ("going", "gone"):
            assert said(manager, name) == ["STARTING", "RUNNING", "STOPPED"]


def take_nothing(worker: RealWorker, *, is_refused: bool) -> None:
    """Let every write of the worker's process to any file fail, in place or not, as if reserves were of no use."""
    limit = 1 if is_refused else resource.RLIM_INFINITY
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize("is_crash", [False, True])
def test_without_any_disk_what_is_to_end_ends_and_is_told_once_it_is_saved(
    manager: ManagerSide, worker: RealWorker, is_crash: bool
) -> None:
    """The delete is carried out at once and told later, exactly once, whether or not the worker lives to see that."""
    with leases(manager):
        # a crash forgets the leases that could not be noted, and at most one copy of a workload may run
        pids = deploy(manager, worker, "safe", "going", on_disconnect="keep" if is_crash else "stop_after")
        take_nothing(worker, is_refused=True)
        manager.command("delete", "going")
        wait_until(lambda: not is_running(pids["going"]), what="it is stopped")
        manager.command("deploy", "coming")
        time.sleep(LONGER_S)
        assert is_running(pids["safe"])
        assert said(manager, "going") == ["STARTING", "RUNNING"]
        assert said(manager, "coming") == []
        assert {entry["status"] for entry in manager.inventories[-1]["services"]} == {"RUNNING"}
        if is_crash:
            worker.process.kill()
            worker.start()
        else:
            take_nothing(worker, is_refused=False)
        manager.wait_for("going", "STOPPED")
        manager.wait_for("coming", "RUNNING")
        wait_until(lambda: len(manager.inventories[-1]["services"]) == 2, what="it is forgotten")
        time.sleep(1.0)
        assert runner_of(worker.folder, "going") == 0
        assert said(manager, "going")[-1] == "STOPPED"
        assert said(manager, "going").count("STOPPED") == 1
        assert is_running(pids["safe"])


def test_without_any_disk_a_lease_that_is_over_ends_its_workload(manager: ManagerSide, worker: RealWorker) -> None:
    """At most one copy runs: what nobody acknowledges stops in time, though that cannot be saved."""
    with leases(manager):
        pids = deploy(manager, worker, "safe")
        take_nothing(worker, is_refused=True)
        time.sleep(LONGER_S)
        assert is_running(pids["safe"])
    wait_until(lambda: not is_running(pids["safe"]), what="it stops itself")
    assert said(manager, "safe") == ["STARTING", "RUNNING"]
    take_nothing(worker, is_refused=False)
    assert "no lease" in manager.wait_for("safe", "STOPPED")["status_detail"]


def test_without_any_disk_a_worker_registers_and_reports(manager: ManagerSide, worker: RealWorker) -> None:
    """What it is told is used at once, kept later, and nothing of the worker ends."""
    pids = deploy(manager, worker, "kept", on_disconnect="keep")
    take_nothing(worker, is_refused=True)
    manager.publish("control/error", {"message": "Node not registered to the cluster"})
    wait_until(lambda: len(worker.gateway.registrations) == 2, what="it registers again")
    before = len(manager.telemetry), len(manager.inventories)
    wait_until(lambda: len(manager.telemetry) > before[0] + 3, what="telemetry goes on")
    wait_until(lambda: len(manager.inventories) > before[1] + 3, what="inventories go on")
    assert b'"status":"ok"' in worker.get("/healthz")
    assert worker.get("/api/instances/kept/0/logs?tail=5")
    assert is_running(pids["kept"])
    assert worker.process.stop() == 0
    assert is_running(pids["kept"])


def test_what_cannot_be_saved_is_not_announced_as_stopped(
    disk: Path, mosquitto: Mosquitto, manager: ManagerSide
) -> None:
    """A worker that ends its workloads and cannot note that will start them again, and says nothing else."""
    with real_worker(disk, mosquitto, manager, WORKER_STOP_WORKLOADS_ON_EXIT="true") as worker:
        pids = deploy(manager, worker, "going", on_disconnect="keep")
        take_nothing(worker, is_refused=True)
        assert worker.process.stop() == 0
        assert not is_running(pids["going"])
        wait_until(lambda: manager.farewells, what="its farewell")
        assert manager.farewells == [{"online": False, "stopped": True, "workloads": "kept"}]
        worker.start()
        wait_until(lambda: runner_of(worker.folder, "going"), what="it is started again")


@contextlib.contextmanager
def slow_syncs(worker: RealWorker, seconds: float) -> Iterator[None]:
    """Let every sync of the worker take that long, for the time of the block."""
    delay = f"inject=fdatasync,fsync:delay_enter={int(seconds * 1e6)}"
    command = [find("strace") or "strace", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", delay]
    with subprocess.Popen([*command, "-p", str(worker.process.pid)], stderr=subprocess.DEVNULL) as tracer:
        wait_until(lambda: "TracerPid:\t0" not in Path(f"/proc/{worker.process.pid}/status").read_text())
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(60)


@pytest.mark.real("strace")
def test_a_disk_that_takes_long_holds_up_no_stop(manager: ManagerSide, worker: RealWorker) -> None:
    """While one write takes longer than anybody waits, leases count, and a delete ends its workload."""
    require("strace")
    with leases(manager):
        pids = deploy(manager, worker, "safe", "going")
        with slow_syncs(worker, 1800.0):
            manager.command("delete", "going")
            wait_until(lambda: not is_running(pids["going"]), what="it is stopped")
            assert said(manager, "going") == ["STARTING", "RUNNING"]
            time.sleep(LONGER_S)
            assert is_running(pids["safe"])
        manager.wait_for("going", "STOPPED", timeout=60)
        assert is_running(pids["safe"])
