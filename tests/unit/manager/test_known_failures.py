"""The best-known failures of orchestrators, each made to happen in the simulation, and not happening."""

from itertools import pairwise

from cluster.jobs import OnDisconnect, RestartPolicy
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState
from simulation.broker import Faults
from simulation.worker import SimWorker
from simulation.world import World, service

S = InstanceState
KEY = InstanceKey("web", 0)


def _cluster(machines: int = 2, **facts: object) -> World:
    """A cluster at rest with one instance that runs."""
    world = World(1, machines)
    world.boot()
    world.run(15.0)
    world.deploy(KEY, service("web", **facts))
    while KEY not in world.manager.state.instances or _instance(world).state is not S.RUNNING:
        world.run(0.2)
    return world


def _instance(world: World, key: InstanceKey = KEY) -> Instance:
    return world.manager.state.instances[key]


def _host(world: World) -> SimWorker:
    return next(worker for worker in world.workers if worker.node_id == _instance(world).node_id)


def test_stuck_in_node_scheduled_for_ever() -> None:
    """A command that never arrives does not leave the instance SCHEDULED: it is repeated, then placed anew."""
    world = World(2)
    world.boot()
    world.run(15.0)
    world.broker.faults = Faults(loss=0.0, forgets=True)
    for worker in world.workers:
        world.broker.sessions[worker.node_id].worker = None
    world.deploy(KEY, service("web"))
    world.run(3.0)
    assert _instance(world).state is S.SCHEDULED
    world.run(40.0)
    assert [event.kind for event in _instance(world).events].count("placed") > 1
    for worker in world.workers:
        worker.disconnect()
        worker.connect()
    world.settle()
    assert _instance(world).state is S.RUNNING


def test_duplicates_after_a_partition() -> None:
    """An instance that was replaced during a partition runs once after it: the stale copy is stopped."""
    world = _cluster()
    host = _host(world)
    world.cut(host, 60.0)
    world.run(40.0)
    assert len([ref for worker in world.workers for ref in worker.running()]) == 2
    world.run(40.0)
    assert [ref.generation for worker in world.workers for ref in worker.running()] == [_instance(world).generation]
    assert _host(world) is not host


def test_healthy_restarted_on_reconnect() -> None:
    """A node that is back before anybody took over keeps what runs there, untouched."""
    for seconds, policy in ((9.0, OnDisconnect.REPLACE), (300.0, OnDisconnect.KEEP)):
        world = _cluster(on_disconnect=policy)
        world.cut(_host(world), seconds)
        world.run(seconds + 30.0)
        assert world.runs[KEY] == 1
        assert _instance(world).state is S.RUNNING


def test_healthy_restarted_by_a_restart_of_manager_broker_or_worker() -> None:
    """Processes that crash and return find everything as it was and leave it."""
    world = _cluster()
    world.crash_manager(5.0)
    world.run(30.0)
    world.crash_broker(20.0)
    world.run(40.0)
    world.crash(_host(world), 5.0)
    world.run(30.0)
    assert world.runs[KEY] == 1
    assert _instance(world).state is S.RUNNING


def test_redeploy_storm() -> None:
    """A job that cannot start is tried with growing pauses, not as fast as possible."""
    world = World(3)
    for worker in world.workers:
        worker.start_failure = 1.0
    world.boot()
    world.run(15.0)
    world.deploy(KEY, service("web"))
    world.run(300.0)
    placed = [event for event in _instance(world).events if event.kind == "placed"]
    assert 3 < len(placed) < 40
    pauses = [after.at_ms - before.at_ms for before, after in pairwise(placed)]
    assert pauses[-1] > 2 * pauses[0]


def test_redeploy_storm_when_many_nodes_fall_silent_together() -> None:
    """When most nodes expire together nothing is replaced: the fault is more likely between them and us."""
    world = World(4, machines=20)
    world.boot()
    world.run(15.0)
    keys = [InstanceKey("web", number) for number in range(20)]
    for key in keys:
        world.deploy(key, service("web"))
    world.run(15.0)
    runs = dict(world.runs)
    for worker in world.workers[:15]:
        world.cut(worker, 120.0)
    world.run(200.0)
    assert world.runs == runs
    assert {_instance(world, key).state for key in keys} == {S.RUNNING}


def test_endless_terminating() -> None:
    """What is deleted while its node is dead is STOPPED at once, and stopped for real should the node come back."""
    world = _cluster(machines=1)
    host = _host(world)
    world.cut(host, 120.0)
    world.run(40.0)
    assert world.manager.state.nodes[host.node_id].state is NodeState.DOWN
    world.delete(KEY)
    world.run(1.0)
    assert _instance(world).state is S.STOPPED
    assert host.running()
    world.run(120.0)
    assert not host.running()
    assert not host.machine.instances


def test_a_deletion_is_not_answered_for_ever() -> None:
    """Doubled answers to a deletion end: nothing of it is left on any side, and no command goes round."""
    world = _cluster()
    world.broker.faults = Faults(duplication=1.0, delay_s=3.0)
    world.delete(KEY)
    world.run(60.0)
    world.broker.faults = Faults()
    world.run(30.0)
    sequences = [worker._sequence for worker in world.workers]
    world.run(60.0)
    assert [worker._sequence for worker in world.workers] == sequences


def test_stop_after_never_runs_two_copies() -> None:
    """With stop_after the worker stops its own copy before the manager makes another."""
    world = _cluster(on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=10.0)
    host = _host(world)
    world.cut(host, 200.0)
    copies = []
    for _ in range(100):
        world.run(1.0)
        copies.append(len([ref for worker in world.workers for ref in worker.running()]))
    assert max(copies) == 1
    assert copies[-1] == 1
    assert _host(world) is not host


def test_a_one_shot_is_not_run_again_when_nobody_knows_how_it_ended() -> None:
    """A one-shot on a machine that loses power has an unknown outcome: told, and not run again."""
    world = _cluster(one_shot=True, restart_policy=RestartPolicy.ON_FAILURE)
    world.crash(_host(world), 60.0, power=True)
    world.run(200.0)
    assert world.runs[KEY] == 1
    assert _instance(world).state in (S.FAILED, S.LOST, S.COMPLETED)


def test_a_machine_with_a_new_disk_gets_its_instances_again() -> None:
    """A worker that was installed anew holds nothing: what counted there is placed again, not believed for ever."""
    world = _cluster(machines=1)
    host = _host(world)
    world.crash(host, 2.0, power=True)
    host.wipe()
    world.run(60.0)
    assert world.runs[KEY] == 2
    assert _instance(world).state is S.RUNNING
    assert not world.problems()


def test_five_hundred_workers_drop_and_return() -> None:
    """500 workers that drop and return within 10 s settle within 60 s, and no healthy instance is restarted."""
    world = World(5, machines=500)
    world.manager.is_checked = False
    world.boot()
    world.run(15.0)
    keys = [InstanceKey("web", number) for number in range(500)]
    for key in keys:
        world.deploy(key, service("web"))
    world.run(30.0)
    assert not world.problems()
    for worker in world.workers:
        world.cut(worker, world.rng.uniform(1.0, 10.0))
    world.run(60.0)
    assert not world.problems()
    assert set(world.runs.values()) == {1}
    assert len(world.broker._unacknowledged) == 0
