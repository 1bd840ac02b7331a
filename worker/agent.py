"""The worker's shell: feeds the pure machine, saves what it says, and only then sends and does it.

commands ─┐                    ┌─ State (one commit per batch) ─ then: acknowledge to the broker, outbox, effects
reports  ─┼─► inbox ─► Machine ┤
time     ─┘                    └─ next_due()
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import orjson
import structlog

from cluster.errors import ClusterError
from cluster.jobs import OnDisconnect
from cluster.payloads import ANY_SOURCE, Command, parse_command, parse_object
from cluster.topics import Channel
from worker import messages
from worker.effects import Effects
from worker.gateway import Membership
from worker.machine import Machine
from worker.membership import Registrar
from worker.mqtt import Address, Handlers, Session
from worker.records import (
    DeleteAsked,
    DeployAsked,
    Event,
    Fence,
    Forget,
    HandOver,
    Instruction,
    Kill,
    LeaseAcknowledged,
    MoveAnnounced,
    Phase,
    Publish,
    Ref,
    RunProbe,
    Save,
    Start,
    StateAcknowledged,
    Stop,
    Ticked,
)
from worker.runtime.base import Runtime
from worker.settings import WorkerSettings
from worker.state import Message, State
from worker.telemetry import sample

T = TypeVar("T")
LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
WINDOW: Final = 100
BATCH: Final = 500
DISK_RETRY_S: Final = 1.0
EXIT_GRACE_S: Final = 3.0


def boot_clock() -> float:
    """Seconds since the machine's boot, sleep included: it never jumps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def to_event(command: Command, leased_at: float | None = None) -> Event:
    """What a command on `controls` means to the machine; `replicate` carries the new instance's own number."""
    ref = Ref(command.job_id, command.number, command.generation)
    if command.command == "delete":
        return DeleteAsked(ref, command.spec)
    if command.command == "move":
        return MoveAnnounced(ref, command.worker, command.incoming)
    return DeployAsked(ref, command.spec, is_live=command.incoming == ANY_SOURCE, leased_at=leased_at)


class Agent:
    """Everything of one worker that changes while it runs."""

    def __init__(self, settings: WorkerSettings, state: State, runtimes: Mapping[str, Runtime]) -> None:
        self._settings = settings
        self._state = state
        self._runtimes = runtimes
        self._inbox: asyncio.Queue[Event | Callable[[], None]] = asyncio.Queue()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._unsent: deque[Message] = deque(state.outbox())
        self._sent: dict[int, Message] = {}
        self._acknowledged: list[int] = []
        self._session: Session | None = None
        self._sequence = state.last_sequence()
        self._inventory_due = asyncio.Event()
        self.machine = Machine(
            seed=time.time_ns(), instances=state.instances(), fences=state.fences(), lease_at=state.lease()
        )
        self.registrar = Registrar(settings, state, runtimes, self._join)
        self._effects = Effects(runtimes, self.registrar.ip, self._inbox.put_nowait)
        self._tasks: asyncio.TaskGroup

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Take up what was running, then serve."""
        self._tasks = tasks
        self._effects.tasks = tasks
        recovering = [item for item in self.machine.instances.values() if item.phase in (Phase.STARTING, Phase.RUNNING)]
        recovering += [item for item in self.machine.instances.values() if item.phase is Phase.STOPPING]
        resumed = self.machine.resume(boot_clock(), is_new_boot=self._state.is_new_boot)
        for item in recovering:
            self._effects.recover(item)
        self._tasks.create_task(self._work(resumed), name="machine")
        self._tasks.create_task(self._report_telemetry(), name="telemetry")
        self._tasks.create_task(self._report_inventory(), name="inventory")
        self._tasks.create_task(self.registrar.run(), name="registration")

    @property
    def is_connected(self) -> bool:
        """Whether the broker has us."""
        return self._session is not None and self._session.is_connected

    async def close(self, *, stop_workloads: bool) -> None:
        """After the tasks have ended: say goodbye; workloads go on unless told otherwise."""
        if stop_workloads:
            await self._stop_workloads()
        if self._session:
            await self._session.stop(say_offline=stop_workloads)
        for runtime in self._runtimes.values():
            await runtime.close()
        self._disk.shutdown()

    # -- the machine ------------------------------------------------------------------------------------------------

    async def _work(self, resumed: list[Instruction]) -> None:
        await self._follow(resumed, ())
        while True:
            batch = await self._next_batch()
            now = boot_clock()
            instructions = [done for item in batch if not callable(item) for done in self.machine.handle(item, now)]
            await self._follow(instructions, [item for item in batch if callable(item)])

    async def _next_batch(self) -> list[Event | Callable[[], None]]:
        due = self.machine.next_due()
        timeout_s = None if due is None else max(0.0, due - boot_clock())
        try:
            async with asyncio.timeout(timeout_s):
                batch = [await self._inbox.get()]
        except TimeoutError:
            return [Ticked()]
        while not self._inbox.empty() and len(batch) < BATCH:
            batch.append(self._inbox.get_nowait())
        if due is not None and due <= boot_clock():
            batch.append(Ticked())
        return batch

    async def _follow(self, instructions: list[Instruction], acknowledge: Iterable[Callable[[], None]]) -> None:
        """Save, then acknowledge, send and do."""
        changes = [item for item in instructions if isinstance(item, Save | Publish | Fence | Forget)]
        sequences, self._acknowledged = self._acknowledged, []
        if changes or sequences:
            self._unsent.extend(await self._save(changes, sequences))
        for done in acknowledge:
            done()
        self._pump()
        for item in instructions:
            if isinstance(item, Start | HandOver | Stop | Kill | RunProbe | Forget):
                self._effects.carry_out(item)

    async def _save(self, changes: list[Save | Publish | Fence | Forget], sequences: list[int]) -> list[Message]:
        """Until it is on disk, however long that takes: a full disk delays everything and loses nothing."""
        is_told = False
        while True:
            try:
                fresh = await self._on_disk(partial(self._state.commit, changes, int(time.time() * 1000), sequences))
            except (OSError, sqlite3.Error) as error:
                if not is_told:
                    LOG.error("state cannot be written; holding everything back", why=str(error))
                is_told = True
                await asyncio.sleep(DISK_RETRY_S)
            else:
                if is_told:
                    LOG.info("state can be written again")
                if fresh:
                    self._sequence = fresh[-1].sequence
                return fresh

    async def _on_disk(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, function)

    # -- the broker -------------------------------------------------------------------------------------------------

    def _join(self, membership: Membership) -> None:
        self._tasks.create_task(self._rejoin(membership), name="join")

    async def _rejoin(self, membership: Membership) -> None:
        if self._session:
            await self._session.stop(say_offline=False)
            self._unsent.extendleft(reversed(self._sent.values()))
            self._sent.clear()
        address = Address(
            host=self._settings.mqtt_broker_host or membership.broker_host or self._settings.gateway_host,
            port=self._settings.mqtt_broker_port or membership.broker_port,
            node_id=membership.node_id,
        )
        handlers = Handlers(connected=self._connected, message=self._received, published=self._published)
        self._session = Session(address, handlers)

    def _connected(self) -> None:
        self._pump()
        self._inventory_due.set()

    def _received(self, channel: Channel, payload: bytes, acknowledge: Callable[[], None]) -> None:
        try:
            if channel is Channel.CONTROLS:
                self._command(parse_command(payload))
            elif channel is Channel.LEASE:
                self._lease(payload)
            elif channel is Channel.CONTROL_ERROR:
                LOG.warning("the manager does not know this node; registering again")
                self.registrar.again()
        except ClusterError as error:
            LOG.warning("message not understood", channel=channel.value, why=error.detail, field=error.field)
        self._inbox.put_nowait(acknowledge)

    def _command(self, command: Command) -> None:
        """A command that echoes a heartbeat of an earlier boot is too late; the manager repeats what it still wants."""
        leased_at = self._sent_at(command.beat)
        if command.beat and leased_at is None:
            LOG.warning("command of before the last boot passed over", job_id=command.job_id, number=command.number)
        else:
            self._inbox.put_nowait(to_event(command, leased_at))

    def _sent_at(self, beat: str) -> float | None:
        """When the heartbeat with this mark was sent; None for one of an earlier boot, or none."""
        boot_id, _, beat_ms = beat.partition(":")
        is_ours = boot_id == self._state.boot_id[:8] and beat_ms.isascii() and beat_ms.isdigit()
        return int(beat_ms) / 1000 if is_ours else None

    def _lease(self, payload: bytes) -> None:
        """A lease counts from when the heartbeat that it echoes was sent; one of an earlier boot says nothing."""
        at = self._sent_at(str(parse_object(payload).get("beat", "")))
        if at is None:
            return
        if any(item.spec.on_disconnect is OnDisconnect.STOP_AFTER for item in self.machine.instances.values()):
            self._state.save_lease(at)
        self._inbox.put_nowait(LeaseAcknowledged(at))

    def _pump(self) -> None:
        """Hand messages to the session, in order, at most WINDOW of them unacknowledged."""
        while self._unsent and len(self._sent) < WINDOW and self._session:
            message = self._unsent[0]
            mid = self._session.publish(Channel.STATE, messages.state(message, self.registrar.ip), qos=1)
            if mid is None:
                return
            self._sent[mid] = self._unsent.popleft()

    def _published(self, mid: int) -> None:
        message = self._sent.pop(mid, None)
        if message:
            self._acknowledged.append(message.sequence)
            self._inbox.put_nowait(StateAcknowledged(message.ref, message.status))
            self._pump()

    async def _report_telemetry(self) -> None:
        sample()
        while True:
            await asyncio.sleep(self._settings.telemetry_interval_s)
            if self._session and self._session.is_connected:
                now = sample()
                body = {
                    "cpu": now.cpu_percent,
                    "memory": now.memory_percent,
                    "memory_free_in_MB": now.memory_free_mb,
                    "beat": f"{self._state.boot_id[:8]}:{int(boot_clock() * 1000)}",
                }
                self._session.publish(Channel.INFORMATION, orjson.dumps(body))

    async def _report_inventory(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.inventory_interval_s):
                    await self._inventory_due.wait()
            self._inventory_due.clear()
            if self._session and self._session.is_connected:
                usages = await self._effects.usages()
                body = messages.inventory(self.machine.instances.values(), usages, self._sequence)
                self._session.publish(Channel.RESOURCES, body)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _stop_workloads(self) -> None:
        """Ask all to end, kill what has not ended soon, and leave nothing that a later start could take for a crash."""
        active = [item for item in self.machine.instances.values() if not item.is_ended]
        LOG.info("stopping all workloads", count=len(active))
        await asyncio.gather(*(self._end(self._runtimes.get(i.spec.technology), i.ref) for i in active))

    async def _end(self, runtime: Runtime | None, ref: Ref) -> None:
        if runtime is None or not await runtime.is_running(ref):
            return
        try:
            await runtime.stop(ref)
            async with asyncio.timeout(EXIT_GRACE_S):
                await runtime.wait(ref)
        except TimeoutError:
            await runtime.kill(ref)
            await runtime.wait(ref)
        await runtime.remove(ref)
