"""The heart of the shell: the cluster's state, its saving, its history, and what follows from a saved change.

Everything that changes the state calls `commit` right after; commands go out only for what is durable.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from cluster.errors import UnavailableError
from cluster.payloads import ResourceEntry
from cluster.process import LOG
from manager.clock import CLOCK
from manager.dispatcher import Dispatcher
from manager.domain.aggregate import ClusterState
from manager.domain.machine import wants_placement
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, Record, Setting
from manager.domain.policy import Policy
from manager.domain.registry import Dirty
from manager.history import History
from manager.ports import Contents, Kind, Store
from manager.writer import RecordId, Writer

REARM_MS: Final = 1000


def now_ms() -> int:
    """Milliseconds since 1970, by a clock that does not jump."""
    return CLOCK.now_ms()


class Core:
    """State, writer, history, dispatcher and the queue of instances that want a node."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.policy = policy
        self.state = ClusterState(policy)
        self.history = History()
        self.dispatcher = Dispatcher(self.find_node, engine_period_s=policy.engine_period_ms / 1000)
        self.counters: Counter[str] = Counter()
        self.settings: dict[str, Setting] = {}
        self.usages: dict[InstanceKey, ResourceEntry] = {}
        self.orphans: dict[str, dict[tuple[str, int], ResourceEntry]] = {}
        self.writer = Writer(store, self.adopt)
        self.to_plan: dict[InstanceKey, None] = {}
        self.plan_wanted = asyncio.Event()
        self.plan_sequence = 0
        self.applied_sequence = 0
        self.may_purge: Callable[[InstanceKey], bool] = lambda _key: True
        self._alarms: list[tuple[int, InstanceKey]] = []
        self._view_listeners: set[Callable[[Iterable[str]], None]] = set()
        self._instance_listeners: set[Callable[[Iterable[InstanceKey]], None]] = set()

    async def open(self) -> None:
        """Open the store and take over what it holds."""
        self.adopt(await self.writer.open())

    def adopt(self, contents: Contents) -> None:
        """Replace memory by what was saved."""
        histories = [item.events for item in contents.nodes] + [item.events for item in contents.instances]
        if behind_ms := CLOCK.start_after(max((events[-1].at_ms for events in histories if events), default=0)):
            LOG.warning(
                "the machine's clock is behind the newest record; going on from that", behind_s=behind_ms / 1000
            )
        known = list(self.state.instances)
        self.state.restore(contents.nodes, contents.jobs, contents.instances)
        self.history.rebuild(contents.nodes, contents.jobs, contents.instances)
        self.settings = {item.name: item for item in contents.settings}
        self.dispatcher.forget_all()
        self._alarms = []
        self.to_plan.clear()
        for instance in contents.instances:
            self._follow_up(instance)
            self._set_alarm(instance)
        self._notify_views(list(self.state.nodes))
        self._notify_instances(dict.fromkeys([*known, *self.state.instances]))
        LOG.info("state loaded", nodes=len(contents.nodes), jobs=len(contents.jobs), instances=len(contents.instances))

    def find_node(self, node_id: str) -> Node | None:
        """The node of an id of ours."""
        return self.state.nodes.get(node_id)

    @property
    def cluster_id(self) -> str:
        """The id that this cluster gave itself when its store was made."""
        return self.settings["cluster_id"].value

    def require_store(self) -> None:
        """Raise UnavailableError before anything is changed while the store does not work."""
        if self.writer.failure:
            raise UnavailableError(f"the store does not work: {self.writer.failure}; repeat the call later")

    # Saving

    def commit(self) -> asyncio.Future[None]:
        """Save what changed; the future is done when it, and all before it, is durable. Effects follow from it."""
        dirty = self.state.take_dirty()
        self.history.extend(dirty.events)
        saved = self.writer.submit(self._records(dirty))
        if dirty.instances:
            versions = {key: self._version(key) for key in dirty.instances}
            saved.add_done_callback(lambda done: self._after_save(done, versions))
        self._flush_views()
        return saved

    async def saved(self) -> None:
        """Commit and wait for it. Raises UnavailableError when the store fails."""
        await asyncio.shield(self.commit())

    def put_setting(self, name: str, value: str) -> asyncio.Future[None]:
        """Keep a named value."""
        old = self.settings.get(name)
        setting = Setting(name=name, value=value, version=(old.version if old else 0) + 1)
        self.settings[name] = setting
        return self.writer.submit({(Kind.SETTING, name): setting})

    def _records(self, dirty: Dirty) -> dict[RecordId, Record | None]:
        records: dict[RecordId, Record | None] = {}
        for node_id in dirty.nodes:
            records[Kind.NODE, node_id] = self.state.nodes.get(node_id)
        for job_id in dirty.jobs:
            records[Kind.JOB, job_id] = self.state.jobs.get(job_id)
        for key in dirty.instances:
            records[Kind.INSTANCE, str(key)] = self.state.instances.get(key)
        return records

    def _version(self, key: InstanceKey) -> int:
        instance = self.state.instances.get(key)
        return instance.version if instance else 0

    def _after_save(self, done: asyncio.Future[None], versions: dict[InstanceKey, int]) -> None:
        """Act on what is durable; an instance that changed again since is left to its next save."""
        if done.cancelled() or done.exception():
            return
        for key, version in versions.items():
            instance = self.state.instances.get(key)
            if instance is None:
                self.dispatcher.forget(key)
                self.usages.pop(key, None)
            elif instance.version == version:
                self._follow_up(instance)
                self._set_alarm(instance)
        self._notify_instances(versions)

    def _follow_up(self, instance: Instance) -> None:
        self.dispatcher.consider(instance)
        if wants_placement(instance) and (instance.retry_at_ms or 0) <= now_ms():
            self.want_plan(instance.key)

    # Planning and alarms

    def want_plan(self, key: InstanceKey) -> None:
        """Queue an instance for the planner."""
        self.to_plan[key] = None
        self.plan_wanted.set()

    def retry_pending(self) -> None:
        """Something changed for the better: look again for whatever found no node."""
        for instance in self.state.instances.values():
            if instance.state is InstanceState.PENDING and instance.is_desired:
                self.want_plan(instance.key)

    def _set_alarm(self, instance: Instance, overdue_at_ms: int = 0) -> None:
        times = [p.deadline_ms for _, p in instance.placements() if p.deadline_ms is not None]
        if instance.retry_at_ms is not None and wants_placement(instance):
            times.append(instance.retry_at_ms)
        if instance.state is InstanceState.STOPPED:
            times.append(instance.updated_at_ms + self.policy.retention_ms)
        if times:
            at_ms = min(times)
            heapq.heappush(self._alarms, (max(at_ms, overdue_at_ms) if at_ms <= now_ms() else at_ms, instance.key))

    def due_alarms(self, at_ms: int) -> list[InstanceKey]:
        """The instances with a deadline, a retry or the end of their retention at or before a time."""
        due: dict[InstanceKey, None] = {}
        while self._alarms and self._alarms[0][0] <= at_ms:
            due[heapq.heappop(self._alarms)[1]] = None
        return [key for key in due if key in self.state.instances]

    def rearm(self, key: InstanceKey) -> None:
        """Set the next alarm of an instance whose last one rang without a change."""
        if key in self.state.instances:
            self._set_alarm(self.state.instances[key], overdue_at_ms=now_ms() + REARM_MS)

    # Who wants to hear of instances

    def listen_instances(self, listener: Callable[[Iterable[InstanceKey]], None]) -> Callable[[], None]:
        """Be told the keys of instances whose change became durable, or that were removed; answers what ends it."""
        self._instance_listeners.add(listener)
        return lambda: self._instance_listeners.discard(listener)

    def _notify_instances(self, keys: Iterable[InstanceKey]) -> None:
        for listener in tuple(self._instance_listeners):
            listener(keys)

    # The scheduler's view

    def listen_views(self, listener: Callable[[Iterable[str]], None]) -> Callable[[], None]:
        """Be told the ids of nodes whose view changed; answers a function that ends it."""
        self._view_listeners.add(listener)
        return lambda: self._view_listeners.discard(listener)

    def touch_views(self, node_ids: Iterable[str]) -> None:
        """Send the view of these nodes again, changed or not."""
        self._notify_views(list(node_ids))

    def _flush_views(self) -> None:
        if self.state.dirty_views:
            changed, self.state.dirty_views = self.state.dirty_views, {}
            self._notify_views(list(changed))

    def _notify_views(self, node_ids: list[str]) -> None:
        for listener in self._view_listeners:
            listener(node_ids)
