"""The whole worker process, with wasm workloads, on a real broker."""

from pathlib import Path

from testbed.mosquitto import Mosquitto
from testbed.waiting import wait_until
from testbed.worker import manager_side, real_worker


def test_deploy_runs_and_delete_stops(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """A deployed module runs and prints; a delete stops it, answers STOPPED and leaves nothing behind."""
    with manager_side(mosquitto) as manager, real_worker(tmp_path / "w", mosquitto, manager) as worker:
        manager.command("deploy", "greeter")
        manager.wait_for("greeter", "RUNNING")
        wait_until(lambda: b"hello from wasm" in worker.get("/api/instances/greeter/0/logs?tail=5"), what="its output")
        wait_until(lambda: manager.inventories and manager.inventories[-1]["services"], what="an inventory with it")
        manager.command("delete", "greeter")
        manager.wait_for("greeter", "STOPPED")
        wait_until(lambda: not manager.inventories[-1]["services"], what="an empty inventory")
        assert manager.statuses("greeter") == ["STARTING", "RUNNING", "STOPPED"]
        wait_until(lambda: not list((worker.folder / "wasm").iterdir()), what="no remains")
