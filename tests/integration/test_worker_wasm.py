"""The whole worker process, with wasm workloads, on a real broker."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import modules
from testbed.mosquitto import Mosquitto
from testbed.ports import free_port
from testbed.waiting import wait_until
from testbed.worker import NODE_ID, ManagerSide, RealWorker, manager_side, real_worker


@pytest.fixture(name="manager")
def _manager(mosquitto: Mosquitto) -> Iterator[ManagerSide]:
    with manager_side(mosquitto) as manager:
        yield manager


@pytest.fixture(name="worker")
def _worker(tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide) -> Iterator[RealWorker]:
    with real_worker(tmp_path / "w", mosquitto, manager) as worker:
        yield worker


def runner_pids(worker: RealWorker) -> list[int]:
    """The processes whose working folder is a run of this worker, without the shells between."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and str(worker.folder / "wasm") in str((process / "cwd").readlink()):
                command = (process / "cmdline").read_bytes()
                found += (
                    [int(process.name)] if b"wasm_runner\0order.json\0" in command and b"-c\0" not in command else []
                )
        except OSError:
            continue
    return found


def test_deploy_runs_and_delete_stops(manager: ManagerSide, worker: RealWorker) -> None:
    """A deployed module runs and prints; a delete stops it, answers STOPPED and leaves nothing behind."""
    manager.command("deploy", "greeter")
    manager.wait_for("greeter", "RUNNING")
    wait_until(lambda: b"hello from wasm" in worker.get("/api/instances/greeter/0/logs?tail=5"), what="its output")
    wait_until(lambda: manager.inventories and manager.inventories[-1]["services"], what="an inventory with it")
    manager.command("delete", "greeter")
    manager.wait_for("greeter", "STOPPED")
    wait_until(lambda: not manager.inventories[-1]["services"], what="an empty inventory")
    assert manager.statuses("greeter") == ["STARTING", "RUNNING", "STOPPED"]
    wait_until(lambda: not list((worker.folder / "wasm").iterdir()), what="no remains")


def test_one_shots_report_their_exit_code(manager: ManagerSide, worker: RealWorker, tmp_path: Path) -> None:
    """COMPLETED with 0, FAILED with the code; the inventory keeps them until they are deleted."""
    manager.command("deploy", "good", image="builtin:hello-once", one_shot=True)
    manager.command("deploy", "bad", image=modules.write(tmp_path, modules.EXIT_3), one_shot=True)
    assert manager.wait_for("good", "COMPLETED")["exit_code"] == 0
    assert manager.wait_for("bad", "FAILED")["exit_code"] == 3
    wait_until(lambda: len(manager.inventories[-1]["services"]) == 2, what="both in the inventory")
    manager.command("delete", "good")
    manager.wait_for("good", "STOPPED")
    wait_until(lambda: len(manager.inventories[-1]["services"]) == 1, what="one in the inventory")


def test_replicate_starts_a_further_instance(manager: ManagerSide, worker: RealWorker) -> None:
    """The new instance has its own number and generation."""
    manager.command("deploy", "greeter")
    manager.command("replicate", "greeter", number=1_000_000, generation=2)
    manager.wait_for("greeter", "RUNNING", number=0)
    manager.wait_for("greeter", "RUNNING", number=1_000_000)
    assert len(runner_pids(worker)) == 2


def test_newer_generation_replaces_the_older(manager: ManagerSide, worker: RealWorker) -> None:
    """The older is stopped first; at the end one runs."""
    manager.command("deploy", "greeter")
    manager.wait_for("greeter", "RUNNING")
    manager.command("deploy", "greeter", generation=2)
    wait_until(lambda: manager.last("greeter")["generation"] == 2, what="a state of the newer generation")
    manager.wait_for("greeter", "RUNNING")
    words = [(state["generation"], state["status"]) for state in manager.states]
    assert words.index((1, "STOPPED")) < words.index((2, "RUNNING"))
    assert len(runner_pids(worker)) == 1


def test_kill_9_of_the_worker_leaves_workloads_alone(manager: ManagerSide, worker: RealWorker) -> None:
    """After the restart the same processes run, nothing is restarted, and they can be deleted."""
    for name in ("one", "two"):
        manager.command("deploy", name)
        manager.wait_for(name, "RUNNING")
    before = sorted(runner_pids(worker))
    worker.process.kill()
    states = len(manager.states)
    worker.start()
    wait_until(lambda: "found again" in worker.process.output(), what="the workloads found again")
    wait_until(lambda: len(manager.inventories[-1]["services"]) == 2, what="both in the inventory")
    assert sorted(runner_pids(worker)) == before
    assert manager.states[states:] == []
    manager.command("delete", "one")
    manager.wait_for("one", "STOPPED")
    assert len(runner_pids(worker)) == 1


def test_ends_while_the_worker_is_away_are_reported(manager: ManagerSide, worker: RealWorker) -> None:
    """A one-shot that ended meanwhile has its exit code; a service is started again."""
    manager.command("deploy", "service")
    manager.wait_for("service", "RUNNING")
    worker.process.kill()
    (pid,) = runner_pids(worker)
    os.kill(pid, 9)
    worker.start()
    wait_until(lambda: manager.statuses("service") == ["STARTING", "RUNNING", "STARTING", "RUNNING"])
    assert "ended by SIGKILL" in " ".join(state["status_detail"] for state in manager.states)


def test_states_are_kept_while_the_broker_is_away(
    manager: ManagerSide, worker: RealWorker, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """What happened meanwhile arrives in order, once the broker is back, and survives a crash of the worker too."""
    names = [f"job{number}" for number in range(5)]
    for name in names:
        manager.command("deploy", name, restart_policy="never")
        manager.wait_for(name, "RUNNING")
    time.sleep(1.5)  # mosquitto saves its sessions once a second
    mosquitto.kill()
    for pid in runner_pids(worker):
        os.kill(pid, 9)
    wait_until(lambda: b'"instances":5' in worker.get("/healthz"))
    wait_until(lambda: not runner_pids(worker), what="all have ended")
    time.sleep(0.5)
    worker.process.kill()
    worker.process.start()
    mosquitto.start()
    for name in names:
        assert manager.wait_for(name, "FAILED")["exit_code"] == 137
    sequences = [state["sequence"] for state in manager.states]
    assert sorted(set(sequences)) == list(range(1, len(set(sequences)) + 1))
    first_seen = list(dict.fromkeys(sequences))
    assert first_seen == sorted(first_seen)


def test_unknown_node_registers_again(manager: ManagerSide, worker: RealWorker) -> None:
    """Told that the cluster does not know it, the worker registers with the id that it has."""
    assert worker.gateway.registrations[0]["id"] == ""
    manager.publish("control/error", {"message": "Node not registered to the cluster"})
    wait_until(lambda: len(worker.gateway.registrations) == 2, what="a second registration")
    assert worker.gateway.registrations[1]["id"] == NODE_ID
    assert worker.gateway.registrations[1]["technology"] == ["wasm"]


def test_garbage_costs_nothing(manager: ManagerSide, worker: RealWorker) -> None:
    """Commands that cannot be understood are logged; the next good one is carried out."""
    manager.publish("controls", {"command": "dance"})
    manager.publish("controls", {"command": "deploy", "job": {"id": "x"}})
    manager.publish("lease", {})
    manager.command("deploy", "greeter", technology="docker", image="x")
    assert "cannot be run on this node" in manager.wait_for("greeter", "FAILED")["status_detail"]
    assert worker.process.output().count("message not understood") == 2


def test_stop_after_stops_without_a_lease(manager: ManagerSide, worker: RealWorker) -> None:
    """As long as heartbeats are acknowledged it runs; then it stops itself."""
    manager.command("deploy", "safe", on_disconnect="stop_after", stop_after_s=1.5)
    manager.wait_for("safe", "RUNNING")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        manager.publish("lease", {"beat": manager.telemetry[-1]["beat"]} if manager.telemetry else {})
        time.sleep(0.3)
    assert manager.last("safe")["status"] == "RUNNING"
    assert "no lease" in manager.wait_for("safe", "STOPPED", timeout=5)["status_detail"]


def farewell(workloads: str) -> dict[str, object]:
    """What a worker says last when it is told to end."""
    return {"online": False, "stopped": True, "workloads": workloads}


def test_stops_workloads_on_exit_if_told(tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide) -> None:
    """With WORKER_STOP_WORKLOADS_ON_EXIT nothing is left; it says so last, after each instance was told as STOPPED.

    The next start begins none of them by itself, as they may run elsewhere by then: the manager decides.
    """
    with real_worker(tmp_path / "w", mosquitto, manager, WORKER_STOP_WORKLOADS_ON_EXIT="true") as worker:
        for name in ("greeter", "other"):
            manager.command("deploy", name, one_shot=name == "other")
            manager.wait_for(name, "RUNNING")
        assert worker.process.stop() == 0
        assert not runner_pids(worker)
        wait_until(lambda: manager.farewells == [farewell("stopped")], what="its farewell")
        for name in ("greeter", "other"):
            assert manager.last(name)["status"] == "STOPPED"
            assert manager.last(name)["status_detail"] == "stopped with its worker"
        before = len(manager.inventories)
        worker.start()
        wait_until(lambda: len(manager.inventories) > before + 2, what="inventories of the next start")
        assert {entry["status"] for entry in manager.inventories[-1]["services"]} == {"STOPPED"}
        assert not runner_pids(worker)
        manager.command("deploy", "greeter", generation=2)
        wait_until(lambda: manager.last("greeter")["generation"] == 2, what="a state of the newer generation")
        manager.wait_for("greeter", "RUNNING")
        manager.command("delete", "other")
        wait_until(lambda: len(manager.inventories[-1]["services"]) == 1, what="the other is forgotten")


def test_what_the_broker_did_not_hear_of_the_end_is_told_at_the_next_start(
    tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide
) -> None:
    """Workloads that were stopped while the broker was away are told as STOPPED once it is back."""
    with real_worker(tmp_path / "w", mosquitto, manager, WORKER_STOP_WORKLOADS_ON_EXIT="true") as worker:
        manager.command("deploy", "greeter")
        manager.wait_for("greeter", "RUNNING")
        mosquitto.kill()
        wait_until(lambda: not json.loads(worker.get("/healthz"))["is_connected"], what="it notices")
        assert worker.process.stop() == 0
        assert not runner_pids(worker)
        mosquitto.start()
        worker.start()
        assert manager.wait_for("greeter", "STOPPED")["status_detail"] == "stopped with its worker"
        assert not runner_pids(worker)


def test_a_worker_that_never_served_ends_no_workloads(
    tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide
) -> None:
    """One that cannot begin, because its port is taken, does not stop what an earlier one started."""
    with real_worker(tmp_path / "w", mosquitto, manager) as worker:
        manager.command("deploy", "greeter")
        manager.wait_for("greeter", "RUNNING")
        before = runner_pids(worker)
        worker.process.kill()
        with socket.create_server(("127.0.0.1", worker.port)):
            worker.process.env["WORKER_STOP_WORKLOADS_ON_EXIT"] = "true"
            worker.process.start()
            assert worker.process.wait() == 1
        assert runner_pids(worker) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_leaves_workloads_running_and_says_so(
    manager: ManagerSide, worker: RealWorker, number: int
) -> None:
    """Without that setting an ended worker leaves its workloads alone; its last message says that it was told to."""
    manager.command("deploy", "greeter")
    manager.wait_for("greeter", "RUNNING")
    before = runner_pids(worker)
    worker.process.signal(number)
    assert worker.process.wait() == 0
    assert runner_pids(worker) == before
    wait_until(lambda: manager.farewells == [farewell("kept")], what="its farewell")
    assert manager.connections[-1] is False


def test_a_killed_worker_says_no_farewell(manager: ManagerSide, worker: RealWorker) -> None:
    """Its last will alone tells that the session ended: it may be back in a moment."""
    worker.process.kill()
    wait_until(lambda: manager.connections[-1:] == [False], what="its last will")
    assert manager.farewells == []


def test_restarts_are_counted(manager: ManagerSide, worker: RealWorker) -> None:
    """In each state and in the inventory, over a crash of the worker too."""
    manager.command("deploy", "service")
    assert manager.wait_for("service", "RUNNING")["restarts"] == 0
    for count in (1, 2):
        (pid,) = runner_pids(worker)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: manager.last("service")["status"] == "STARTING", what="its end is told")
        assert manager.last("service")["restarts"] == count - 1
        assert manager.wait_for("service", "RUNNING")["restarts"] == count
        worker.process.kill()
        worker.start()
    wait_until(lambda: manager.inventories[-1]["services"][0]["restarts"] == 2, what="it is in the inventory")


def test_adoption(tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide) -> None:
    """A worker that waits serves its registration and takes the answer."""
    folder = tmp_path / "w"
    port = free_port()
    with real_worker(
        folder, mosquitto, manager, WORKER_ADOPT="true", WORKER_PORT=str(port), is_awaited=False
    ) as worker:
        worker.port = port
        wait_until(lambda: "waiting to be adopted" in worker.process.output())
        offer = json.loads(worker.get("/api/node/register"))
        assert (offer["name"], offer["port"], offer["id"]) == ("tested", str(port), "")
        body = json.dumps({"id": NODE_ID, "MQTT_BROKER_PORT": str(mosquitto.port), "cluster_id": "c"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/node/register", body, timeout=5) as answer:
            assert answer.status == 200
        wait_until(lambda: True in manager.connections, what="it is connected")
        other = body.replace(NODE_ID.encode(), b"5f0000000000000000000002")
        wait_until(lambda: json.loads(worker.get("/healthz"))["is_connected"])
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/node/register", other, timeout=5)
        with refused.value as answer:
            assert (answer.code, json.loads(answer.read())["reason"]) == (409, "conflict")
    assert not worker.gateway.registrations


def test_idle_memory(manager: ManagerSide, worker: RealWorker) -> None:
    """An idle worker takes at most 45 MB, neither engine's library being loaded."""
    time.sleep(1)
    lines = Path(f"/proc/{worker.process.pid}/smaps_rollup").read_text().splitlines()
    pss_kb = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert pss_kb <= 45 * 1024
