"""A simulated cluster: clients, manager, broker and machines on virtual time, and what is expected of them."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.errors import ClusterError
from cluster.jobs import JobSpec, OnDisconnect, Resources, RestartPolicy
from cluster.nodes import Registration
from manager.domain.model import Instance, InstanceKey, InstanceState
from simulation.broker import Broker
from simulation.invariants import check_state
from simulation.loop import Loop
from simulation.manager import SimManager
from simulation.worker import SimWorker, machine_of
from worker.records import Ref

S = InstanceState
KEEPALIVE_S = 15.0
DRAIN_PERIOD_S = 2.0


@dataclass(eq=False)
class Wish:
    """A specification that is to run, or None for a deletion."""

    spec: JobSpec | None


@dataclass
class Expectation:
    """What the clients of one instance may expect: the last wish that was answered, or any wish since."""

    wishes: list[Wish] = field(default_factory=lambda: [Wish(None)])
    changes: int = 0


class World:
    """`seed` decides everything that is random."""

    def __init__(self, seed: int, machines: int = 4, cpu_millicores: int = 2000) -> None:
        self.rng = random.Random(seed)
        self.loop = Loop()
        self.broker = Broker(self.loop, self.rng)
        self.manager = SimManager(self.loop, self.broker, self.rng)
        self.expected: defaultdict[InstanceKey, Expectation] = defaultdict(Expectation)
        self.runs: Counter[tuple[str, int]] = Counter()
        self.runs_of: Counter[Ref] = Counter()
        self.workers = [self._machine(f"m{number}", cpu_millicores) for number in range(machines)]

    def _machine(self, name: str, cpu_millicores: int) -> SimWorker:
        return SimWorker(self, self.loop, self.broker, self.rng, machine_of(name, cpu_millicores))

    def boot(self) -> None:
        """Start everything."""
        self.manager.boot()
        for worker in self.workers:
            worker.boot()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until(self.loop.now + seconds)

    # What machines ask for and tell

    def register(self, registration: Registration, answered: Callable[[str], None]) -> None:
        """Registration over HTTP, tried again until it works."""

        def attempt() -> None:
            with contextlib.suppress(ClusterError):
                self.manager.register(registration, done)
            if not is_answered:
                self.loop.after(2.0, attempt)

        def done(node_id: str) -> None:
            is_answered.append(True)
            answered(node_id)

        is_answered: list[bool] = []
        self.loop.after(self.rng.random(), attempt)

    def on_run(self, worker: SimWorker, ref: Ref) -> None:
        """A workload begins to run somewhere: is it allowed to?"""
        self.runs[ref.slot] += 1
        self.runs_of[ref] += 1
        spec = worker.workloads[ref].start.spec
        expected = self.expected[InstanceKey(*ref.slot)]
        is_single = spec.on_disconnect is OnDisconnect.STOP_AFTER and expected.changes == 1
        others = [(other, item) for other in self.workers for item in other.running() if item.slot == ref.slot]
        is_newest = all(item.generation <= ref.generation for _, item in others)
        is_promised = not self._was_given_up(ref) and not any(other.has_crashed for other, _ in others)
        if is_single and is_newest and is_promised:
            assert len(others) == 1, f"{ref} runs beside {others} although stop_after promises one copy"
        if spec.one_shot:
            assert self.runs_of[ref] == 1, f"the one-shot {ref} ran {self.runs_of[ref]} times"

    def _was_given_up(self, ref: Ref) -> bool:
        """Whether the manager missed an answer beyond its deadline: then it places anew without waiting for a stop."""
        instance = self.manager.state.instances.get(InstanceKey(*ref.slot))
        return instance is not None and any(
            event.kind == "failed" and event.actor == "manager" for event in instance.events
        )

    def on_deleted(self, worker: SimWorker, ref: Ref) -> None:
        """A worker is told to stop a copy: what the durable state calls current is never stopped."""
        instance: Instance | None = self.manager.disk.get(("instance", InstanceKey(*ref.slot)))
        current = instance.current if instance else None
        if current and current.generation == ref.generation:
            assert current.state is S.STOPPING, f"a delete stopped the current copy {ref} of {instance}"

    # Clients

    def deploy(self, key: InstanceKey, spec: JobSpec) -> None:
        """A client deploys; without an answer nobody knows whether it counts."""
        self._ask(key, spec, lambda answered: self.manager.deploy(key, spec, answered))

    def delete(self, key: InstanceKey) -> None:
        """A client deletes."""
        self._ask(key, None, lambda answered: self.manager.delete(key, answered))

    def move(self, key: InstanceKey) -> None:
        """An operator moves it; two copies are meant to run for a moment."""
        self.expected[key].changes += 1
        with contextlib.suppress(ClusterError):
            self.manager.move(key)

    def update(self, key: InstanceKey, spec: JobSpec, *, rolls_back: bool) -> None:
        """An operator changes the job behind a health gate: it will run the new specification, or the old one again."""
        self.expected[key].changes += 1
        with contextlib.suppress(ClusterError):
            self.manager.update(key.job_id, spec, rolls_back=rolls_back)
            self.expected[key].wishes.append(Wish(spec))

    def drain(self, worker: SimWorker, seconds: float) -> None:
        """An operator empties a machine, move by move, and gives it back after a while."""
        ends_s = self.loop.now + seconds

        def step() -> None:
            if self.loop.now >= ends_s:
                self.uncordon(worker)
                return
            with contextlib.suppress(ClusterError):
                self.manager.cordon(worker.node_id, is_cordoned=True)
                for key in tuple(self.manager.state.on_node[worker.node_id]):
                    self.move(key)
            self.loop.after(DRAIN_PERIOD_S, step)

        if worker.node_id in self.manager.state.nodes:
            step()

    def uncordon(self, worker: SimWorker) -> None:
        """Give a machine back; tried until the manager takes it."""
        try:
            if worker.node_id in self.manager.state.nodes:
                self.manager.cordon(worker.node_id, is_cordoned=False)
        except ClusterError:
            self.loop.after(DRAIN_PERIOD_S, lambda: self.uncordon(worker))

    def _ask(self, key: InstanceKey, wish: JobSpec | None, call: Callable[[Callable[[bool], None]], None]) -> None:
        expected = self.expected[key]
        mine = Wish(wish)

        def answered(is_saved: bool) -> None:
            is_final = wish is None or not self.manager.is_updating(key.job_id)
            if is_saved and is_final and mine in expected.wishes:
                del expected.wishes[: expected.wishes.index(mine)]

        try:
            call(answered)
        except ClusterError:
            return
        expected.changes += 1
        expected.wishes.append(mine)

    # Faults

    def cut(self, worker: SimWorker, seconds: float) -> None:
        """A partition between a machine and everything else."""
        self.broker.cut.add(worker.name)
        worker.disconnect()
        self._will_later(worker, KEEPALIVE_S)
        self.loop.after(seconds, lambda: self.broker.cut.discard(worker.name))

    def _will_later(self, worker: SimWorker, delay_s: float) -> None:
        def publish() -> None:
            if not worker.is_connected and worker.node_id:
                self.broker.publish("broker", worker.node_id, "will", None, qos=1)

        self.loop.after(delay_s, publish)

    def crash(self, worker: SimWorker, seconds: float, *, power: bool = False) -> None:
        """The worker, or its whole machine, dies and comes back."""
        if not worker.is_up:
            return
        worker.power_off() if power else worker.crash()
        self._will_later(worker, self.rng.random())
        self.loop.after(seconds, lambda: None if worker.is_up else worker.boot(is_new_boot=power))

    def crash_manager(self, seconds: float) -> None:
        """`kill -9` of the manager and a new start."""
        if self.manager.is_up:
            self.manager.crash()
            self.manager.wall_skew_s = self.rng.uniform(-2.0, 2.0)
            self.loop.after(seconds, lambda: None if self.manager.is_up else self.manager.boot())

    def crash_broker(self, seconds: float) -> None:
        """The broker dies: every session breaks."""
        if not self.broker.is_up:
            return
        self.broker.is_up = False
        self.broker.disconnect_manager()
        self.manager.lose_broker()
        for worker in self.workers:
            worker.disconnect()
        self.loop.after(seconds, self.broker.restart)

    def fail_store(self, seconds: float) -> None:
        """No write works for a while."""
        self.manager.is_failing = True
        self.loop.after(seconds, self.heal_store)

    def fail_workload(self, worker: SimWorker) -> None:
        """A workload of a machine crashes."""
        running = worker.running()
        if running:
            worker.fail(self.rng.choice(running))

    def heal_store(self) -> None:
        """Writes work again."""
        self.manager.is_failing = False

    # The end

    def problems(self) -> list[str]:
        """What is not yet as it must be in the end; empty once the cluster has settled."""
        check_state(self.manager.state)
        found = []
        running = Counter(ref for worker in self.workers for ref in worker.running())
        for key, expected in self.expected.items():
            instance = self.manager.state.instances.get(key)
            copies = [ref for ref in running.elements() if ref.slot == tuple(key)]
            stories = [self._problem(key, instance, copies, wish.spec) for wish in expected.wishes]
            if all(stories):
                found.append(f"{key}: {stories[-1]}; {copies} run; {instance}")
        found += [f"{worker.name} owes {worker._outbox[0]}" for worker in self.workers if worker._outbox]
        return found

    def _problem(self, key: InstanceKey, instance: Instance | None, copies: list[Ref], wish: JobSpec | None) -> str:
        if wish is None:
            is_gone = instance is None or instance.state is S.STOPPED
            return "" if is_gone and not copies else "it is to be gone"
        if instance is None or not instance.is_desired or instance.spec != wish:
            return f"it is to run {wish}"
        if any(instance.placements()) and (instance.successor or instance.retiring):
            return "a move or a change is under way"
        if instance.state is S.RUNNING and instance.current:
            is_there = copies == [Ref(*key, instance.current.generation)]
            return "" if is_there else "exactly the current copy is to run"
        if copies:
            return "a copy runs that does not count"
        if instance.state is S.PENDING:
            return "" if instance.refusals and self._is_full(instance) else "there is room for it"
        is_final = instance.state in (S.COMPLETED, S.FAILED, S.LOST) and instance.retry_at_ms is None
        return "" if is_final and wish.restart_policy is not RestartPolicy.ALWAYS else "it is on its way"

    def _is_full(self, instance: Instance) -> bool:
        state = self.manager.state
        return all(state.unfit_reason(node_id, instance.spec) for node_id in state.nodes)

    def settle(self, limit_s: float = 600.0) -> float:
        """No more faults: the cluster must come to rest. Answers after how many seconds it did."""
        started = self.loop.now
        while self.problems():
            assert self.loop.now - started < limit_s, "not settled:\n" + "\n".join(self.problems())
            self.run(5.0)
        return self.loop.now - started


def service(name: str, cpu_millicores: int = 500, **facts: object) -> JobSpec:
    """A job that runs for ever."""
    demand = Resources(cpu_millicores=cpu_millicores)
    return JobSpec(name=name, image="image", technology="docker", demand=demand, stop_grace_s=2.0, **facts)  # type: ignore[arg-type]


def one_shot(name: str, cpu_millicores: int = 500) -> JobSpec:
    """A job that ends by itself."""
    return service(name, cpu_millicores, one_shot=True, restart_policy=RestartPolicy.NEVER)
