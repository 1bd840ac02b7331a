"""A machine with our real, pure worker on it and the real payloads; its disk and its workloads are simulated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import orjson

from cluster.errors import ClusterError
from cluster.jobs import OnDisconnect
from cluster.payloads import Command, parse_command, parse_object
from cluster.topics import Channel, topic
from simulation.broker import Publication
from simulation.client import SimClient, doubling
from simulation.node import SimNode, Surroundings
from simulation.truth import Copy, End, mark_of
from worker import messages
from worker.agent import WINDOW, to_event
from worker.machine import Machine
from worker.membership import BACK_OFF_BASE_S, BACK_OFF_CAP_S
from worker.mqtt import KEEPALIVE_S, OFFLINE, ONLINE
from worker.records import (
    Cause,
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
from worker.slots import PERSISTENT
from worker.state import Message

TELEMETRY_S = 2.0
INVENTORY_S = 5.0
KEPT = ("ref", "spec", *PERSISTENT)


@dataclass(eq=False)
class Workload:
    """What is started for an instance; `copy` while it runs, `end` is its exit code once it ended."""

    start: Start
    copy: Copy | None = None
    end: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether it really runs."""
        return self.copy is not None and self.copy.ended_s is None


class SimWorker(SimNode):
    """`deafness` is the share of workloads that ignore SIGTERM."""

    kind = "worker"

    def __init__(self, world: Surroundings, name: str, rng: random.Random, cpu_millicores: int) -> None:
        super().__init__(world, name, rng)
        self._boot_id = f"{rng.getrandbits(32):08x}"
        self._skew_s = rng.uniform(0.0, 1e6)
        self._longest_pause_s = rng.randint(5, 15)
        self.facts = messages.NodeFacts(
            name=name,
            ip="127.0.0.1",
            port=3000,
            technologies=("docker",),
            vcpus=cpu_millicores // 1000,
            memory_in_mb=64_000,
            storage_in_mb=64_000,
            architecture="amd64",
        )
        self.deafness = 0.1
        self.machine = Machine()
        self.workloads: dict[Ref, Workload] = {}
        self._client_of = ""
        self.wipe()

    # Life

    def wipe(self) -> None:
        """A new disk."""
        self._disk: dict[Ref, Instance] = {}
        self._fences: dict[tuple[str, int], int] = {}
        self._outbox: list[Message] = []
        self._sequence = 0
        self._lease: tuple[str, float] | None = None
        self.node_id = ""

    def begin(self, *, is_new_boot: bool) -> None:
        """What it finds on its disk it takes up."""
        if is_new_boot:
            self._boot_id = f"{self._rng.getrandbits(32):08x}"
        self._sent: dict[int, Message] = {}
        self._inventories = messages.Inventories()
        instances = [_from_disk(item) for item in self._disk.values()]
        lease_at = self._lease[1] if self._lease and self._lease[0] == self._boot_id else None
        seed = self._rng.getrandbits(32)
        self.machine = Machine(seed=seed, instances=instances, fences=self._fences, lease_at=lease_at)
        active = [item for item in instances if item.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)]
        self._follow(self.machine.resume(self._clock(), is_new_boot=is_new_boot))
        for item in active:
            self._recover(item.ref)
        self.client, self._client_of = None, ""
        if self.node_id:
            self._join()
        self.register_until(self._register)
        self.every(TELEMETRY_S, self._beat)
        self.every(INVENTORY_S, self._send_inventory)

    def ends(self) -> None:
        """Workloads that run go on; starts under way do not."""
        self.workloads = {ref: item for ref, item in self.workloads.items() if item.is_running or item.end is not None}

    def loses_power(self) -> None:
        """Nothing runs any more."""
        for item in self.workloads.values():
            if item.copy is not None:
                self._world.copies.end(item.copy, End.LOST_POWER)
        self.workloads.clear()

    @property
    def debts(self) -> str:
        """States that the broker does not have yet."""
        return f"the state {self._outbox[0]}" if self._outbox else ""

    # Membership

    async def _register(self) -> None:
        failures = 0
        while True:
            try:
                body = parse_object(messages.registration(self.facts, self.node_id))
                answer = await self._world.register(self, body)
            except ClusterError as error:
                if error.reason == "already_exists":
                    self.node_id = ""
                failures += 1
                pause_s = min(BACK_OFF_CAP_S, BACK_OFF_BASE_S * 2.0 ** min(failures - 1, 10))
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            else:
                self.node_id = answer["id"]
                self._join()
                return

    def _join(self) -> None:
        if self._client_of == self.node_id:
            return
        if self.client is not None:
            self.client.stop()
        self._client_of = self.node_id
        client = self.client = SimClient(
            self._world.broker,
            self.link,
            f"{self.node_id}-worker",
            pauses=self._pauses,
            keepalive_s=KEEPALIVE_S,
            will=Publication(topic(self.node_id, Channel.CONNECTION), OFFLINE, 1),
        )
        self._sent.clear()
        client.on_connect = self._connected
        client.on_message = self._received
        client.on_published = self._published
        client.start()

    def _pauses(self) -> Iterator[float]:
        return doubling(1.0, self._longest_pause_s)

    def _connected(self) -> None:
        assert self.client is not None
        read = (Channel.CONTROLS, Channel.LEASE, Channel.CONTROL_ERROR)
        self.client.subscribe(*((topic(self.node_id, channel), 1) for channel in read))
        self.client.publish(topic(self.node_id, Channel.CONNECTION), ONLINE, 1)
        self._pump()
        self._send_inventory()

    # Messages

    def _received(self, publication: Publication) -> None:
        assert self.client is not None
        channel = publication.topic.split("/", 2)[2]
        if channel == Channel.CONTROLS:
            self._command(parse_command(publication.payload))
        elif channel == Channel.LEASE:
            self._take_lease(publication.payload)
        elif channel == Channel.CONTROL_ERROR:
            self.register_until(self._register)
        if publication.qos and self.client is not None:
            self.client.acknowledge(publication.mid)

    def _command(self, command: Command) -> None:
        leased_at = self._sent_at(command.beat)
        self._world.story.tell(f"{self.name} is told", command.command, f"{command.job_id}/{command.number}")
        if not command.beat or leased_at is not None:
            self._handle(to_event(command, leased_at))

    def _sent_at(self, beat: str) -> float | None:
        boot_id, _, beat_ms = beat.partition(":")
        return int(beat_ms) / 1000 if boot_id == self._boot_id and beat_ms else None

    def _take_lease(self, payload: bytes) -> None:
        at = self._sent_at(str(parse_object(payload).get("beat", "")))
        if at is not None:
            if any(i.spec.on_disconnect is OnDisconnect.STOP_AFTER for i in self.machine.instances.values()):
                self._lease = (self._boot_id, at)
            self._handle(LeaseAcknowledged(at))

    def _say(self, channel: Channel, payload: bytes, qos: int = 0) -> int | None:
        if self.client is None or not self.client.is_connected:
            return None
        return self.client.publish(topic(self.node_id, channel), payload, qos)

    def _beat(self) -> None:
        body = {"cpu": 1.0, "memory": 1.0, "memory_free_in_MB": 60_000}
        self._say(Channel.INFORMATION, orjson.dumps({**body, "beat": f"{self._boot_id}:{int(self._clock() * 1000)}"}))

    def _send_inventory(self) -> None:
        held = self.machine.instances.values()
        self._say(Channel.RESOURCES, self._inventories.compose(held, {}, self._sequence, self._clock()))

    def _pump(self) -> None:
        """Hand the outbox to the session, in order; each message once for each session."""
        handed = {message.sequence for message in self._sent.values()}
        for message in self._outbox:
            if len(self._sent) >= WINDOW:
                return
            if message.sequence not in handed:
                mid = self._say(Channel.STATE, messages.state(message, "127.0.0.1"), 1)
                if mid is None:
                    return
                self._sent[mid] = message

    def _published(self, mid: int) -> None:
        message = self._sent.pop(mid, None)
        if message is not None:
            self._outbox.remove(message)
            self._handle(StateAcknowledged(message.ref, message.status, message.sequence))
            self._pump()

    # The machine

    def _clock(self) -> float:
        return self._loop.time() + self._skew_s

    def _handle(self, event: Event) -> None:
        self._follow(self.machine.handle(event, self._clock()))

    def _follow(self, instructions: list[Instruction]) -> None:
        has_fresh = False
        for item in instructions:
            match item:
                case Save(instance):
                    self._disk[instance.ref] = instance
                case Publish():
                    self._enqueue(item)
                    has_fresh = True
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
        if has_fresh and self.client is not None:
            self._pump()
        due = self.machine.next_due()
        if due is not None:
            self.soon(max(due - self._clock(), 0.0) + 1e-6, self._tick)

    def _enqueue(self, item: Publish) -> None:
        self._sequence += 1
        self._world.story.tell(f"{self.name} says", item.status, item.ref, item.detail)
        self._outbox.append(
            Message(
                sequence=self._sequence,
                ref=item.ref,
                job_name=item.job_name,
                status=item.status,
                detail=item.detail,
                exit_code=item.exit_code,
                at_ms=0,
                incoming=item.incoming,
                restarts=item.restarts,
            )
        )

    def _tick(self) -> None:
        due = self.machine.next_due()
        if due is not None and due <= self._clock():
            self._handle(Ticked())

    # Workloads

    def _start(self, start: Start) -> None:
        workload = self.workloads[start.ref] = Workload(start)
        self.soon(self._rng.uniform(0.05, self.start_s), self._started, workload)

    def _started(self, workload: Workload) -> None:
        ref, spec = workload.start.ref, workload.start.spec
        if self.workloads.get(ref) is not workload:
            return
        if self._rng.random() < self.start_failure:
            del self.workloads[ref]
            self._handle(StartFailed(ref, "the image is not there"))
            return
        workload.copy = self._world.copies.begin(self.name, ref.slot, ref.generation, mark_of(spec.image), spec)
        if spec.one_shot:
            self._loop.call_later(self._rng.uniform(1.0, 20.0), self._exit, workload, 0, End.EXITED)
        self._handle(Started(ref))

    def fail(self, copy: Copy, code: int) -> None:
        """A workload ends by itself."""
        for workload in list(self.workloads.values()):
            if workload.copy is copy:
                self._exit(workload, code, End.CRASHED)

    def _exit(self, workload: Workload, code: int, how: End) -> None:
        ref = workload.start.ref
        if self.workloads.get(ref) is not workload or not workload.is_running or workload.copy is None:
            return
        workload.end = code
        self._world.copies.end(workload.copy, how)
        if self.is_up:
            self._handle(Exited(ref, Exit(code=code)))

    def _end(self, ref: Ref, *, is_kill: bool) -> None:
        workload = self.workloads.get(ref)
        if workload is not None and workload.is_running and not is_kill and self._rng.random() < self.deafness:
            return
        pause_s = 0.05 if is_kill else self._rng.uniform(0.05, 2.0)
        self._loop.call_later(pause_s, partial(self._ended, ref, workload))

    def _ended(self, ref: Ref, workload: Workload | None) -> None:
        if workload is not None and self.workloads.get(ref) is workload:
            del self.workloads[ref]
            if workload.copy is not None:
                cause = self.machine.instances[ref].cause if ref in self.machine.instances else Cause.DELETED
                self._world.copies.end(workload.copy, End.CUT_OFF if cause is Cause.CUT_OFF else End.COMMANDED)
        if self.is_up:
            self._handle(Exited(ref, Exit(reason="stopped")))

    def _recover(self, ref: Ref) -> None:
        workload = self.workloads.get(ref)
        if workload is None:
            self.soon(0.1, self._handle, Vanished(ref, "it was not found again"))
        elif workload.is_running:
            self.soon(0.1, self._handle, Started(ref))
        else:
            self.soon(0.1, self._handle, Exited(ref, Exit(code=workload.end)))


def _from_disk(item: Instance) -> Instance:
    """What the worker's database keeps of an instance; all else is as new."""
    return Instance(**{name: getattr(item, name) for name in KEPT})
