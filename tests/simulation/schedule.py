"""A random schedule of clients' wishes, of operators' and of faults, wholly decided by its seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.jobs import Constraint, JobSpec, OnDisconnect
from simulation.faults import Faults
from simulation.jobs import one_shot, service
from simulation.node import SimNode
from simulation.rest import settle
from simulation.truth import Slot
from simulation.worker import SimWorker
from simulation.world import World

KINDS = ("worker", "worker", "worker", "seed", "mute", "engine A", "engine C")
SIZES = (1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 12)
BEGIN_S = 8.0
FAULTY_S = 60.0
SETTLE_S = 900.0
IMAGE = "docker.io/library/app:"
Act = tuple[float, Callable[[], None]]


@dataclass(frozen=True)
class Family:
    """What a schedule is about: shares of wishes, of faults of nodes, and of faults that all share."""

    name: str
    wishes: int
    nodes: int
    shared: int
    is_calm: bool = True


FAMILIES = (
    Family("everything", wishes=10, nodes=5, shared=4, is_calm=False),
    Family("everything", wishes=10, nodes=5, shared=4, is_calm=False),
    Family("outages", wishes=0, nodes=0, shared=5),
    Family("outages", wishes=2, nodes=0, shared=5, is_calm=False),
    Family("nodes", wishes=0, nodes=4, shared=0),
    Family("nodes", wishes=3, nodes=5, shared=0, is_calm=False),
    Family("wishes", wishes=16, nodes=0, shared=5, is_calm=False),
    Family("together", wishes=0, nodes=0, shared=1),
)


class Schedule:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rng = rng = random.Random(f"schedule {seed}")
        self.family = FAMILIES[seed % len(FAMILIES)]
        count = rng.choice(SIZES)
        kinds = [rng.choice(KINDS) for _ in range(count)]
        hold_s = rng.choice((120.0, 120.0, 20.0))
        self.world = World(
            seed,
            kinds,
            cpu_millicores=rng.choice((2000, 4000)),
            is_text=rng.random() < 0.2,
            forgets=rng.random() < 0.3,
            mass_hold_s=hold_s,
        )
        self.faults = Faults(self.world, rng)
        self._marks = 0
        self._slots: list[Slot] = []
        self._scaled: list[str] = []
        self._specs: dict[str, JobSpec] = {}

    def play(self) -> float:
        """Wishes and faults for a while, then calm until all is at rest; answers how long that took."""
        world, rng = self.world, self._rng
        world.story.tell(
            f"family {self.family.name},",
            f"hold {world.rules.hold_s:.0f} s,",
            *(f"{node.name} {node.kind}," for node in world.nodes.values()),
        )
        self._worsen()
        world.boot()
        for at_s, act in sorted(self._acts(), key=lambda item: item[0]):
            world.loop.call_at(at_s, act)
        world.run(BEGIN_S + FAULTY_S * rng.choice((1.0, 1.0, 2.0)))
        world.do(self.faults.calm)
        return settle(world, SETTLE_S)

    def _worsen(self) -> None:
        world, rng = self.world, self._rng
        if not self.family.is_calm:
            world.quality.loss = rng.choice((0.0, 0.0, 0.0, 0.05))
            world.quality.duplication = rng.choice((0.0, 0.1, 0.5))
            world.quality.delay_s = rng.choice((0.05, 0.5, 3.0))
            for node in world.nodes.values():
                node.start_failure = rng.choice((0.0, 0.0, 0.3))
                node.has_failing_starts |= node.start_failure > 0.0
        for node in world.nodes.values():
            node.start_s = rng.choice((0.2, 2.0, 10.0))

    # What is asked for

    def _acts(self) -> list[Act]:
        rng, family = self._rng, self.family
        acts = [(rng.uniform(3.0, BEGIN_S), self._new_job(number)) for number in range(rng.randint(2, 6))]
        end_s = BEGIN_S + FAULTY_S
        acts += [(rng.uniform(BEGIN_S, end_s), self._wish()) for _ in range(rng.randint(0, family.wishes))]
        acts += [(rng.uniform(BEGIN_S, end_s), self._node_fault()) for _ in range(rng.randint(0, family.nodes))]
        acts += [(rng.uniform(BEGIN_S, end_s), self._shared_fault()) for _ in range(rng.randint(0, family.shared))]
        if family.name == "together":
            acts.append((rng.uniform(BEGIN_S + 5.0, BEGIN_S + 20.0), self._together()))
        return acts

    def _new_job(self, number: int) -> Callable[[], None]:
        rng, clients = self._rng, self.world.clients
        is_once = rng.random() < 0.12
        job_id = f"{'once' if is_once else 'job'}{number}"
        spec = self._first_spec(job_id, is_once=is_once)
        self._specs[job_id] = spec
        if not is_once and rng.random() < 0.2:
            self._scaled.append(job_id)
            count = rng.randint(1, 4)

            def begin() -> None:
                clients.deploy([(job_id, 0)], spec)
                self.world.loop.call_later(2.0, clients.scale, job_id, count)

            return begin
        slots = [(job_id, index) for index in range(1 if is_once else rng.choice((1, 1, 2)))]
        self._slots += slots
        return lambda: clients.deploy(slots, spec)

    def _first_spec(self, job_id: str, *, is_once: bool) -> JobSpec:
        rng = self._rng
        policy = rng.choice((OnDisconnect.REPLACE,) * 4 + (OnDisconnect.KEEP, OnDisconnect.STOP_AFTER))
        constraints: tuple[Constraint, ...] = ()
        if rng.random() < 0.3:
            names = rng.sample(sorted(self.world.nodes), rng.randint(1, len(self.world.nodes)))
            constraints = (Constraint(type="direct", nodes=tuple(names)),)
        demand = rng.choice((0, 500, 1000, 2000))
        make = one_shot if is_once else service
        return make(
            job_id, demand, image=self._image(), constraints=constraints, on_disconnect=policy, stop_after_s=10.0
        )

    def _image(self) -> str:
        self._marks += 1
        return f"{IMAGE}v{self._marks}"

    def _wish(self) -> Callable[[], None]:
        rng, clients = self._rng, self.world.clients
        kinds = ["deploy", "repeat", "delete", "move", "move", "update", "drain", "cordon", "remove"]
        if self._scaled:
            kinds += ["scale", "scale"]
        kind = rng.choice(kinds)
        if kind in ("drain", "cordon", "remove"):
            return self._operate(kind, rng.choice(list(self.world.nodes.values())))
        if kind == "scale" or not self._slots:
            job_id, count = rng.choice(self._scaled), rng.randint(0, 5)
            return lambda: clients.scale(job_id, count)
        slot = rng.choice(self._slots)
        job_id = slot[0]
        if kind == "delete":
            return lambda: clients.delete(*slot)
        if kind == "move":
            return lambda: clients.move(slot)
        spec = self._specs[job_id]
        if kind != "repeat":
            demand = rng.choice((0, 500, 1000))
            make = one_shot if spec.one_shot else service
            spec = self._specs[job_id] = make(
                job_id,
                demand,
                image=self._image(),
                constraints=spec.constraints,
                on_disconnect=spec.on_disconnect,
                stop_after_s=10.0,
            )
        if kind == "update":
            batch, rolls_back = rng.randint(1, 2), rng.random() < 0.7
            return lambda: clients.update(job_id, spec, batch_size=batch, rolls_back=rolls_back)
        return lambda: clients.deploy([slot], spec)

    def _operate(self, kind: str, node: SimNode) -> Callable[[], None]:
        rng, clients, world = self._rng, self.world.clients, self.world
        seconds = rng.uniform(5.0, 30.0)
        if kind == "drain":
            return lambda: clients.drain(node.name, seconds)
        if kind == "cordon":
            is_cordoned = rng.random() < 0.5
            end_s = max(BEGIN_S + FAULTY_S + 1.0, 0.0)

            def cordon() -> None:
                clients.cordon(node.name, is_cordoned=is_cordoned)
                world.loop.call_at(
                    max(end_s, world.now_s() + 1.0), lambda: clients.cordon(node.name, is_cordoned=False)
                )

            return cordon
        return lambda: self._remove(node, seconds)

    def _remove(self, node: SimNode, seconds: float) -> None:
        """A worker of ours is removed, and installed anew."""
        world = self.world
        if not isinstance(node, SimWorker):
            return
        self.faults.reinstall(node, seconds)
        world.loop.call_later(seconds / 2, world.clients.remove, node.name)

    # What goes wrong

    def _seconds(self) -> float:
        rng = self._rng
        return rng.choice((rng.uniform(0.5, 9.0), rng.uniform(9.0, 25.0), rng.uniform(25.0, 60.0)))

    def _some(self) -> Sequence[SimNode]:
        rng, nodes = self._rng, list(self.world.nodes.values())
        return rng.sample(nodes, rng.randint(1, len(nodes)))

    def _node_fault(self) -> Callable[[], None]:
        rng, faults = self._rng, self.faults
        node, seconds = rng.choice(list(self.world.nodes.values())), self._seconds()
        choices: list[Callable[[], None]] = [
            lambda: faults.cut([node], seconds),
            lambda: faults.cut([node], seconds),
            lambda: faults.crash(node, seconds),
            lambda: faults.power_off([node], seconds),
            lambda: faults.flap(node, rng.randint(2, 8)),
            lambda: faults.fail_workload(node),
        ]
        if self.family.name != "nodes":
            some = self._some()
            choices.append(lambda: faults.cut(some, seconds))
        if isinstance(node, SimWorker) and not self.family.is_calm:
            choices.append(lambda: faults.reinstall(node, seconds))
        return rng.choice(choices)

    def _together(self) -> Callable[[], None]:
        """Several machines lose their network, or all: for a moment, beyond the lease, beyond the hold."""
        rng, faults = self._rng, self.faults
        some, seconds = self._some(), rng.choice((5.0, 14.0, 25.0, 50.0, 60.0 + self.world.rules.hold_s))
        if rng.random() < 0.2:
            return lambda: faults.power_off(some, seconds)
        confirm_s = rng.choice((0.0, 20.0))

        def act() -> None:
            faults.cut(some, seconds)
            if confirm_s:
                self.world.loop.call_later(confirm_s, self.world.clients.confirm_lost, [])

        return act

    def _shared_fault(self) -> Callable[[], None]:
        rng, faults = self._rng, self.faults
        seconds = self._seconds()
        choices: list[Callable[[], None]] = [
            lambda: faults.crash_broker(seconds),
            lambda: faults.crash_broker(seconds),
            lambda: faults.flap_broker(rng.randint(2, 5)),
            lambda: faults.kill_manager(seconds),
            lambda: faults.kill_manager(min(seconds, 3.0)),
            lambda: faults.stop_manager(seconds),
            lambda: faults.cut_manager(seconds),
            lambda: faults.flap_manager(rng.randint(2, 6)),
            lambda: faults.trouble_store(seconds, is_away=True),
            lambda: faults.trouble_store(seconds, is_locked=True),
            lambda: faults.trouble_store(seconds, latency_s=(0.5, 30.0)),
            lambda: faults.trouble_store(seconds, torn=0.3),
            lambda: faults.trouble_store(seconds, lost=0.3),
            lambda: faults.trouble_store(seconds, refused=0.3),
            lambda: faults.kill_scheduler(seconds),
            lambda: faults.blind_scheduler(seconds),
            lambda: faults.hang_scheduler(seconds),
            lambda: faults.set_clock(rng.choice((-3600.0, -30.0, 30.0, 3600.0))),
            lambda: self._everything_at_once(seconds),
        ]
        return rng.choice(choices)

    def _everything_at_once(self, seconds: float) -> None:
        self.faults.crash_broker(seconds)
        self.faults.kill_manager(seconds * self._rng.uniform(0.5, 1.5))
        self.faults.trouble_store(seconds * self._rng.uniform(0.5, 1.5), is_away=True)
