"""Unikernels that move while they run, between two real workers with real QEMUs."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster, cluster
from testbed.operating import causes, clusterctl, delete, deploy, instance, move, wait_for_state, wait_until_settled
from testbed.ports import free_port
from testbed.waiting import wait_until

HERE, THERE, BESIDE = "edge-a", "edge-b", "edge-c"
pytestmark = [pytest.mark.real("qemu"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pair(unikernel_image: Path) -> Iterator[Cluster]:
    """A cluster with two real workers on addresses of their own, and one that shares the first one's."""
    with cluster() as made:
        made.add_worker(HERE)
        made.add_worker(THERE)
        made.add_worker(BESIDE, WORKER_IP="127.0.0.2")
        for name in (HERE, THERE, BESIDE):
            made.wait_until_node_is(name, "READY")
        yield made


def start_here(made: Cluster, image: Path, job_id: str, **document: object) -> None:
    """A counting guest on the first worker; it may go to both others."""
    for name in (THERE, BESIDE):
        clusterctl(made, "node", "cordon", name)
    deploy(made, job_id, image=str(image), technology="unikernel", memory=16, stop_grace_s=0, **document)
    wait_for_state(made, job_id)
    for name in (THERE, BESIDE):
        clusterctl(made, "node", "uncordon", name)
    wait_until_it_counts(made, job_id, HERE)


def counts(made: Cluster, job_id: str, worker: str) -> list[int]:
    """What the guest printed on a worker's serial line, in whole lines."""
    logs = sorted((made.folder / worker).glob(f"**/{job_id}.0.*/log"))
    text = logs[-1].read_text(errors="replace") if logs else ""
    return [int(number) for number in re.findall(r"^count (\d+)\n", text, re.MULTILINE)]


def wait_until_it_counts(made: Cluster, job_id: str, worker: str) -> int:
    """Wait for three more numbers; answers the newest."""
    before = len(counts(made, job_id, worker))
    what = f"{job_id} counts on {worker}"
    wait_until(lambda: len(counts(made, job_id, worker)) >= before + 3, 60.0, what=what)
    return counts(made, job_id, worker)[-1]


def first_count(made: Cluster, job_id: str, worker: str) -> int:
    """The first number that the guest printed on a worker; it may still be about to print it."""
    return wait_until(lambda: counts(made, job_id, worker), 60.0, what=f"{job_id} counts on {worker}")[0]


def qemus(made: Cluster, job_id: str) -> dict[str, int]:
    """The QEMUs of a job by worker."""
    found = {}
    for pid in made.processes_below(made.folder):
        try:
            is_qemu = "qemu" in Path(f"/proc/{pid}/comm").read_text()
            place = Path(f"/proc/{pid}/cwd").readlink().relative_to(made.folder.resolve())
        except (OSError, ValueError):
            continue
        if is_qemu and place.name.startswith(f"{job_id}."):
            found[place.parts[0]] = pid
    return found


def wait_until_alone_on(made: Cluster, job_id: str, worker: str) -> None:
    """Wait until one QEMU is left, on `worker`."""
    wait_until(lambda: list(qemus(made, job_id)) == [worker], what=f"only {worker} runs {job_id}")


def move_there(made: Cluster, job_id: str, source: str, target: str) -> None:
    answer = move(made, job_id, source, target)
    assert answer.status == 200, answer
    found = wait_until_settled(made, job_id)
    assert found["node_id"] == made.node(target)["id"], (causes(made, job_id), made.story())


def test_a_guest_moves_there_and_back_and_counts_on(pair: Cluster, unikernel_image: Path) -> None:
    """Its memory arrives: it counts on where it was, one QEMU is left, and the history tells the pause."""
    start_here(pair, unikernel_image, "live", liveness={"tcp": {"port": 1}, "initial_delay_s": 600})
    last = wait_until_it_counts(pair, "live", HERE)
    for source, target in ((HERE, THERE), (THERE, HERE)):
        move_there(pair, "live", source, target)
        assert first_count(pair, "live", target) >= last
        last = wait_until_it_counts(pair, "live", target)
        wait_until_alone_on(pair, "live", target)
    pauses = [
        int(ms) for cause in causes(pair, "live") for ms in re.findall(r"moved live to \w+, paused (\d+) ms", cause)
    ]
    print(f"pauses {pauses} ms")
    assert len(pauses) == 2, causes(pair, "live")
    assert all(pause < 1000 for pause in pauses)
    delete(pair, "live")
    wait_for_state(pair, "live", "STOPPED")
    wait_until(lambda: not qemus(pair, "live"), what="nothing of it is left")


def test_a_port_that_the_target_cannot_bind_leaves_the_guest_counting(pair: Cluster, unikernel_image: Path) -> None:
    """Two workers of one address cannot publish one port: the move fails with QEMU's words, the guest counts on."""
    start_here(pair, unikernel_image, "busy", port=f"{free_port('127.0.0.2')}:80")
    last = wait_until_it_counts(pair, "busy", HERE)
    assert move(pair, "busy", HERE, BESIDE).status == 200
    wait_until(lambda: causes(pair, "busy", kind="move_failed"), 60.0, what="the move fails")
    assert "forwarding rule" in causes(pair, "busy", kind="move_failed")[0]
    assert wait_until_it_counts(pair, "busy", HERE) > last
    assert instance(pair, "busy")["state"] == "RUNNING"
    delete(pair, "busy")


def test_a_target_without_a_guest_boots_afresh(pair: Cluster, unikernel_image: Path) -> None:
    """A source whose QEMU never answers hands nothing over: the target boots afresh, then the old copy stops."""
    start_here(pair, unikernel_image, "stuck")
    os.kill(qemus(pair, "stuck")[HERE], signal.SIGSTOP)
    move_there(pair, "stuck", HERE, THERE)
    assert first_count(pair, "stuck", THERE) == 0
    wait_until_alone_on(pair, "stuck", THERE)
    delete(pair, "stuck")


def test_a_guest_arrives_while_the_targets_worker_is_away(pair: Cluster, unikernel_image: Path) -> None:
    """The waiting QEMU outlives its worker; the one that comes back finds the guest in it and reports it."""
    start_here(pair, unikernel_image, "away")
    last = wait_until_it_counts(pair, "away", HERE)
    source = qemus(pair, "away")[HERE]
    os.kill(source, signal.SIGSTOP)
    assert move(pair, "away", HERE, THERE).status == 200
    wait_until(lambda: causes(pair, "away", kind="successor_starting"), what="the target is on its way")
    wait_until(lambda: list((pair.folder / THERE).glob("**/away.0.*/incoming")), what="the target waits")
    pair.kill(THERE)
    os.kill(source, signal.SIGCONT)
    pair.start_part(THERE)
    found = wait_until_settled(pair, "away")
    assert found["node_id"] == pair.node(THERE)["id"], causes(pair, "away")
    assert first_count(pair, "away", THERE) >= last
    wait_until_it_counts(pair, "away", THERE)
    wait_until_alone_on(pair, "away", THERE)
    delete(pair, "away")
