"""The whole cluster in memory: nodes, jobs and instances with their indexes, changed only through here.

Every change marks its record dirty; the shell takes the dirty records, saves them, and only then acts on them.
No IO and no clock: times are passed in (`now_ms` since 1970, `now_mono_s` monotonic).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import TypeVar

from cluster.errors import ConflictError
from cluster.jobs import JobSpec, OnDisconnect, Resources
from cluster.nodes import Dialect
from manager.domain.events import DeleteRequested, DeployRequested, InstanceEvent, NodeWentDown, Planned
from manager.domain.job_registry import JobRegistry, noted
from manager.domain.machine import advance, wants_placement
from manager.domain.model import (
    Event,
    Instance,
    InstanceKey,
    InstanceState,
    Job,
    Node,
    NodeState,
    Placement,
)
from manager.domain.policy import Policy
from manager.domain.replicas import ROOT
from manager.domain.tombstones import Ended, confirmed, owing, reopened, without_node
from manager.domain.waiting import WaitingRoom

Key = TypeVar("Key")
NOTHING = Resources(cpu_millicores=0, memory_bytes=0, storage_bytes=0, gpus=0)


class ClusterState(JobRegistry):
    """Nodes, jobs and instances, and what is allocated where."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.instances: dict[InstanceKey, Instance] = {}
        self.allocated: defaultdict[str, Resources] = defaultdict(lambda: NOTHING)
        self.on_node: defaultdict[str, dict[InstanceKey, int]] = defaultdict(dict)
        self.of_job: defaultdict[str, dict[int, None]] = defaultdict(dict)
        self.waiting = WaitingRoom()
        self.leased: Counter[str] = Counter()
        self.owing: defaultdict[str, dict[InstanceKey, None]] = defaultdict(dict)
        self.touched: dict[str, bool] = {}
        self.has_freed = False
        self._peers: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._by_name: defaultdict[tuple[str, str, int], dict[InstanceKey, None]] = defaultdict(dict)
        self._named: defaultdict[tuple[str, int], dict[InstanceKey, None]] = defaultdict(dict)

    # Restoring

    def restore(self, nodes: Iterable[Node], jobs: Iterable[Job], instances: Iterable[Instance]) -> None:
        """Begin with what was saved."""
        for node in nodes:
            self._index_node(node)
        for job in jobs:
            self._index_job(job.id, job)
        for instance in instances:
            self._index(None, instance)

    def revert_node(self, node_id: str, saved: Node | None) -> None:
        """Go back to what is saved of a node (None: nothing)."""
        if saved is None:
            self._unindex_node(node_id)
            self.live.pop(node_id, None)
        else:
            self._index_node(saved)
        self.dirty_views[node_id] = None

    def revert_instance(self, key: InstanceKey, saved: Instance | None) -> None:
        """Go back to what is saved of an instance."""
        old = self.instances.pop(key, None)
        if saved is not None:
            self._index(old, saved)
        elif old is not None:
            self.waiting.change(old, None)
            self._unindex(old)
            self._unindex_number(key)

    # Nodes

    def remove_node(self, node_id: str) -> None:
        """Forget a node that holds nothing, and what it owes. Raises ConflictError while it holds something."""
        if self.on_node.get(node_id):
            raise ConflictError(f"node {node_id} still holds {len(self.on_node[node_id])} instances", field="node")
        for key in tuple(self.owing.get(node_id, ())):
            instance = self.instances[key]
            self.put(replace(instance, ended=without_node(instance.ended, node_id)))
        self._unindex_node(node_id)
        self.live.pop(node_id, None)
        self.allocated.pop(node_id, None)
        self.dirty.nodes[node_id] = None
        self.dirty_views[node_id] = None

    # Jobs and instances

    def deploy(
        self, wanted: Sequence[tuple[InstanceKey, JobSpec]], actor: str, now_ms: int, *, rerun_id: str = ""
    ) -> list[Instance]:
        """Save that instances should run. Repeating it changes nothing.

        `rerun_id` is the id of a request that asks for another run of what has ended: a new one starts it, the last one
        again does not.
        """
        return list(self.deploying(wanted, actor, now_ms, rerun_id=rerun_id))

    def deploying(
        self, wanted: Iterable[tuple[InstanceKey, JobSpec]], actor: str, now_ms: int, *, rerun_id: str = ""
    ) -> Iterator[Instance]:
        """`deploy`, one after the other."""
        return (self._deploy_one(key, spec, actor, now_ms, rerun_id) for key, spec in wanted)

    def _deploy_one(self, key: InstanceKey, spec: JobSpec, actor: str, now_ms: int, rerun_id: str) -> Instance:
        self.put_job_spec(key.job_id, spec, actor, now_ms)
        if key in self.instances:
            wish = DeployRequested(actor=actor, spec=spec, is_rerun=bool(rerun_id), request_id=rerun_id)
            return self.apply(key, wish, now_ms)
        fresh = Instance(
            key=key,
            spec=spec,
            is_desired=True,
            state=InstanceState.REQUESTED,
            rerun_id=rerun_id,
            created_at_ms=now_ms,
        )
        cause = "it was requested"
        event = Event(at_ms=now_ms, actor=actor, kind="requested", state=fresh.state, cause=cause)
        return self.put(replace(fresh.recorded(event), detail=cause))

    def redeploy(self, key: InstanceKey, spec: JobSpec, now_ms: int) -> Instance:
        """Give one instance a specification on behalf of an update of its job; what failed on it is tried again."""
        return self.apply(key, DeployRequested(actor="manager", spec=spec, is_rerun=True), now_ms)

    def delete(self, keys: Iterable[InstanceKey], actor: str, now_ms: int) -> list[Instance]:
        """Save that instances should not run; number -1 means all of the job. Unknown ones are passed over."""
        return list(self.deleting(keys, actor, now_ms))

    def deleting(self, keys: Iterable[InstanceKey], actor: str, now_ms: int) -> Iterator[Instance]:
        """`delete`, one after the other."""
        keys = tuple(keys)
        for key in self._expand(keys):
            if key in self.instances:
                yield self._delete_one(key, actor, now_ms)
        for job_id in {key.job_id: None for key in keys if self._ends_job(key, actor)}:
            self._end_kept(job_id)

    def keep_job(self, job_id: str, actor: str, now_ms: int) -> None:
        """A job that was scaled to no instances lives on until it is deleted."""
        job = self.jobs[job_id]
        if not job.is_kept:
            cause = "it has no instances now and is kept until it is deleted"
            self.put_job(noted(replace(job, is_kept=True), actor, "scaled_to_0", cause, now_ms))

    def _ends_job(self, key: InstanceKey, actor: str) -> bool:
        """Whether a delete is about all of a job that is kept without instances.

        A root names only some of the instances of a service that it deletes, and nothing of what is gone here.
        """
        job = self.jobs.get(key.job_id)
        if job is None or not job.is_kept or self._wanted.get(key.job_id):
            return False
        return key.number == -1 or actor == job.owner == ROOT

    def _end_kept(self, job_id: str) -> None:
        self.put_job(replace(self.jobs[job_id], is_kept=False))
        if not self.of_job.get(job_id):
            self._drop_job(job_id)

    def _expand(self, keys: Iterable[InstanceKey]) -> list[InstanceKey]:
        expanded: dict[InstanceKey, None] = {}
        for key in keys:
            numbers = self.of_job.get(key.job_id, {}) if key.number == -1 else (key.number,)
            expanded.update(dict.fromkeys(InstanceKey(key.job_id, number) for number in numbers))
        return [key for key in expanded if key in self.instances]

    def _delete_one(self, key: InstanceKey, actor: str, now_ms: int) -> Instance:
        instance = self.apply(key, DeleteRequested(actor=actor), now_ms)
        for _, placement in tuple(instance.placements()):
            if self._is_gone(placement.node_id):
                event = NodeWentDown(node_id=placement.node_id, cause="it is down")
                instance = self.apply(key, event, now_ms)
        return instance

    def _is_gone(self, node_id: str) -> bool:
        node = self.nodes.get(node_id)
        return node is None or node.state is NodeState.DOWN

    def apply(self, key: InstanceKey, event: InstanceEvent, now_ms: int) -> Instance:
        """Advance one instance by one event."""
        old = self.instances[key]
        new = advance(old, event, now_ms, self.policy)
        return old if new is old else self.put(new)

    def put(self, instance: Instance) -> Instance:
        """Replace an instance, keep the indexes right and mark it dirty."""
        old = self.instances.get(instance.key)
        instance = replace(instance, version=(old.version if old else 0) + 1)
        self._index(old, instance)
        if instance.key.job_id in self.updating:
            self.touched[instance.key.job_id] = True
        self.dirty.instances[instance.key] = None
        self._log(f"instance:{instance.key}", old, instance)
        return instance

    def purge(self, key: InstanceKey) -> None:
        """Forget an instance that ended, and with the last one its job, unless that is kept."""
        instance = self.instances.pop(key)
        self.waiting.change(instance, None)
        self._unindex(instance)
        self.dirty.instances[key] = None
        if self._unindex_number(key) and not self.is_living(key.job_id):
            self._drop_job(key.job_id)

    def _unindex_number(self, key: InstanceKey) -> bool:
        """Whether it was the last one of its job."""
        numbers = self.of_job[key.job_id]
        numbers.pop(key.number, None)
        if numbers:
            return False
        del self.of_job[key.job_id]
        self._peers.pop(key.job_id, None)
        return True

    def _index(self, old: Instance | None, new: Instance) -> None:
        if old is not None:
            self._unindex(old)
            self._note_closed(new, _held(old) - _held(new))
        self.waiting.change(old, new)
        self.instances[new.key] = new
        if new.is_desired:
            self._count_wanted(new.key.job_id, 1)
        for item in owing(new.ended):
            self.owing[item.node_id][new.key] = None
        self.of_job[new.key.job_id][new.key.number] = None
        self._named[new.spec.name, new.key.number][new.key] = None
        for _, placement in new.placements():
            self._reserve(new.key, placement)

    def _note_closed(self, instance: Instance, closed: set[tuple[str, int]]) -> None:
        """Room is free; an engine may still have what ended there."""
        self.has_freed |= bool(closed)
        for ended in instance.ended:
            node = self.nodes.get(ended.node_id) if (ended.node_id, ended.generation) in closed else None
            if node is not None and node.registration.dialect.is_engine:
                self.live[node.id].listing.closing[instance.spec.name, instance.key.number] = ended.at_ms

    def _reserve(self, key: InstanceKey, placement: Placement) -> None:
        node_id = placement.node_id
        self.allocated[node_id] = self.allocated[node_id] + placement.spec.demand
        held = self.on_node[node_id]
        held[key] = held.get(key, 0) + 1
        peers = self._peers[key.job_id]
        peers[node_id] = peers.get(node_id, 0) + 1
        self._by_name[node_id, placement.spec.name, key.number][key] = None
        if placement.spec.on_disconnect is OnDisconnect.STOP_AFTER:
            self.leased[node_id] += 1
        self.dirty_views[node_id] = None

    def _unindex(self, instance: Instance) -> None:
        if instance.is_desired:
            self._count_wanted(instance.key.job_id, -1)
        for item in owing(instance.ended):
            self.owing[item.node_id].pop(instance.key, None)
            if not self.owing[item.node_id]:
                del self.owing[item.node_id]
        named = (instance.spec.name, instance.key.number)
        self._named[named].pop(instance.key, None)
        if not self._named[named]:
            del self._named[named]
        for _, placement in instance.placements():
            node_id = placement.node_id
            self.allocated[node_id] = self.allocated[node_id] - placement.spec.demand
            if placement.spec.on_disconnect is OnDisconnect.STOP_AFTER:
                _count_down(self.leased, node_id)
            _count_down(self.on_node[node_id], instance.key)
            _count_down(self._peers[instance.key.job_id], node_id)
            name = (node_id, placement.spec.name, instance.key.number)
            self._by_name[name].pop(instance.key, None)
            if not self._by_name[name]:
                del self._by_name[name]
            self.dirty_views[node_id] = None

    # Placing

    def unfit_reason(self, node_id: str, spec: JobSpec, released: Resources = NOTHING) -> str:
        """Why a node cannot take one more instance now, on the current state; "" where it can."""
        node = self.nodes.get(node_id)
        if node is None:
            return "the node is unknown"
        if self.state_of(node) is not NodeState.READY:
            return f"the node is {self.state_of(node)}"
        if node.is_cordoned:
            return "the node is cordoned"
        if spec.technology not in node.registration.technologies:
            return f"the node has no {spec.technology}"
        short = node.capacity.fits(spec.demand, self.allocated[node_id] - released)
        return f"the node has not enough {short}" if short else ""

    def place(self, key: InstanceKey, node_id: str, now_ms: int, cause: str = "") -> str:
        """Re-check a plan and reserve; answers why not, or "" once it is placed (or no longer wanted)."""
        instance = self.instances.get(key)
        if instance is None or not wants_placement(instance):
            return ""
        reason = self.unfit_reason(node_id, instance.spec, self._released(instance, node_id))
        if reason:
            return reason
        self.apply(
            key,
            Planned(
                node_id=node_id,
                generation=max(instance.generation + 1, now_ms),
                deadline_ms=self.first_deadline_ms(node_id, now_ms),
                cause=cause,
            ),
            now_ms,
        )
        return ""

    def _released(self, instance: Instance, node_id: str) -> Resources:
        """What the instance itself gives back there: a worker stops an older copy before it starts another."""
        node = self.nodes.get(node_id)
        if node is None or node.registration.dialect is not Dialect.WORKER:
            return NOTHING
        return sum((p.spec.demand for _, p in instance.placements() if p.node_id == node_id), NOTHING)

    def first_deadline_ms(self, node_id: str, now_ms: int) -> int | None:
        """When a node's first answer is due, to a deploy or after it was away; None from one that never reported."""
        node = self.nodes[node_id]
        if node.registration.dialect.is_engine:
            return now_ms + self.policy.engine_deadline_ms
        if node.registration.dialect is Dialect.SEED and not node.has_reported:
            return None
        return now_ms + self.policy.schedule_deadline_ms

    def find_reported(self, node_id: str, job_name: str, number: int) -> InstanceKey | None:
        """The newest open placement that a report without job id and generation can mean."""
        keys = self._by_name.get((node_id, job_name, number), {})
        found = [(item[1].generation, key) for key in keys if (item := self.instances[key].find(node_id, None))]
        return max(found)[1] if found else None

    def find_ended(self, node_id: str, job_name: str, number: int) -> tuple[Instance, Ended] | None:
        """The newest closed placement on a node of an instance of that name, and the instance."""
        found = [
            (ended.generation, key, ended)
            for key in self._named.get((job_name, number), {})
            for ended in self.instances[key].ended
            if ended.node_id == node_id
        ]
        if not found:
            return None
        _, key, ended = max(found, key=lambda item: item[0])
        return self.instances[key], ended

    # What nodes owe

    def owes(self, key: InstanceKey) -> list[Ended]:
        """What has ended of an instance on nodes of this cluster that have not confirmed it."""
        return [item for item in owing(self.instances[key].ended) if item.node_id in self.nodes]

    def confirm(self, key: InstanceKey, node_id: str, generation: int | None) -> None:
        """A node said that nothing of an instance up to a generation (None: of any) is left: it may get it again."""
        instance = self.instances[key]
        ended = confirmed(instance.ended, node_id, generation)
        if ended is not instance.ended:
            self.has_freed = True
            self.put(replace(instance, ended=ended))

    def reopen(self, key: InstanceKey, node_id: str, generation: int, now_ms: int) -> None:
        """A node runs what had ended there: it owes a confirmation anew."""
        instance = self.instances[key]
        ended = reopened(instance.ended, node_id, generation, now_ms)
        if ended is not instance.ended:
            self.put(replace(instance, ended=ended))

    def named(self, job_name: str, number: int) -> list[Instance]:
        """The instances of that name and number, of whatever job: nodes without generations take them for one."""
        return [self.instances[key] for key in self._named.get((job_name, number), ())]

    def peers(self, job_id: str) -> dict[str, int]:
        """How many open placements of a job each node has."""
        return dict(self._peers.get(job_id, {}))


def _held(instance: Instance) -> set[tuple[str, int]]:
    return {(placement.node_id, placement.generation) for _, placement in instance.placements()}


def _count_down(counts: MutableMapping[Key, int], key: Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
