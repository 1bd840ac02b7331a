"""How a silent node is noticed: the bound from its last heartbeat to the replacement, and who is never judged."""

import signal
import time
from collections.abc import Iterator

import pytest

from testbed.cluster import Cluster, cluster
from testbed.operating import causes, copies_of, delete, deploy, instance, wait_for_state, wait_until_settled
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

LEASE_S, GRACE_S, BOUND_S = 2.0, 1.0, 2.0
NAMES = ("edge-a", "edge-b")
FAST = {"TELEMETRY_INTERVAL_S": "0.2", "INVENTORY_INTERVAL_S": "0.5"}


class Stopwatch:
    """Measures in one thread how late this machine wakes its sleepers: the slack that a bound gets."""

    def __init__(self) -> None:
        self.late_s = 0.0

    def wait_until(self, predicate, timeout: float, what: str) -> float:  # type: ignore[no-untyped-def]
        """When the predicate came true, monotonic; the latest wake-up counts towards `late_s`."""

        def tick() -> bool:
            now = time.monotonic()
            self.late_s = max(self.late_s, now - self._due)
            is_true = bool(predicate())
            self.late_s = max(self.late_s, time.monotonic() - now)
            self._due = time.monotonic() + 0.01
            return is_true

        self._due = time.monotonic() + 0.01
        wait_until(tick, timeout, 0.01, what)
        return time.monotonic()


@pytest.fixture
def pair() -> Iterator[Cluster]:
    """Two real workers under a short lease."""
    with cluster(LEASE_S=f"{LEASE_S}", GRACE_S=f"{GRACE_S}", WILL_GRACE_S=f"{GRACE_S}") as made:
        for name in NAMES:
            made.add_worker(name, **FAST)
        for name in NAMES:
            made.wait_until_node_is(name, "READY")
        yield made


def home_of(made: Cluster, job_id: str) -> tuple[str, str]:
    """The node that runs a job, and the other one."""
    [copy] = copies_of(made, job_id)
    return copy.worker, next(name for name in NAMES if name != copy.worker)


def start_time_s(made: Cluster, stopwatch: Stopwatch) -> float:
    """How long a workload takes here from deploy to RUNNING, which no bound on detection contains."""
    began = time.monotonic()
    deploy(made, "yardstick")
    took_s = stopwatch.wait_until(lambda: instance(made, "yardstick")["state"] == "RUNNING", 60.0, "it runs") - began
    delete(made, "yardstick")
    return took_s


@pytest.mark.parametrize("is_abrupt", [False, True], ids=["silence", "last-will"])
def test_from_the_last_heartbeat_to_the_replacement(pair: Cluster, is_abrupt: bool) -> None:
    """A silent worker's job runs elsewhere within lease + grace + 2 s; after a last will within grace + 2 s."""
    stopwatch = Stopwatch()
    slack_s = start_time_s(pair, stopwatch)
    deploy(pair, "web")
    wait_for_state(pair, "web")
    home, other = home_of(pair, "web")
    worker = pair.parts[home]
    began = time.monotonic()
    # stopped, its connection stays open and no will is sent; killed, the broker sends the will at once
    worker.signal(signal.SIGKILL if is_abrupt else signal.SIGSTOP)
    other_id = pair.node(other)["id"]

    def is_replaced() -> bool:
        found = instance(pair, "web")
        return found["state"] == "RUNNING" and found["node_id"] == other_id

    try:
        took_s = stopwatch.wait_until(is_replaced, 60.0, "the replacement runs") - began
    finally:
        if is_abrupt:
            worker.wait()
            worker.start()
        else:
            worker.signal(signal.SIGCONT)
    bound_s = GRACE_S + BOUND_S + (0.0 if is_abrupt else LEASE_S)
    print(f"{took_s:.2f} s of {bound_s:.1f} s; a start takes {slack_s:.2f} s, late by {stopwatch.late_s:.2f} s")
    assert took_s <= bound_s + slack_s + 4 * stopwatch.late_s
    assert took_s >= GRACE_S + (0.0 if is_abrupt else LEASE_S - 0.5)
    words = "last will" if is_abrupt else "nothing heard of it for"
    assert any(words in cause for cause in causes(pair, "web", kind="unknown"))
    wait_until(lambda: [c.worker for c in copies_of(pair, "web")] == [other], 60.0, what="the stale copy is stopped")


def test_a_suspect_node_gets_nothing_new() -> None:
    """Between lease and grace a node is SUSPECT: it keeps what it has and gets nothing new."""
    with cluster(LEASE_S="1.5", GRACE_S="600") as made:
        silent, alive = WorkerNode(made, "silent"), WorkerNode(made, "alive")
        with nodes(silent, alive):
            deploy(made, "here", constraints=[{"type": "direct", "node": "silent"}])
            wait_for_state(made, "here")
            silent.fall_silent()
            made.wait_until_node_is("silent", "SUSPECT")
            for number in range(4):
                deploy(made, "new", number)
            for number in range(4):
                assert wait_for_state(made, "new", number=number)["node_id"] == alive.id
            assert instance(made, "here")["state"] == "RUNNING"
            silent.speak_again()
            made.wait_until_node_is("silent", "READY")
            assert silent.starts == {("here", 0): 1}


def test_keep_stays_where_it_is(pair: Cluster) -> None:
    """A `keep` job on a node that is DOWN is UNKNOWN, never re-placed, and RUNNING again, untouched, on return."""
    deploy(pair, "kept", on_disconnect="keep")
    wait_for_state(pair, "kept")
    before = copies_of(pair, "kept")
    home, _ = home_of(pair, "kept")
    pair.kill(home)
    pair.wait_until_node_is(home, "DOWN")
    assert wait_for_state(pair, "kept", "UNKNOWN")["node_id"] == pair.node(home)["id"]
    pair.start_part(home)
    assert wait_until_settled(pair, "kept")["node_id"] == pair.node(home)["id"]
    assert copies_of(pair, "kept") == before


def test_a_worker_without_leases_stops_its_stop_after_copy(pair: Cluster) -> None:
    """With the broker gone the worker stops its own copy in time; one copy runs again when the broker is back."""
    deploy(pair, "single", on_disconnect="stop_after", stop_after_s=3, stop_grace_s=1)
    wait_for_state(pair, "single")
    counts = []
    pair.kill("broker")
    wait_until(lambda: copies_of(pair, "single") == [], 30.0, what="the worker has stopped its copy")
    pair.start_part("broker")

    def is_replaced() -> bool:
        counts.append(len(copies_of(pair, "single")))
        return instance(pair, "single")["state"] == "RUNNING" and counts[-1] == 1

    pair.wait_until_ready()
    wait_until(is_replaced, 60.0, what="one copy runs")
    assert max(counts) == 1
    assert any("no lease from the manager" in cause for cause in causes(pair, "single"))


def test_a_restarted_manager_judges_nobody_within_one_lease() -> None:
    """A manager that was away longer than lease and grace finds every node as it was: nothing is re-placed."""
    with cluster(LEASE_S="3", GRACE_S="0", MASS_EXPIRY_COUNT="99") as made:
        workers = [WorkerNode(made, f"edge-{number}") for number in range(3)]
        with nodes(*workers):
            for number in range(6):
                deploy(made, "web", number)
            for number in range(6):
                wait_for_state(made, "web", number=number)
            made.kill("manager")
            for worker in workers:
                worker.fall_silent()
            time.sleep(4.0)  # the outage is longer than lease and grace
            made.start_part("manager")
            made.wait_until_ready()
            for worker in workers:
                worker.speak_again()
            for worker in workers:
                made.wait_until_node_is(worker.name, "READY")
            assert [node["detail"] for node in made.http.get("/api/nodes")["nodes"] if node["state"] == "DOWN"] == []
            for worker in workers:
                assert set(worker.starts.values()) == {1}
            assert not [c for n in range(6) for c in causes(made, "web", n, kind="unknown")]


def test_a_mass_expiry_pauses_replacement() -> None:
    """When more than a third of the nodes, and at least five, fall silent together, nothing is re-placed."""
    with cluster(LEASE_S="1.5", GRACE_S="0.5") as made:
        workers = [WorkerNode(made, f"edge-{number}") for number in range(8)]
        with nodes(*workers):
            for number in range(16):
                deploy(made, "web", number)
            for number in range(16):
                wait_for_state(made, "web", number=number)
            for worker in workers[:6]:
                worker.fall_silent()
            for worker in workers[:6]:
                made.wait_until_node_is(worker.name, "SUSPECT")
            made.parts["manager"].wait_for_output("re-placement pauses")
            time.sleep(2.0)  # far beyond the grace
            for worker in workers[:6]:
                worker.speak_again()
            for worker in workers[:6]:
                made.wait_until_node_is(worker.name, "READY")
            made.parts["manager"].wait_for_output("re-placement goes on")
            assert {count for worker in workers for count in worker.starts.values()} == {1}
