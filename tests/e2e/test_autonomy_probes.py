"""Probes and restart policies on the real worker: readiness gates, liveness restarts, failures back off."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster import Cluster, cluster
from testbed.docker_engine import BUSYBOX, DockerEngine
from testbed.modules import EXIT_3
from testbed.mosquitto import Mosquitto
from testbed.operating import causes, copies_of, delete, deploy, instance, wait_for_state
from testbed.waiting import wait_until
from testbed.worker import ManagerSide, manager_side, real_worker

EDGE, ADDRESS = "edge", "127.0.0.2"
QUICK = {"interval_s": 0.2, "timeout_s": 1, "failure_threshold": 2}


class Health:
    """An HTTP endpoint on the node's address that answers as a test says: a module has no port of its own."""

    def __init__(self) -> None:
        self.status = 503
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        self._server = ThreadingHTTPServer((ADDRESS, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.port: int = self._server.server_port

    def probe(self, **more: Any) -> dict[str, Any]:
        """A check of it."""
        return {"http": {"path": "/health", "port": self.port}, **QUICK, **more}

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def health() -> Iterator[Health]:
    """The endpoint, unhealthy at first."""
    made = Health()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def edge() -> Iterator[Cluster]:
    """A cluster with one real worker."""
    with cluster() as made:
        made.add_worker(EDGE)
        made.wait_until_node_is(EDGE, "READY")
        yield made


def test_readiness_gates_running(edge: Cluster, health: Health) -> None:
    """A workload that runs is STARTING until its readiness check passes, and says why."""
    deploy(edge, "ready", readiness=health.probe(), stop_grace_s=1)
    wait_until(lambda: "not ready" in instance(edge, "ready")["detail"] or copies_of(edge, "ready"), what="it starts")
    [copy] = wait_until(lambda: copies_of(edge, "ready"), what="its process runs")
    assert instance(edge, "ready")["state"] in ("SCHEDULED", "STARTING")
    health.status = 200
    wait_for_state(edge, "ready")
    assert copies_of(edge, "ready") == [copy]
    delete(edge, "ready")


def test_readiness_by_tcp(edge: Cluster) -> None:
    """A port that refuses is not ready; one that accepts is."""
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        port = listener.getsockname()[1]
        deploy(edge, "tcp", readiness={"tcp": {"port": port}, **QUICK}, stop_grace_s=1)
        wait_until(lambda: copies_of(edge, "tcp"), what="its process runs")
        assert instance(edge, "tcp")["state"] in ("SCHEDULED", "STARTING")
        listener.listen()
        wait_for_state(edge, "tcp")
    delete(edge, "tcp")


def test_a_failing_liveness_check_restarts_on_the_same_node(edge: Cluster, health: Health) -> None:
    """A workload that fails its check is stopped and started again: another process of the same generation."""
    health.status = 200
    deploy(edge, "alive", liveness=health.probe(), stop_grace_s=1)
    wait_for_state(edge, "alive")
    [before] = copies_of(edge, "alive")
    health.status = 500
    [after] = wait_until(
        lambda: found if (found := copies_of(edge, "alive")) and found[0].pid != before.pid else [],
        60.0,
        what="another process runs",
    )
    health.status = 200
    assert (after.generation, after.worker) == (before.generation, before.worker)
    wait_for_state(edge, "alive")
    delete(edge, "alive")


def test_a_workload_that_never_gets_ready_holds_no_move_up(edge: Cluster, health: Health) -> None:
    """Deleting what is not ready yet ends it."""
    deploy(edge, "unready", readiness=health.probe(), stop_grace_s=1)
    wait_until(lambda: copies_of(edge, "unready"), what="its process runs")
    delete(edge, "unready")
    wait_for_state(edge, "unready", "STOPPED")
    assert copies_of(edge, "unready") == []


def exits_3(folder: Path) -> str:
    """A module that fails."""
    path = folder / "exit3.wat"
    path.write_text(EXIT_3)
    return str(path)


@pytest.mark.parametrize(
    ("policy", "image", "state", "code"),
    [
        ("never", "fails", "FAILED", 3),
        ("never", "builtin:hello-once", "COMPLETED", 0),
        ("on-failure", "builtin:hello-once", "COMPLETED", 0),
    ],
)
def test_policies_that_let_it_end(
    edge: Cluster, tmp_path: Path, policy: str, image: str, state: str, code: int
) -> None:
    """`never` starts nothing again, `on-failure` not what succeeded; the exit status is told."""
    job_id = f"{policy}-{state}".lower()
    deploy(edge, job_id, image=exits_3(tmp_path) if image == "fails" else image, restart_policy=policy)
    assert wait_for_state(edge, job_id, state)["exit_code"] == code
    assert len(causes(edge, job_id, kind="placed")) == 1


def test_always_starts_again_what_succeeded(edge: Cluster) -> None:
    """A service that ends with status 0 is started again by its worker, in the same generation."""
    deploy(edge, "again", image="builtin:hello-once", restart_policy="always")
    path = "/api/instances/again/0/logs?tail=50"
    wait_until(lambda: edge.http.request("GET", path).text.count("once") >= 3, 60.0, what="it printed three times")
    assert len(causes(edge, "again", kind="placed")) == 1
    delete(edge, "again")


def test_attempts_are_limited_over_worker_and_manager(edge: Cluster, tmp_path: Path) -> None:
    """A job with three attempts is started three times in all, then stays FAILED and says so."""
    deploy(edge, "thrice", image=exits_3(tmp_path), restart_policy="on-failure", max_attempts=3)
    found = wait_for_state(edge, "thrice", "FAILED")
    assert (found["exit_code"], found["attempts"], found["retry_at"]) == (3, 3, None)
    assert "gave up after 3 attempts" in found["detail"]
    assert len(causes(edge, "thrice", kind="placed")) == 1


def waits_s(manager: ManagerSide, job_id: str) -> list[float]:
    """The pauses that the worker told, in order."""
    details = [state["status_detail"] for state in manager.states if state["job_id"] == job_id]
    return [float(found[1]) for text in details if (found := re.search(r"next try in ([\d.]+) s", text))]


def test_a_crash_loop_backs_off(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """The pauses before the tries double from one second, each a quarter up or down."""
    with manager_side(mosquitto) as manager, real_worker(tmp_path / "w", mosquitto, manager):
        for job_id in ("loop-a", "loop-b"):
            manager.command("deploy", job_id, image=exits_3(tmp_path))
        for job_id in ("loop-a", "loop-b"):
            wait_until(lambda job_id=job_id: len(waits_s(manager, job_id)) >= 3, 60.0, what="three pauses")
            for index, wait_s in enumerate(waits_s(manager, job_id)[:3]):
                assert 0.75 * 2**index - 0.1 <= wait_s <= 1.25 * 2**index + 0.1
            manager.command("delete", job_id)
        for job_id in ("loop-a", "loop-b"):
            manager.wait_for(job_id, "STOPPED")


@pytest.mark.real("docker")
def test_exec_probes_and_the_grace_in_a_container(docker_engine: DockerEngine) -> None:
    """An exec check gates and restarts a container; what ignores SIGTERM is killed after its grace."""
    with cluster() as made, contextlib.closing(_Files(docker_engine)) as files:
        made.add_worker(EDGE, DOCKER_HOST=docker_engine.url, WORKER_STOP_WORKLOADS_ON_EXIT="true")
        made.wait_until_node_is(EDGE, "READY")
        check = {"exec": ["test", "-e", "/tmp/ok"], **QUICK}
        job = {"image": BUSYBOX, "technology": "docker", "cmd": ["sleep", "1000"], "stop_grace_s": 1}
        deploy(made, "exec", **job, readiness=check, liveness={**check, "initial_delay_s": 3, "failure_threshold": 5})
        first = files.container()
        assert instance(made, "exec")["state"] in ("SCHEDULED", "STARTING")
        files.run(first, "touch /tmp/ok")
        wait_for_state(made, "exec")
        files.run(first, "rm /tmp/ok")
        wait_until(lambda: files.container() != first, 60.0, what="another container runs")
        delete(made, "exec")
        assert wait_for_state(made, "exec", "STOPPED")["exit_code"] in (None, 137)


class _Files:
    """Looks into the container of the job."""

    def __init__(self, engine: DockerEngine) -> None:
        self._stack = contextlib.ExitStack()
        self._client = self._stack.enter_context(engine.client())

    def container(self) -> str:
        """The id of the one that runs."""

        def only() -> str:
            found = self._client.containers.list(filters={"label": "cluster.job_id=exec"}, ignore_removed=True)
            return str(found[0].id) if found else ""

        return wait_until(only, 60.0, what="its container runs")

    def run(self, container: str, command: str) -> None:
        """A shell command inside it."""
        self._client.containers.get(container).exec_run(["sh", "-c", command])

    def close(self) -> None:
        """Disconnect."""
        self._stack.close()
