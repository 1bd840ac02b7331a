"""The whole worker process with containers and unikernels, on real engines and a real broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.docker_engine import DockerEngine
from testbed.mosquitto import Mosquitto
from testbed.ports import free_port
from testbed.waiting import wait_until
from testbed.worker import ManagerSide, RealWorker, manager_side, real_worker

WEB = {"image": "local/busybox:1", "technology": "docker", "stop_grace_s": 1}
SERVE = "sleep 1; echo ok > /tmp/index.html; exec httpd -f -p 80 -h /tmp"


@pytest.fixture(name="manager")
def _manager(mosquitto: Mosquitto) -> Iterator[ManagerSide]:
    with manager_side(mosquitto) as manager:
        yield manager


@pytest.fixture(name="worker")
def _worker(
    tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide, docker_engine: DockerEngine
) -> Iterator[RealWorker]:
    settings = {"DOCKER_HOST": docker_engine.url, "WORKER_TECHNOLOGIES": "docker,unikernel"}
    with real_worker(tmp_path / "w", mosquitto, manager, **settings) as worker:
        yield worker


def started_at(engine: DockerEngine) -> dict[str, str]:
    """When each container was started."""
    with engine.client() as client:
        return {c.name or "": c.attrs["State"]["StartedAt"] for c in client.containers.list(ignore_removed=True)}


def test_readiness_and_liveness(manager: ManagerSide, worker: RealWorker, docker_engine: DockerEngine) -> None:
    """RUNNING comes when the port answers; a container that fails its check is started anew."""
    probe = {"http": {"path": "/", "port": 80}, "interval_s": 0.2, "failure_threshold": 2}
    checks = {"readiness": probe, "liveness": {"exec": ["test", "!", "-e", "/tmp/sick"], "interval_s": 0.2}}
    manager.command("deploy", "web", **WEB, **checks, cmd=["sh", "-c", SERVE], port=f"{free_port()}:80/tcp")
    manager.wait_for("web", "RUNNING")
    assert "not ready" in " ".join(state["status_detail"] for state in manager.states)
    before = started_at(docker_engine)
    with docker_engine.client() as client:
        client.containers.get("web.instance.0").exec_run(["touch", "/tmp/sick"])
    wait_until(lambda: any("liveness failed" in state["status_detail"] for state in manager.states), what="the failure")
    manager.wait_for("web", "RUNNING")
    assert started_at(docker_engine).keys() == before.keys()
    assert started_at(docker_engine) != before


def test_crash_loop_ends_by_the_attempt_limit(manager: ManagerSide, worker: RealWorker) -> None:
    """Each try is told with its exit code; then it is FAILED."""
    manager.command("deploy", "crash", **WEB, cmd=["sh", "-c", "exit 7"], max_attempts=2)
    state = manager.wait_for("crash", "FAILED")
    assert state["exit_code"] == 7
    assert state["status_detail"] == "exited with status 7; gave up after 2 attempts"
    assert manager.statuses("crash") == ["STARTING", "RUNNING", "STARTING", "RUNNING", "FAILED"]


def test_kill_9_of_worker_and_engine_leaves_containers_alone(
    manager: ManagerSide, worker: RealWorker, docker_engine: DockerEngine
) -> None:
    """Both come back; the container was never restarted, and a delete still works."""
    manager.command("deploy", "web", **WEB, cmd=["sleep", "600"])
    manager.wait_for("web", "RUNNING")
    before = started_at(docker_engine)
    worker.process.kill()
    docker_engine.kill()
    worker.start()
    docker_engine.start()
    wait_until(lambda: "found again" in worker.process.output(), what="the container found again")
    assert started_at(docker_engine) == before
    manager.command("delete", "web")
    manager.wait_for("web", "STOPPED")
    wait_until(lambda: not started_at(docker_engine), what="the container is gone")
    assert manager.statuses("web") == ["STARTING", "RUNNING", "STOPPED"]


def test_unikernel_runs_survives_and_stops(manager: ManagerSide, worker: RealWorker, unikernel_image: Path) -> None:
    """A guest goes on counting over a crash of the worker, and is deleted by grace and kill."""
    manager.command("deploy", "guest", image=str(unikernel_image), technology="unikernel", memory=16, stop_grace_s=0.5)
    manager.wait_for("guest", "RUNNING")
    wait_until(lambda: b"count 3" in worker.get("/api/instances/guest/0/logs"), what="it counts")
    worker.process.kill()
    worker.start()
    wait_until(lambda: "found again" in worker.process.output(), what="the guest found again")
    wait_until(lambda: b"count 20" in worker.get("/api/instances/guest/0/logs"), what="it goes on counting")
    assert worker.get("/api/instances/guest/0/logs").count(b"count 0\n") == 1
    manager.command("delete", "guest")
    manager.wait_for("guest", "STOPPED")


def test_idle_worker_beside_an_engine_is_small(manager: ManagerSide, worker: RealWorker) -> None:
    """The engine is announced without its library being loaded."""
    assert worker.gateway.registrations[-1]["technology"] == ["docker", "unikernel"]
    lines = Path(f"/proc/{worker.process.pid}/smaps_rollup").read_text().splitlines()
    pss_kb = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert pss_kb <= 45 * 1024
