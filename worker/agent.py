"""The worker's shell: feeds the pure machine, saves what it says, and only then sends and does it.

commands ─┐                    ┌─ Journal (saves in portions) ─ then: acknowledge to the broker, outbox, effects
reports  ─┼─► inbox ─► Machine ┤
time     ─┘                    └─ next_due()
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Final

import orjson
import structlog

from cluster.errors import ClusterError
from cluster.jobs import OnDisconnect
from cluster.payloads import ANY_SOURCE, Command, parse_command, parse_object
from cluster.topics import Channel
from worker import messages
from worker.effects import Effects
from worker.gateway import Membership
from worker.journal import Followers, Journal, Portion
from worker.leaving import end_workloads
from worker.machine import Machine
from worker.membership import Registrar
from worker.mqtt import Address, Handlers, Session
from worker.records import (
    Cause,
    DeleteAsked,
    DeployAsked,
    Event,
    Exit,
    Exited,
    Forget,
    Instruction,
    Kill,
    LeaseAcknowledged,
    MoveAnnounced,
    Phase,
    Ref,
    Save,
    StateAcknowledged,
    Stop,
    Ticked,
    WorkerEnded,
)
from worker.runtime.base import Runtime
from worker.settings import WorkerSettings
from worker.state import Keep, Message, State
from worker.telemetry import sample

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
WINDOW: Final = 100
BATCH: Final = 500
AGAIN_S: Final = 1.0
LAST_STATES_S: Final = 2.0


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
        self._inventories = messages.Inventories()
        self._inbox: asyncio.Queue[Event | Callable[[], None]] = asyncio.Queue()
        self._unsent: deque[Message] = deque(state.outbox())
        self._sent: dict[int, Message] = {}
        self._session: Session | None = None
        self._sequence = state.last_sequence()
        self._inventory_due = asyncio.Event()
        self._stumbles = 0
        self._has_begun = False
        self._lease_fresh = asyncio.Event()
        self._membership_fresh = asyncio.Event()
        self._saved = {item.ref: item for item in state.instances()}
        self.machine = Machine(
            seed=time.time_ns(), instances=self._saved.values(), fences=state.fences(), lease_at=state.lease()
        )
        self.registrar = Registrar(settings, state, runtimes, self._join, self._keep)
        self._effects = Effects(runtimes, self.registrar.ip, self._inbox.put_nowait)
        followers = Followers(
            saved=self._on_saved,
            is_urgent=self._is_urgent,
            at_once=self._effects.carry_out,
            annulled=lambda ref: self._inbox.put_nowait(Exited(ref, Exit(reason="stopped before it was started"))),
        )
        self._journal = Journal(state, followers)

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Take up what was running, then serve."""
        self._has_begun = True
        self._effects.tasks = tasks
        recovering = [item for item in self.machine.instances.values() if item.phase in (Phase.STARTING, Phase.RUNNING)]
        recovering += [item for item in self.machine.instances.values() if item.phase is Phase.STOPPING]
        self._journal.add(self.machine.resume(boot_clock(), is_new_boot=self._state.is_new_boot))
        for item in recovering:
            self._effects.recover(item)
        tasks.create_task(self._journal.run(), name="journal")
        for name, work in (
            ("machine", self._work),
            ("leases", self._keep_leases),
            ("session", self._keep_joined),
            ("telemetry", self._report_telemetry),
            ("inventory", self._report_inventory),
            ("registration", self.registrar.run),
        ):
            tasks.create_task(self._insist(name, work), name=name)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has us."""
        return self._session is not None and self._session.is_connected

    async def close(self, *, stop_workloads: bool) -> None:
        """After the tasks have ended: say goodbye; workloads go on unless told otherwise."""
        are_stopped = stop_workloads and self._has_begun and await self._stop_workloads()
        if self._session:
            await self._session.stop(messages.farewell(are_workloads_stopped=are_stopped))
        for runtime in self._runtimes.values():
            await runtime.close()
        self._journal.close()

    async def _insist(self, name: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin again whatever a bug ended: the worker that runs the others goes on."""
        while True:
            try:
                await work()
            except Exception:
                LOG.exception("failed unexpectedly, beginning again", what=name)
            await asyncio.sleep(AGAIN_S)

    # -- the machine ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            batch = await self._next_batch()
            now = boot_clock()
            events = [item for item in batch if not callable(item)]
            instructions = [done for event in events for done in self._handle(event, now)]
            acknowledged = [event.sequence for event in events if isinstance(event, StateAcknowledged)]
            self._journal.add(instructions, [item for item in batch if callable(item)], acknowledged)
            if any(isinstance(event, LeaseAcknowledged) for event in events):
                self._lease_fresh.set()
            if self._stumbles:  # perhaps again and again, if it is the time that is not taken
                self._stumbles = 0
                await asyncio.sleep(AGAIN_S)

    def _handle(self, event: Event, now: float) -> list[Instruction]:
        """An event that brings a bug to light costs itself, not those that came with it."""
        try:
            return self.machine.handle(event, now)
        except Exception:
            LOG.exception("event not taken", what=str(event)[:300])
            self._stumbles += 1
            return []

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

    def _on_saved(self, portion: Portion, fresh: list[Message]) -> None:
        """Acknowledge, send and do."""
        for change in portion.changes.values():
            if isinstance(change, Save):
                self._saved[change.instance.ref] = change.instance
            elif isinstance(change, Forget):
                self._saved.pop(change.ref, None)
        if fresh:
            self._sequence = fresh[-1].sequence
            self._unsent.extend(fresh)
        for done in portion.acknowledge:
            done()
        self._pump()
        for item in portion.effects:
            self._effects.carry_out(item)

    def _is_urgent(self, item: Stop | Kill) -> bool:
        """Whether it may end before that is saved: what is only to be started again may not, it could not be."""
        known = self.machine.instances.get(item.ref)
        return known is None or known.cause is not Cause.UNHEALTHY

    def _keep(self, facts: Mapping[str, str]) -> None:
        self._journal.add([Keep(name, value) for name, value in facts.items()])

    # -- the broker -------------------------------------------------------------------------------------------------

    def _join(self, membership: Membership) -> None:
        del membership  # the registrar's own, at the time when it is looked at
        self._membership_fresh.set()

    async def _keep_joined(self) -> None:
        """One session at a time, with the newest membership: two with the same client id would end each other."""
        while True:
            await self._membership_fresh.wait()
            await self._leave()
            if self.registrar.membership:
                self._session = self._joined(self.registrar.membership)
            self._membership_fresh.clear()

    async def _leave(self) -> None:
        """End the session; what was not acknowledged in it is sent in the next, in its order."""
        session, self._session = self._session, None
        if session:
            await session.stop()
        self._unsent.extendleft(reversed(self._sent.values()))
        self._sent.clear()

    def _joined(self, membership: Membership) -> Session:
        address = Address(
            host=self._settings.mqtt_broker_host or membership.broker_host or self._settings.gateway_host,
            port=self._settings.mqtt_broker_port or membership.broker_port,
            node_id=membership.node_id,
        )
        return Session(address, Handlers(connected=self._connected, message=self._received, published=self._published))

    def _connected(self) -> None:
        self._pump()
        self._inventory_due.set()

    def _received(self, channel: Channel, payload: bytes, acknowledge: Callable[[], None]) -> None:
        """Whatever comes is acknowledged in the end: what cannot be taken today can be taken no better tomorrow."""
        try:
            self._take(channel, payload)
        except ClusterError as error:
            LOG.warning("message not understood", channel=channel.value, why=error.detail, field=error.field)
        except Exception:
            LOG.exception("message not taken", channel=channel.value)
        self._inbox.put_nowait(acknowledge)

    def _take(self, channel: Channel, payload: bytes) -> None:
        if channel is Channel.CONTROLS:
            self._command(parse_command(payload))
        elif channel is Channel.LEASE:
            self._lease(payload)
        elif channel is Channel.CONTROL_ERROR:
            LOG.warning("the manager does not know this node; registering again")
            self.registrar.again()

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
        if at is not None:
            self._inbox.put_nowait(LeaseAcknowledged(at))

    async def _keep_leases(self) -> None:
        """A lease counts whether or not it can be noted; after a crash of the worker an older one stops sooner."""
        why = ""
        while True:
            await self._lease_fresh.wait()
            self._lease_fresh.clear()
            at, before = self.machine.lease_at, why
            if at is None or not self._needs_leases():
                continue
            try:
                await self._journal.on_disk(partial(self._state.save_lease, at))
                why = ""
            except OSError as error:
                why = str(error)
            if bool(why) != bool(before):
                LOG.warning("leases cannot be noted" if why else "leases can be noted again", why=why)

    def _needs_leases(self) -> bool:
        return any(item.spec.on_disconnect is OnDisconnect.STOP_AFTER for item in self.machine.instances.values())

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
            self._inbox.put_nowait(StateAcknowledged(message.ref, message.status, message.sequence))
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
        """What is on disk; reading what it takes bounds the logs too, also while the broker is away."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.inventory_interval_s):
                    await self._inventory_due.wait()
            self._inventory_due.clear()
            usages = await self._effects.usages()
            if self._session and self._session.is_connected:
                held = self._saved.values()
                body = self._inventories.compose(held, usages, self._sequence, time.monotonic())
                self._session.publish(Channel.RESOURCES, body)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _stop_workloads(self) -> bool:
        """End all, save that, and send it; whether nothing runs any more that a later start would take for running.

        What is not acknowledged in time stays in the outbox, and is told at the next start.
        """
        wanted = {item.ref for item in self.machine.instances.values() if not item.is_ended}
        ended = await end_workloads(self._runtimes, self.machine.instances.values())
        fresh = await self._journal.finish(self.machine.handle(WorkerEnded(ended), boot_clock()))
        if fresh is None:
            return False
        self._unsent.extend(fresh)
        self._pump()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_STATES_S):
                while self.is_connected and (self._unsent or self._sent):  # noqa: ASYNC110 - told by no event
                    await asyncio.sleep(0.01)
        return ended == wanted
