"""Real jobs of each technology on a real worker: deploy, RUNNING, output, delete, gone; nothing but HTTP is used."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster, cluster
from testbed.docker_engine import BUSYBOX, DockerEngine
from testbed.waiting import wait_until

WORKER = "edge-1"


@pytest.fixture
def running() -> Iterator[Cluster]:
    """A cluster that has no worker yet."""
    with cluster() as made:
        yield made


def deploy(made: Cluster, job: str, **document: object) -> None:
    """Deploy instance 0 and wait until it RUNs."""
    answer = made.http.request("POST", f"/api/service/{job}/0", {"name": job, **document})
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    wait_for_state(made, job, "RUNNING")


def wait_for_state(made: Cluster, job: str, state: str) -> dict[str, object]:
    """Wait until instance 0 is in a state."""

    def look() -> dict[str, object]:
        found: dict[str, object] = made.http.get(f"/api/instances/{job}/0")
        return found if found["state"] == state else {}

    return wait_until(look, timeout=60.0, what=f"{job}/0 is {state}")


def delete(made: Cluster, job: str) -> None:
    """Delete instance 0 and wait until the cluster calls it STOPPED."""
    answer = made.http.request("DELETE", f"/api/service/{job}/0")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    wait_for_state(made, job, "STOPPED")


def wait_for_logs(made: Cluster, job: str, text: str) -> None:
    """Wait until the instance's output has `text`."""
    path = f"/api/instances/{job}/0/logs"

    def output() -> str:
        found = made.http.request("GET", path).text
        return found if text in found else ""

    wait_until(output, interval=0.1, what=f"{text!r} in the logs of {job}\n{made.http.request('GET', path)}")


def whole_life(made: Cluster, job: str, text: str, count: Callable[[], int], **document: object) -> None:
    """From deploy to gone; `count` tells how many copies really run on the machine."""
    made.wait_until_node_is(WORKER, "READY")
    deploy(made, job, **document)
    assert count() == 1
    wait_for_logs(made, job, text)
    delete(made, job)
    wait_until(lambda: count() == 0, what="the workload is gone")


def test_wasm_job_lives_from_deploy_to_delete(running: Cluster) -> None:
    """A bundled wasm module really runs, its output is read over HTTP, and deleting it ends its process."""
    running.add_worker(WORKER, WORKER_TECHNOLOGIES="wasm")
    runs = running.folder / WORKER / "wasm"
    whole_life(
        running,
        "hello",
        "hello from wasm",
        lambda: len({Path(f"/proc/{pid}/cwd").resolve() for pid in running.processes_below(runs)}),
        image="builtin:hello",
        technology="wasm",
    )


@pytest.mark.real("docker")
def test_container_lives_from_deploy_to_delete(running: Cluster, docker_engine: DockerEngine) -> None:
    """A container really runs on the engine, its output is read over HTTP, and deleting it removes it."""
    running.add_worker(WORKER, WORKER_TECHNOLOGIES="docker", DOCKER_HOST=docker_engine.url)

    def count() -> int:
        with docker_engine.client() as client:
            return len(client.containers.list(ignore_removed=True))

    whole_life(
        running,
        "box",
        "hello from a container",
        count,
        image=BUSYBOX,
        technology="docker",
        cmd=["sh", "-c", "echo hello from a container; exec sleep 1000"],
        memory=32,
        stop_grace_s=0,
    )


@pytest.mark.real("qemu")
def test_unikernel_lives_from_deploy_to_delete(running: Cluster, unikernel_image: Path) -> None:
    """A unikernel really boots in QEMU, its serial output is read over HTTP, and deleting it ends its machine."""
    running.add_worker(WORKER, WORKER_TECHNOLOGIES="unikernel")

    def count() -> int:
        found = running.processes_below(running.folder / WORKER / "unikernel")
        return sum(b"qemu-system" in Path(f"/proc/{pid}/exe").resolve().name.encode() for pid in found)

    whole_life(
        running,
        "kernel",
        "count 1",
        count,
        image=str(unikernel_image),
        technology="unikernel",
        cmd=["interval=200"],
        memory=16,
        stop_grace_s=0.5,
    )
