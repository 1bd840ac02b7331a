"""A machine with our real, pure worker on it: its disk, its workloads and its session are simulated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from cluster.jobs import Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import ResourceEntry, ResourceList, StateReport, Telemetry
from simulation.broker import Broker
from simulation.loop import Loop
from worker.machine import Machine
from worker.records import (
    DeployAsked,
    Event,
    Exit,
    Exited,
    Fence,
    Forget,
    Instance,
    Instruction,
    Kill,
    LeaseAcknowledged,
    Phase,
    Publish,
    Ref,
    Save,
    Start,
    Started,
    StartFailed,
    StateAcknowledged,
    Stop,
    Ticked,
    Vanished,
)

KEPT = ("ref", "spec", "phase", "status", "detail", "exit_code", "failures", "has_run", "cause", "leased_at")
RETRY_S = 1.0
WINDOW = 100


class Surroundings(Protocol):
    """What the machine needs from the world: a manager to register with, and somebody who watches."""

    def register(self, registration: Registration, answered: Callable[[str], None]) -> None:
        """Register until it works."""

    def on_run(self, worker: SimWorker, ref: Ref) -> None:
        """A workload begins to run."""

    def on_deleted(self, worker: SimWorker, ref: Ref) -> None:
        """A copy is told to stop."""


@dataclass
class Workload:
    """What runs for an instance. `end` is its exit code once it ended."""

    start: Start
    is_running: bool = False
    end: int | None = None


@dataclass(frozen=True)
class Sent:
    """A state in the outbox."""

    sequence: int
    state: Publish


class SimWorker:
    """`skew_s` is how far its boot clock is from the world's; `start_s` how long a start takes at most."""

    def __init__(
        self, world: Surroundings, loop: Loop, broker: Broker, rng: random.Random, registration: Registration
    ) -> None:
        self._world, self._loop, self._broker, self._rng = world, loop, broker, rng
        self.registration = registration
        self.name = registration.name
        self.skew_s = rng.uniform(0.0, 1e6)
        self.start_s = 2.0
        self.start_failure = 0.0
        self.node_id = ""
        self.is_up = False
        self.is_connected = False
        self.has_crashed = False
        self.epoch = 0
        self.machine = Machine()
        self.workloads: dict[Ref, Workload] = {}
        self.wipe()

    # Life of the machine

    def wipe(self) -> None:
        """A new disk."""
        self._disk: dict[Ref, Instance] = {}
        self._fences: dict[tuple[str, int], int] = {}
        self._outbox: list[Sent] = []
        self._sequence = 0
        self.workloads.clear()

    def boot(self, *, is_new_boot: bool = False) -> None:
        """Start the worker; what it finds on its disk it takes up."""
        self.epoch += 1
        self.is_up = True
        self._in_flight: set[int] = set()
        instances = [_from_disk(item) for item in self._disk.values()]
        self.machine = Machine(seed=self._rng.getrandbits(32), instances=instances, fences=self._fences)
        active = [i for i in instances if i.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)]
        self._follow(self.machine.resume(self._clock(), is_new_boot=is_new_boot))
        for item in active:
            self._recover(item.ref)
        self._register()
        self._every(2.0, self._beat)
        self._every(5.0, self._send_inventory)
        self._every(RETRY_S, self._pump)

    def crash(self) -> None:
        """`kill -9` of the worker; its workloads run on, starts under way do not."""
        self.epoch += 1
        self.is_up = False
        self.has_crashed = True
        self.disconnect()
        self.workloads = {ref: item for ref, item in self.workloads.items() if item.is_running or item.end is not None}

    def power_off(self) -> None:
        """The machine loses power."""
        self.crash()
        self.workloads.clear()

    def running(self) -> list[Ref]:
        """What really runs here now."""
        return [ref for ref, item in self.workloads.items() if item.is_running]

    # Session

    def connect(self) -> None:
        """The session is there, if the worker runs and has an id."""
        if self.is_up and self.node_id and not self.is_connected and self._broker.can_reach(self.name):
            self.is_connected = True
            self._in_flight.clear()
            self._broker.connect_worker(self.node_id, self)
            self._pump()
            self._send_inventory()

    def disconnect(self) -> None:
        """The session broke."""
        self.is_connected = False
        self._broker.disconnect_worker(self.node_id)

    def receive(self, command: Any) -> None:
        """A command or a lease."""
        if not self.is_up:
            return
        if isinstance(command, float):
            self._handle(LeaseAcknowledged(command))
            return
        doomed = [] if isinstance(command, DeployAsked) else self.machine.by_slot(command.ref.slot)
        self._handle(command)
        for item in doomed:
            if not item.is_ended and item.ref.generation <= command.ref.generation:
                self._world.on_deleted(self, item.ref)

    def _register(self) -> None:
        def answered(node_id: str) -> None:
            self.node_id = node_id
            self.connect()

        epoch = self.epoch
        document = replace(self.registration, given_id=self.node_id)
        self._world.register(document, lambda node_id: answered(node_id) if self.epoch == epoch else None)

    def _beat(self) -> None:
        self.connect()
        if self.is_connected:
            body = (Telemetry(cpu_percent=1.0, memory_percent=1.0), self._clock())
            self._broker.publish(self.name, self.node_id, "telemetry", body, qos=0)

    def _send_inventory(self) -> None:
        if self.is_connected:
            entries = tuple(self._entry(item) for item in self.machine.instances.values())
            body = ResourceList(entries=entries, is_inventory=True, sequence=self._sequence)
            self._broker.publish(self.name, self.node_id, "inventory", body, qos=0)

    def _entry(self, item: Instance) -> ResourceEntry:
        ref = item.ref
        return ResourceEntry(
            job_name=item.spec.name,
            number=ref.number,
            status=item.status,
            detail=item.detail,
            job_id=ref.job_id,
            generation=ref.generation,
            exit_code=item.exit_code,
        )

    def _pump(self) -> None:
        """Send the outbox in order; what the broker did not acknowledge is sent again."""
        if not self.is_connected:
            return
        for sent in self._outbox[:WINDOW]:
            state = sent.state
            report = StateReport(
                job_name=state.job_name,
                number=state.ref.number,
                status=state.status,
                detail=state.detail,
                job_id=state.ref.job_id,
                generation=state.ref.generation,
                exit_code=state.exit_code,
                sequence=sent.sequence,
            )
            if self._broker.publish(self.name, self.node_id, "state", report, qos=1):
                self._soon(0.05, partial(self._acknowledged, sent))

    def _acknowledged(self, sent: Sent) -> None:
        if sent in self._outbox:
            self._outbox.remove(sent)
            self._handle(StateAcknowledged(sent.state.ref, sent.state.status))

    # The machine

    def _clock(self) -> float:
        return self._loop.now + self.skew_s

    def _handle(self, event: Event) -> None:
        self._follow(self.machine.handle(event, self._clock()))

    def _follow(self, instructions: list[Instruction]) -> None:
        fresh = False
        for item in instructions:
            match item:
                case Save(instance):
                    self._disk[instance.ref] = instance
                case Publish():
                    self._sequence += 1
                    self._outbox.append(Sent(self._sequence, item))
                    fresh = True
                case Fence(ref):
                    self._fences[ref.slot] = ref.generation
                case Forget(ref):
                    self._disk.pop(ref, None)
                    self.workloads.pop(ref, None)
                case Start():
                    self._start(item)
                case Stop(ref) | Kill(ref):
                    self._end(ref, is_kill=isinstance(item, Kill))
                case _:
                    raise AssertionError(f"the simulation knows no {item}")
        if fresh:
            self._pump()
        due = self.machine.next_due()
        if due is not None:
            self._soon(due - self._clock() + 1e-6, self._tick)

    def _tick(self) -> None:
        due = self.machine.next_due()
        if due is not None and due <= self._clock():
            self._handle(Ticked())

    # Workloads

    def _start(self, start: Start) -> None:
        workload = self.workloads[start.ref] = Workload(start)
        self._soon(self._rng.uniform(0.05, self.start_s), lambda: self._started(workload))

    def _started(self, workload: Workload) -> None:
        ref = workload.start.ref
        if self.workloads.get(ref) is not workload:
            return
        if self._rng.random() < self.start_failure:
            del self.workloads[ref]
            self._handle(StartFailed(ref, "the image is not there"))
            return
        workload.is_running = True
        self._world.on_run(self, ref)
        if workload.start.spec.one_shot:
            self._loop.after(self._rng.uniform(1.0, 20.0), lambda: self._exit(workload, 0))
        self._handle(Started(ref))

    def fail(self, ref: Ref) -> None:
        """A workload crashes."""
        self._exit(self.workloads[ref], 1)

    def _exit(self, workload: Workload, code: int) -> None:
        ref = workload.start.ref
        if self.workloads.get(ref) is not workload or not workload.is_running:
            return
        workload.is_running, workload.end = False, code
        if self.is_up:
            self._handle(Exited(ref, Exit(code=code)))

    def _end(self, ref: Ref, *, is_kill: bool) -> None:
        workload = self.workloads.get(ref)
        is_deaf = workload is not None and workload.is_running and not is_kill and self._rng.random() < 0.1
        if is_deaf:
            return

        def ended() -> None:
            if self.workloads.get(ref) is workload and workload is not None:
                del self.workloads[ref]
            if self.is_up:
                self._handle(Exited(ref, Exit(reason="stopped")))

        self._loop.after(0.05 if is_kill else self._rng.uniform(0.05, 2.0), ended)

    def _recover(self, ref: Ref) -> None:
        workload = self.workloads.get(ref)
        if workload is None:
            self._soon(0.1, lambda: self._handle(Vanished(ref, "it was not found again")))
        elif workload.is_running:
            self._soon(0.1, lambda: self._handle(Started(ref)))
        else:
            self._soon(0.1, lambda: self._handle(Exited(ref, Exit(code=workload.end))))

    # Time

    def _soon(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it unless the worker has crashed meanwhile."""
        epoch = self.epoch
        self._loop.after(delay_s, lambda: call() if self.epoch == epoch and self.is_up else None)

    def _every(self, period_s: float, call: Callable[[], None]) -> None:
        epoch = self.epoch

        def beat() -> None:
            if self.epoch == epoch:
                call()
                self._loop.after(period_s, beat)

        self._loop.after(self._rng.random() * period_s, beat)


def _from_disk(item: Instance) -> Instance:
    """What the worker's database keeps of an instance; all else is as new."""
    return Instance(**{name: getattr(item, name) for name in KEPT})


def machine_of(name: str, cpu_millicores: int) -> Registration:
    """What a simulated machine says of itself."""
    return Registration(
        name=name,
        ip="127.0.0.1",
        port=1,
        dialect=Dialect.WORKER,
        technologies=("docker",),
        capacity=Resources(cpu_millicores=cpu_millicores),
    )
