"""The best-known failures of orchestrators, each made to happen in the simulation, and not happening."""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from cluster.jobs import JobSpec, OnDisconnect, RestartPolicy
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState
from simulation.faults import Faults
from simulation.jobs import service
from simulation.node import SimNode
from simulation.rest import problems_of, settle
from simulation.truth import Slot
from simulation.worker import SimWorker
from simulation.world import World

S = InstanceState
SLOT = ("web", 0)
Cluster = Callable[..., "Bench"]


class Bench:
    """A cluster at rest, and what goes wrong with it."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.world = World(1, kinds)
        self.faults = Faults(self.world, random.Random(1))
        self.world.boot()
        self.world.run(10.0)

    def deploy(self, *slots: Slot, spec: JobSpec | None = None, **facts: object) -> None:
        """Instances of one job that run, all of them."""
        wanted = list(slots) or [SLOT]
        self.do(lambda: self.world.clients.deploy(wanted, spec or service("web", image="web:v1", **facts)))
        for slot in wanted:
            self.run_until(lambda slot=slot: self.knows(slot) and bool(self.copies(slot)))

    def do(self, function: Callable[[], None]) -> None:
        """Something happens now."""
        self.world.do(function)

    def run_until(self, is_true: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Let time pass until something is true."""
        end_s = self.world.now_s() + limit_s
        while not is_true():
            assert self.world.now_s() < end_s, self.world.story.text(40)
            self.world.run(0.2)

    def knows(self, slot: Slot = SLOT) -> bool:
        """Whether the manager knows an instance."""
        return InstanceKey(*slot) in self._core.state.instances

    def instance(self, slot: Slot = SLOT) -> Instance:
        """As the manager has it."""
        return self._core.state.instances[InstanceKey(*slot)]

    def events(self, slot: Slot = SLOT) -> list[str]:
        """The kinds of what became of an instance, as saved."""
        return [event.kind for event in self.world.disk.log[f"instance:{InstanceKey(*slot)}"]]

    def host(self, slot: Slot = SLOT) -> SimNode:
        """The machine on which an instance is taken to be."""
        return self.world.nodes[self.world.name_of(self.instance(slot).node_id)]

    def copies(self, slot: Slot = SLOT) -> int:
        """How many really run."""
        return len(self.world.copies.of(slot))

    def starts(self, slot: Slot = SLOT) -> int:
        """How often one really began."""
        return self.world.copies.begun.get(slot, 0)

    @property
    def _core(self):  # type: ignore[no-untyped-def]
        assert self.world.manager.core is not None
        return self.world.manager.core


@pytest.fixture(name="cluster")
def _cluster() -> Iterator[Cluster]:
    made: list[Bench] = []

    def make(*kinds: str) -> Bench:
        made.append(Bench(kinds or ("worker", "worker")))
        return made[-1]

    yield make
    for bench in made:
        bench.world.close()


def test_stuck_in_node_scheduled_for_ever(cluster: Cluster) -> None:
    """A command that never arrives does not leave the instance SCHEDULED: it is repeated, then placed anew."""
    bench = cluster()
    clients = [node.client for node in bench.world.nodes.values() if node.client]
    hearing = [client.on_message for client in clients]
    for client in clients:
        client.on_message = lambda _message: None
    bench.do(lambda: bench.world.clients.deploy([SLOT], service("web", image="web:v1")))
    bench.world.run(5.0)
    assert bench.instance().state is S.SCHEDULED
    bench.run_until(lambda: bench.events().count("placed") > 1)
    for client, on_message in zip(clients, hearing, strict=True):
        client.on_message = on_message
    settle(bench.world, 200.0)
    assert bench.instance().state is S.RUNNING


def test_duplicates_after_a_partition(cluster: Cluster) -> None:
    """An instance that was replaced during a partition runs once after it: the stale copy is stopped."""
    bench = cluster("worker", "worker", "worker")
    bench.deploy()
    host = bench.host()
    bench.do(lambda: bench.faults.cut([host], 60.0))
    bench.world.run(50.0)
    assert bench.copies() == 2
    bench.world.run(40.0)
    assert [copy.generation for copy in bench.world.copies.of(SLOT)] == [bench.instance().generation]
    assert bench.host() is not host


@pytest.mark.parametrize(("policy", "seconds"), [(OnDisconnect.REPLACE, 9.0), (OnDisconnect.KEEP, 300.0)])
def test_healthy_restarted_on_reconnect(cluster: Cluster, policy: OnDisconnect, seconds: float) -> None:
    """A node that is back before anybody took over keeps what runs there, untouched."""
    bench = cluster("worker", "worker", "worker")
    bench.deploy(on_disconnect=policy)
    bench.do(lambda: bench.faults.cut([bench.host()], seconds))
    bench.world.run(seconds + 30.0)
    assert bench.starts() == 1
    assert bench.instance().state is S.RUNNING


@pytest.mark.parametrize("kind", ["worker", "seed", "mute", "engine A", "engine C"])
def test_healthy_restarted_by_a_restart_of_manager_broker_or_worker(cluster: Cluster, kind: str) -> None:
    """Processes that crash and return find everything as it was and leave it, whatever kind the node is of."""
    bench = cluster(kind)
    bench.deploy()
    bench.do(lambda: bench.faults.kill_manager(5.0))
    bench.world.run(30.0)
    bench.do(lambda: bench.faults.crash_broker(20.0))
    bench.world.run(90.0)
    if not kind.startswith("engine"):  # which remove their containers when they start
        bench.do(lambda: bench.faults.crash(bench.host(), 5.0))
        bench.world.run(30.0)
    assert bench.starts() == 1
    assert bench.instance().state in (S.RUNNING, S.STARTING)


def test_redeploy_storm(cluster: Cluster) -> None:
    """A job that cannot start is tried with growing pauses, not as fast as possible."""
    bench = cluster()
    for node in bench.world.nodes.values():
        node.start_failure = 1.0
    bench.do(lambda: bench.world.clients.deploy([SLOT], service("web", image="web:v1")))
    bench.world.run(300.0)
    events = bench.world.disk.log[f"instance:{InstanceKey(*SLOT)}"]
    placed_ms = [event.at_ms for event in events if event.kind == "placed"]
    assert 3 < len(placed_ms) < 40
    pauses_ms = [after - before for before, after in pairwise(placed_ms)]
    assert pauses_ms[-1] > 2 * pauses_ms[0]


def test_redeploy_storm_when_many_nodes_fall_silent_together(cluster: Cluster) -> None:
    """When most nodes expire together nothing is replaced: the fault is more likely between them and us."""
    bench = cluster(*["worker"] * 20)
    slots = [("web", number) for number in range(20)]
    bench.deploy(*slots)
    bench.do(lambda: bench.faults.cut(list(bench.world.nodes.values())[:15], 100.0))
    bench.world.run(200.0)
    assert [bench.starts(slot) for slot in slots] == [1] * 20
    assert {bench.instance(slot).state for slot in slots} == {S.RUNNING}


def test_endless_terminating(cluster: Cluster) -> None:
    """What is deleted while its node is dead is STOPPED at once, and stopped for real should the node come back."""
    bench = cluster("worker", "worker")
    bench.deploy()
    host = bench.host()
    bench.do(lambda: bench.faults.cut([host], 120.0))
    bench.run_until(lambda: bench.instance().node_id == "" or bench.host() is not host)
    assert bench._core.state.find_node(host.name).state is NodeState.DOWN
    bench.do(lambda: bench.world.clients.delete(*SLOT))
    bench.world.run(5.0)
    assert bench.instance().state is S.STOPPED
    assert host.running()
    settle(bench.world, 200.0)
    assert not host.running()


def test_a_deletion_is_not_answered_for_ever(cluster: Cluster) -> None:
    """Doubled answers to a deletion end: nothing of it is left on any side, and no command goes round."""
    bench = cluster()
    bench.deploy()
    bench.world.quality.duplication, bench.world.quality.delay_s = 1.0, 3.0
    bench.do(lambda: bench.world.clients.delete(*SLOT))
    bench.world.run(60.0)
    bench.world.quality.duplication, bench.world.quality.delay_s = 0.0, 0.05
    bench.world.run(30.0)
    told = bench.world.story.text(10**9).count("is told delete")
    bench.world.run(60.0)
    assert bench.world.story.text(10**9).count("is told delete") == told
    assert not bench.copies()


def test_stop_after_never_runs_two_copies(cluster: Cluster) -> None:
    """With stop_after the worker stops its own copy before the manager makes another."""
    bench = cluster("worker", "worker", "worker")
    bench.deploy(on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=10.0)
    host = bench.host()
    bench.do(lambda: bench.faults.cut([host], 200.0))
    copies = []
    for _ in range(100):
        bench.world.run(1.0)
        copies.append(bench.copies())
    assert max(copies) == 1
    assert copies[-1] == 1
    assert bench.host() is not host


def test_a_one_shot_is_not_run_again_when_nobody_knows_how_it_ended(cluster: Cluster) -> None:
    """A one-shot on a machine that loses power has an unknown outcome: told, and not run again."""
    bench = cluster()
    bench.deploy(one_shot=True, restart_policy=RestartPolicy.ON_FAILURE)
    bench.do(lambda: bench.faults.power_off([bench.host()], 60.0))
    bench.world.run(200.0)
    assert bench.starts() == 1
    assert bench.instance().state in (S.FAILED, S.LOST, S.COMPLETED)


def test_a_machine_with_a_new_disk_gets_its_instances_again(cluster: Cluster) -> None:
    """A worker that was installed anew holds nothing: what counted there is placed again, not believed for ever."""
    bench = cluster("worker")
    bench.deploy()
    host = bench.host()
    assert isinstance(host, SimWorker)
    bench.do(lambda: bench.faults.reinstall(host, 2.0))
    settle(bench.world, 200.0)
    assert bench.starts() == 2
    assert bench.instance().state is S.RUNNING


def test_five_hundred_workers_drop_and_return(cluster: Cluster) -> None:
    """500 workers that drop and return within 10 s settle within 60 s, and no healthy instance is restarted."""
    bench = cluster(*["worker"] * 500)
    slots = [("web", number) for number in range(500)]
    bench.deploy(*slots)
    rng = random.Random(2)

    def drop() -> None:
        for node in bench.world.nodes.values():
            bench.faults.cut([node], rng.uniform(1.0, 10.0))

    bench.do(drop)
    bench.world.run(60.0)
    assert not problems_of(bench.world)
    assert {bench.starts(slot) for slot in slots} == {1}
