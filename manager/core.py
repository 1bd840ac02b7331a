"""The heart of the shell: the cluster's state, its saving, its history, and what follows from a saved change.

Everything that changes the state calls `commit` right after; commands go out, and history is told, only for what is
durable. What concerns many instances at once follows in portions, so that calls and messages are served in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from cluster.errors import ClusterError, NotFoundError, UnavailableError
from cluster.payloads import ResourceEntry
from cluster.process import LOG, without_collections
from manager.backlog import Records, Ticket
from manager.clock import CLOCK
from manager.dispatcher import Broken, Dispatcher
from manager.domain.aggregate import ClusterState
from manager.domain.hearing import Hearing
from manager.domain.leases import LeaseRules, Leases
from manager.domain.machine import wants_placement
from manager.domain.model import (
    Event,
    Instance,
    InstanceKey,
    InstanceState,
    Job,
    Logged,
    Node,
    NodeState,
    Record,
    Setting,
    Usage,
)
from manager.domain.policy import Policy
from manager.domain.reconciliation import fence_ends_ms, lose_removed_nodes
from manager.domain.registry import Dirty
from manager.history import History
from manager.portions import PORTION
from manager.ports import Clock, Kind, Quarantined, RecordId, Store, StoreRunner
from manager.sequences import PlanSequences
from manager.turns import Turns
from manager.writer import Writer

REARM_MS: Final = 1000
PURGE_PAUSE_MS: Final = 60_000
HEARD_UNTIL: Final = "heard_until_ms"
InstanceListener = Callable[[Sequence[InstanceKey]], None]


class Core:
    """State, writer, history, dispatcher, leases, and the queue of instances that want a node."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        rules: LeaseRules | None = None,
        *,
        clock: Clock = CLOCK,
        runner: StoreRunner | None = None,
    ) -> None:
        self.policy = policy
        self.clock = clock
        self.state = ClusterState(policy)
        self.history = History()
        self.hearing = Hearing(clock.mono_s())
        self.leases = Leases(self.hearing, rules or LeaseRules())
        period_s = policy.engine_period_ms / 1000
        self.dispatcher = Dispatcher(self.find_node, self.state.is_ready, clock.mono_s, period_s)
        self.dispatcher.on_broken = self._tell_broken
        self.counters: Counter[str] = Counter()
        self.settings: dict[str, Setting] = {}
        self.quarantined: dict[RecordId, Quarantined] = {}
        self.usages: dict[InstanceKey, Usage] = {}
        self.orphans: dict[str, dict[tuple[str, int], ResourceEntry]] = {}
        self.writer = Writer(store, self._revert, self._on_saved, runner)
        self.saved_records = self.writer.saved
        self.sequences = PlanSequences(self.touch_views)
        self.turns = Turns()
        self.to_plan: dict[InstanceKey, None] = {}
        self.plan_wanted = asyncio.Event()
        self.has_room = False
        self.view_sequence = self.now_ms()  # a scheduler that outlives this manager must not take it for an older one
        self.room_sequence = 0
        self.may_purge: Callable[[InstanceKey], bool] = lambda _key: True
        self.applied_until_s: Callable[[], float] = clock.mono_s
        self._alarms: list[tuple[int, InstanceKey]] = []
        self._alarm_at: dict[InstanceKey, int] = {}
        self._followed: deque[InstanceKey] = deque()
        self._follow_wanted = asyncio.Event()
        self._view_listeners: set[Callable[[Iterable[str]], None]] = set()
        self._instance_listeners: set[InstanceListener] = set()

    # Beginning

    async def open(self) -> None:
        """Open the store and take over what it holds."""
        contents = await self.writer.open(self.clock.now_ms())
        histories = [item.events for item in contents.nodes] + [item.events for item in contents.instances]
        newest_ms = max((events[-1].at_ms for events in histories if events), default=0)
        if behind_ms := self.clock.start_after(newest_ms):
            LOG.warning(
                "the machine's clock is behind the newest record; going on from that", behind_s=behind_ms / 1000
            )
        self.settings = {item.name: item for item in contents.settings}
        with without_collections():
            self.state.restore(contents.nodes, contents.jobs, contents.instances)
            self.history.begin(contents.nodes, contents.jobs, contents.instances)
        self._begin_to_hear()
        self._quarantine(contents.quarantined)
        self._followed.extend(item.key for item in contents.instances)
        self._follow_wanted.set()
        LOG.info("state loaded", nodes=len(contents.nodes), jobs=len(contents.jobs), instances=len(contents.instances))

    def _begin_to_hear(self) -> None:
        """Nobody knows who spoke while this manager was away: every node has as long again to be heard."""
        until = self.settings.get(HEARD_UNTIL)
        away_s = max(0.0, (self.clock.now_ms() - int(until.value)) / 1000) if until else 0.0
        self.hearing = Hearing(self.clock.mono_s(), away_s)
        self.leases = Leases(self.hearing, self.leases.rules)
        for node in self.state.nodes.values():
            if node.state is not NodeState.DOWN:
                self.leases.watch(node.id)
            elif any(self._is_undecided(key, node.id) for key in self.state.on_node[node.id]):
                self.leases.resume(node.id)

    def _is_undecided(self, key: InstanceKey, node_id: str) -> bool:
        """Whether nobody has told an instance yet that its node is lost."""
        placements = self.state.instances[key].placements()
        return any(p.node_id == node_id and p.state is not InstanceState.UNKNOWN for _, p in placements)

    def _quarantine(self, quarantined: Iterable[Quarantined]) -> None:
        for item in quarantined:
            self.quarantined[item.kind, item.id] = item
            cause = f"the saved {item.kind} {item.id!r} cannot be read ({item.error}): it is in quarantine"
            LOG.error("record in quarantine", kind=item.kind.value, id=item.id, error=item.error)
            self.tell(f"{item.kind}:{item.id}", "quarantined", cause)

    async def release_quarantined(self, kind: str, record_id: str) -> None:
        """Drop a record that cannot be read. Raises NotFoundError or UnavailableError."""
        found = next((item for item in self.quarantined.values() if (item.kind, item.id) == (kind, record_id)), None)
        if found is None:
            raise NotFoundError(f"no {kind or 'record'} {record_id!r} is in quarantine", field="id")
        await self.writer.ask(lambda store: store.release(found.kind, found.id))
        del self.quarantined[found.kind, found.id]
        self.tell(f"{found.kind}:{found.id}", "released", "an operator dropped it from quarantine")
        if found.kind is Kind.NODE:
            lose_removed_nodes(self.state, (), self.now_ms())
            await self.saved()

    def now_ms(self) -> int:
        """Milliseconds since 1970, by a clock that does not jump."""
        return self.clock.now_ms()

    def find_node(self, node_id: str) -> Node | None:
        """The node of an id of ours."""
        return self.state.nodes.get(node_id)

    @property
    def cluster_id(self) -> str:
        """The id that this cluster gave itself when its store was made."""
        return self.settings["cluster_id"].value

    def why_saved_only(self) -> str:
        """Why nothing can be saved at the moment, so that what is read was saved before; "" where all works."""
        return self.writer.failure

    def require_store(self) -> None:
        """Raise UnavailableError before anything is changed while the store does not work."""
        if self.writer.failure:
            raise UnavailableError(f"the store does not work: {self.writer.failure}; repeat the call later")

    # Saving

    @property
    def has_changes(self) -> bool:
        """Whether there is something to save, or to tell the scheduler."""
        return bool(self.state.dirty or self.state.dirty_views or self.state.has_freed)

    def commit(self, *, awaited: Iterable[InstanceKey] = (), is_urgent: bool = False) -> asyncio.Future[None]:
        """Save what changed; the future is done when it is durable, and what is on its way of `awaited`.

        With neither, it is done when all that is on its way is. `is_urgent`: somebody waits for an answer.
        """
        dirty = self.state.take_dirty()
        saved = self.writer.submit(self._records(dirty), dirty.events, awaited=_ids(awaited), is_urgent=is_urgent)
        self._follow_when(saved, dirty.instances)
        return saved

    def _follow_when(self, saved: asyncio.Future[None], keys: Iterable[InstanceKey]) -> None:
        if keys := tuple(keys):
            saved.add_done_callback(lambda done: self._after_save(done, keys))
        if self.state.has_freed:
            self.state.has_freed = False
            saved.add_done_callback(lambda _: self.look_for_room())
        self.flush_views()

    async def change(
        self, job_ids: Collection[str], steps: Iterable[object], awaited: Iterable[InstanceKey] = ()
    ) -> None:
        """Change many instances of some jobs step by step, as a whole or not at all, and wait until that is durable.

        Others are served in between, but for those who would change the same jobs here. What they save meanwhile has no
        part of it; should a step or the store fail, memory goes back on all of it. Raises what a step raises, or
        UnavailableError.
        """
        async with self.turns.of(job_ids):
            saved = await self._take_steps(steps, awaited)
        await asyncio.shield(saved)

    async def _take_steps(self, steps: Iterable[object], awaited: Iterable[InstanceKey]) -> asyncio.Future[None]:
        ticket = self.writer.begin()
        if self.has_changes:
            self.commit()  # of others, who need not wait for this
        keys: dict[InstanceKey, None] = {}
        try:
            for position, _ in enumerate(steps, 1):
                if position % PORTION == 0:
                    self._gather(ticket, keys)
                    await self._let_others(ticket)
            self._gather(ticket, keys)
        except BaseException:
            self._give_up(ticket)
            raise
        self.writer.close(ticket, awaited=_ids(awaited))
        self._follow_when(ticket.saved, keys)
        return ticket.saved

    async def _let_others(self, ticket: Ticket) -> None:
        """Raises what it was refused for meanwhile."""
        await asyncio.sleep(0)
        if self.has_changes:
            self.commit()
        self.writer.extend(ticket, {}, ())

    def _gather(self, ticket: Ticket, keys: dict[InstanceKey, None]) -> None:
        dirty = self.state.take_dirty()
        keys.update(dirty.instances)
        self.writer.extend(ticket, self._records(dirty), dirty.events)
        self.flush_views()

    def _give_up(self, ticket: Ticket) -> None:
        with contextlib.suppress(ClusterError):
            self._gather(ticket, {})
        self.writer.abandon(ticket)

    async def saved(self, awaited: Iterable[InstanceKey] = ()) -> None:
        """Commit and wait for it, ahead of what nobody waits for. Raises UnavailableError when the store fails."""
        await asyncio.shield(self.commit(awaited=awaited, is_urgent=True))

    def put_setting(self, name: str, value: str) -> asyncio.Future[None]:
        """Keep a named value."""
        old = self.settings.get(name)
        setting = Setting(name=name, value=value, version=(old.version if old else 0) + 1)
        self.settings[name] = setting
        return self.writer.submit({(Kind.SETTING, name): setting}, is_urgent=True)

    def _records(self, dirty: Dirty) -> dict[RecordId, Record | None]:
        records: dict[RecordId, Record | None] = {}
        for node_id in dirty.nodes:
            records[Kind.NODE, node_id] = self.state.nodes.get(node_id)
        for job_id in dirty.jobs:
            records[Kind.JOB, job_id] = self.state.jobs.get(job_id)
        for key in dirty.instances:
            records[Kind.INSTANCE, str(key)] = self.state.instances.get(key)
        return records

    def _revert(self, records: Records) -> None:
        """What was not saved never happened: memory is what the store holds."""
        for (kind, name), record in records.items():
            match kind:
                case Kind.NODE:
                    self.state.revert_node(name, record if isinstance(record, Node) else None)
                    self.leases.look(name)
                case Kind.JOB:
                    self.state.revert_job(name, record if isinstance(record, Job) else None)
                case Kind.INSTANCE:
                    key = _key_of(name)
                    self.state.revert_instance(key, record if isinstance(record, Instance) else None)
                    self._followed.append(key)
                case Kind.SETTING:
                    self.settings.pop(name, None)
                    if isinstance(record, Setting):
                        self.settings[name] = record
        self._follow_wanted.set()
        self.flush_views()
        keys = [_key_of(name) for kind, name in records if kind is Kind.INSTANCE]
        for listener in tuple(self._instance_listeners):
            listener(keys)

    def _on_saved(self, events: Sequence[Logged]) -> None:
        self.history.extend((logged.subject, logged.event) for logged in events)

    def tell(self, subject: str, kind: str, cause: str, *, state: str = "", node_id: str = "") -> None:
        """Add to the history what belongs to no record's own."""
        event = Event(at_ms=self.now_ms(), actor="manager", kind=kind, state=state, cause=cause, node_id=node_id)
        self.history.extend([(subject, event)])

    def _tell_broken(self, broken: Broken) -> None:
        cause = f"its {broken.effect.verb} cannot be sent ({broken.why}); it is tried again"
        self.tell(f"instance:{broken.effect.key}", "unsendable", cause, node_id=broken.effect.node_id)

    # What follows from what is durable

    def _after_save(self, done: asyncio.Future[None], keys: Sequence[InstanceKey]) -> None:
        if done.cancelled() or done.exception():
            return
        self._followed.extend(keys)
        for listener in self._instance_listeners:
            listener(keys)
        if len(self._followed) == len(keys):
            self._follow_portion()
        if self._followed:
            self._follow_wanted.set()

    async def follow_forever(self) -> None:
        """Act on what was saved, portion by portion."""
        while True:
            await self._follow_wanted.wait()
            self._follow_wanted.clear()
            while self._followed:
                self._follow_portion()
                await asyncio.sleep(0)

    def _follow_portion(self) -> None:
        for _ in range(min(PORTION, len(self._followed))):
            key = self._followed.popleft()
            try:
                self._follow(key)
            except Exception:  # noqa: BLE001 - what is wrong with one instance must not hold up the others
                self.counters["follow_ups_failed"] += 1
                LOG.exception("what follows from a change failed", instance=str(key))

    def _follow(self, key: InstanceKey) -> None:
        """An instance that changed again since is left to its next save."""
        instance = self.state.instances.get(key)
        if instance is None:
            self.dispatcher.forget(key)
            self.usages.pop(key, None)
            self._alarm_at.pop(key, None)
        elif self.saved_records.instances.get(key) is instance:
            self.dispatcher.consider(instance)
            self._set_alarm(instance)
            is_due = (instance.retry_at_ms or 0) <= self.now_ms()
            if is_due and wants_placement(instance) and instance.state is not InstanceState.PENDING:
                self.want_plan(key)

    def listen_instances(self, listener: InstanceListener) -> Callable[[], None]:
        """Be told the keys of instances whose change is durable; answers a function that ends it."""
        self._instance_listeners.add(listener)
        return lambda: self._instance_listeners.discard(listener)

    # Planning and alarms

    def want_plan(self, key: InstanceKey) -> None:
        """Queue an instance for the planner."""
        self.to_plan[key] = None
        self.plan_wanted.set()

    def look_for_room(self) -> None:
        """Something changed for the better: look again for what found no node."""
        self.room_sequence = self.view_sequence
        if self.state.waiting:
            self.has_room = True
            self.plan_wanted.set()

    def _set_alarm(self, instance: Instance, overdue_at_ms: int = 0) -> None:
        at_ms = min(self._alarm_times(instance), default=None)
        if at_ms is None:
            self._alarm_at.pop(instance.key, None)
            return
        if at_ms <= self.now_ms():
            at_ms = max(at_ms, overdue_at_ms)
        if self._alarm_at.get(instance.key) != at_ms:
            self._alarm_at[instance.key] = at_ms
            heapq.heappush(self._alarms, (at_ms, instance.key))

    def _alarm_times(self, instance: Instance) -> Iterable[int]:
        for _, placement in instance.placements():
            if placement.deadline_ms is not None:
                yield placement.deadline_ms
        if wants_placement(instance):
            if instance.state is InstanceState.PENDING:
                yield from fence_ends_ms(self.state, instance, self.now_ms())
            elif instance.retry_at_ms is not None:
                yield instance.retry_at_ms
        if instance.state is InstanceState.STOPPED:
            yield instance.updated_at_ms + self.policy.retention_ms

    def due_alarms(self, at_ms: int, limit: int) -> list[InstanceKey]:
        """Up to `limit` instances with a deadline, a retry, a fence or the end of their retention by then."""
        due: list[InstanceKey] = []
        while self._alarms and self._alarms[0][0] <= at_ms and len(due) < limit:
            alarm_ms, key = heapq.heappop(self._alarms)
            if self._alarm_at.get(key) == alarm_ms:
                del self._alarm_at[key]
                if key in self.state.instances:
                    due.append(key)
        return due

    def rearm(self, key: InstanceKey) -> None:
        """Set the next alarm of an instance whose last one rang without a change."""
        instance = self.state.instances.get(key)
        if instance is not None:
            pause_ms = PURGE_PAUSE_MS if instance.state is InstanceState.STOPPED else REARM_MS
            self._set_alarm(instance, overdue_at_ms=self.now_ms() + pause_ms)

    def last_heard_s(self, node: Node) -> float | None:
        """When a node was last heard, in monotonic time; None: never, in this process."""
        return self.hearing.last_heard_s((node.id, *node.aliases))

    # The scheduler's view

    def listen_views(self, listener: Callable[[Iterable[str]], None]) -> Callable[[], None]:
        """Be told the ids of nodes whose view changed; answers a function that ends it."""
        self._view_listeners.add(listener)
        return lambda: self._view_listeners.discard(listener)

    def touch_views(self, node_ids: Iterable[str]) -> None:
        """Send the view of these nodes again, changed or not."""
        self._notify_views(list(node_ids))

    def flush_views(self) -> None:
        """Tell of the nodes of which something changed that is not saved."""
        if self.state.dirty_views:
            changed, self.state.dirty_views = self.state.dirty_views, {}
            self._notify_views(list(changed))

    def _notify_views(self, node_ids: list[str]) -> None:
        self.view_sequence += 1
        for listener in self._view_listeners:
            listener(node_ids)


def _ids(keys: Iterable[InstanceKey]) -> list[RecordId]:
    return [(Kind.INSTANCE, str(key)) for key in keys]


def _key_of(name: str) -> InstanceKey:
    job_id, _, number = name.rpartition("/")
    return InstanceKey(job_id, int(number))
