"""A random schedule of clients' wishes, of operators' and of faults, wholly decided by its seed."""

import random
from collections.abc import Callable

from cluster.jobs import JobSpec, OnDisconnect
from manager.domain.model import InstanceKey
from simulation.broker import Faults
from simulation.world import World, one_shot, service

FAULTY_S = 60.0
CALM = Faults()


def play(seed: int) -> float:
    """Wishes and faults for a minute, then calm until all is settled; answers how long that took."""
    rng = random.Random(f"schedule {seed}")
    world = World(seed, machines=rng.randint(2, 5))
    world.broker.faults = Faults(
        loss=rng.choice((0.0, 0.05, 0.3)),
        duplication=rng.choice((0.0, 0.1, 0.5)),
        delay_s=rng.choice((0.05, 0.5, 3.0)),
        forgets=rng.random() < 0.3,
    )
    world.manager.plans_fail = rng.choice((0.0, 0.3))
    for worker in world.workers:
        worker.start_s = rng.choice((0.2, 2.0, 10.0))
        worker.start_failure = rng.choice((0.0, 0.0, 0.3))
    world.boot()
    for at_s, act in _acts(world, rng):
        world.loop.after(at_s, act)
    world.run(FAULTY_S)
    _calm_down(world)
    return world.settle()


def _calm_down(world: World) -> None:
    world.broker.faults = CALM
    world.broker.cut.clear()
    world.manager.plans_fail = 0.0
    world.heal_store()
    if not world.broker.is_up:
        world.broker.restart()
    if not world.manager.is_up:
        world.manager.boot()
    for worker in world.workers:
        worker.start_failure = 0.0
        if not worker.is_up:
            worker.boot()


def _acts(world: World, rng: random.Random) -> list[tuple[float, Callable[[], None]]]:
    keys = [InstanceKey(f"job{number}", 0) for number in range(rng.randint(2, 6))]
    specs = {key: _specs(rng, key.job_id) for key in keys}
    acts = [(rng.uniform(0.0, 10.0), _deploy(world, key, specs[key][0])) for key in keys]
    acts += [(rng.uniform(5.0, FAULTY_S), _wish(world, rng, keys, specs)) for _ in range(rng.randint(0, 12))]
    acts += [(rng.uniform(0.0, FAULTY_S), _fault(world, rng)) for _ in range(rng.randint(0, 10))]
    return acts


def _specs(rng: random.Random, name: str) -> list[JobSpec]:
    if rng.random() < 0.2:
        return [one_shot(name)]
    policy = rng.choice((OnDisconnect.REPLACE, OnDisconnect.REPLACE, OnDisconnect.KEEP, OnDisconnect.STOP_AFTER))
    demands = (0, 500, 1000, 2000)
    return [
        service(name, rng.choice(demands), on_disconnect=policy, stop_after_s=10.0),
        service(name, rng.choice(demands), on_disconnect=policy, stop_after_s=10.0, command=("changed",)),
    ]


def _deploy(world: World, key: InstanceKey, spec: JobSpec) -> Callable[[], None]:
    return lambda: world.deploy(key, spec)


def _wish(
    world: World, rng: random.Random, keys: list[InstanceKey], specs: dict[InstanceKey, list[JobSpec]]
) -> Callable[[], None]:
    key = rng.choice(keys)
    kind = rng.choice(("deploy", "deploy", "delete", "move", "move", "update", "drain"))
    if kind == "delete":
        return lambda: world.delete(key)
    if kind == "move":
        return lambda: world.move(key)
    if kind == "update":
        spec, rolls_back = rng.choice(specs[key]), rng.random() < 0.7
        return lambda: world.update(key, spec, rolls_back=rolls_back)
    if kind == "drain":
        worker, seconds = rng.choice(world.workers), rng.uniform(5.0, 30.0)
        return lambda: world.drain(worker, seconds)
    return _deploy(world, key, rng.choice(specs[key]))


def _fault(world: World, rng: random.Random) -> Callable[[], None]:
    worker = rng.choice(world.workers)
    seconds = rng.choice((rng.uniform(0.5, 9.0), rng.uniform(9.0, 50.0)))
    faults: list[Callable[[], None]] = [
        lambda: world.cut(worker, seconds),
        lambda: world.cut(worker, seconds),
        lambda: world.crash(worker, seconds),
        lambda: world.crash(worker, seconds, power=True),
        lambda: world.crash_manager(min(seconds, 20.0)),
        lambda: world.crash_broker(min(seconds, 20.0)),
        lambda: world.fail_store(min(seconds, 10.0)),
        lambda: world.fail_workload(worker),
    ]
    return rng.choice(faults)
