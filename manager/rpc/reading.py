"""What callers read: lists, pages, single records and the status, from what is saved."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from cluster.convert import duration
from cluster.errors import InvalidInputError, NotFoundError, UnavailableError
from cluster.process import version
from cluster.v1 import event_pb2, instance_pb2, job_pb2, manager_pb2, node_pb2
from manager.core import Core
from manager.domain.model import Event, Instance, InstanceKey, InstanceState, Job, Node, NodeLive
from manager.domain.silence import as_heard, queued
from manager.figures import instance_counts, node_counts
from manager.history import Entry
from manager.portions import in_portions
from manager.ports import Kind
from manager.rpc.convert import (
    INSTANCE_STATES,
    NODE_STATES,
    entry_to_proto,
    event_to_proto,
    instance_to_proto,
    job_to_proto,
    node_to_proto,
    orphan_to_proto,
    shown_state,
)
from manager.rpc.paging import page, size_of

END: Final = "\U0010ffff"  # behind every id of one name
MAX_TOLD: Final = 1000
_SEPARATOR: Final = "/"
_NUMBER: Final = re.compile(r"[0-9]{1,20}\Z", re.ASCII)


class Reader:
    """Queries on what is saved; what nodes measure, and whether they are heard, is of this moment."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._saved = core.saved_records

    # Nodes

    def node(self, node: Node) -> node_pb2.Node:
        """A node with what it measured and what is reserved on it."""
        state = self._core.state
        return node_to_proto(
            node,
            state.live.get(node.id) or NodeLive(),
            state.allocated[node.id],
            sum(state.on_node[node.id].values()),
            self._core.sequences.settled,
        )

    def nodes(self, request: manager_pb2.ListNodesRequest) -> manager_pb2.ListNodesResponse:
        """A page of nodes by name."""
        wanted = set(request.states)
        names = self._saved.node_names
        after = (request.page_token, END) if request.page_token else None
        nodes = (self._saved.nodes[node_id] for _, node_id in names.after(after))
        found = (node for node in nodes if request.name in ("", node.name) and self._is_in(node, wanted))
        chosen, has_more = page(found, size_of(request.page_size))
        token = chosen[-1].name if has_more else ""
        return manager_pb2.ListNodesResponse(nodes=map(self.node, chosen), next_page_token=token)

    def _is_in(self, node: Node, wanted: Collection[int]) -> bool:
        return not wanted or NODE_STATES[shown_state(node, self._core.state.live.get(node.id))] in wanted

    async def get_node(self, request: manager_pb2.GetNodeRequest) -> manager_pb2.GetNodeResponse:
        """One node with its history and what runs there unknown."""
        node = self._saved_node(request.node)
        events = [event_to_proto(event, f"node:{node.id}") for event in await self._history(Kind.NODE, node.id, node)]
        held = self._core.orphans.get(node.id, {})
        orphans = [orphan_to_proto(held[name]) for name in sorted(held)]
        return manager_pb2.GetNodeResponse(node=self.node(node), events=events, orphans=orphans)

    def _saved_node(self, reference: str) -> Node:
        node = self._core.state.get_node(reference)
        saved = self._saved.nodes.get(node.id)
        if saved is None:
            raise NotFoundError(f"there is no node {reference!r}", field="node")
        return saved

    async def _history(self, kind: Kind, record_id: str, record: Node | Job | Instance) -> Sequence[Event]:
        """From the log; while that cannot be read, what the record itself remembers."""
        try:
            return await self._core.writer.ask(lambda store: store.events(f"{kind.value}:{record_id}"))
        except UnavailableError:
            return record.events

    # Jobs

    def job(self, job: Job) -> job_pb2.Job:
        """A job with the sum of its instances."""
        return job_to_proto(job, map(self._shown, self._saved.of_job(job.id)))

    async def jobs(self, request: manager_pb2.ListJobsRequest) -> manager_pb2.ListJobsResponse:
        """A page of jobs by id. Each counts its instances, so that others are served between them."""
        jobs = (self._saved.jobs[job_id] for job_id in self._saved.job_ids.after(request.page_token or None))
        found = (job for job in jobs if request.name in ("", job.spec.name))
        chosen, has_more = page(found, size_of(request.page_size))
        response = manager_pb2.ListJobsResponse(next_page_token=chosen[-1].id if has_more else "")
        for job in chosen:
            response.jobs.append(self.job(job))
            await asyncio.sleep(0)
        return response

    def find_job(self, reference: str) -> Job:
        """The job of an id, the living one of a name, or the last one that had it.

        Raises NotFoundError, or InvalidInputError where several living jobs have the name.
        """
        job = self._saved.jobs.get(reference) or self._saved.jobs.get(self._core.state.find_job(reference).id)
        if job is None:
            raise NotFoundError(f"there is no job {reference!r}", field="job")
        return job

    async def get_job(self, request: manager_pb2.GetJobRequest) -> manager_pb2.GetJobResponse:
        """One job with its instances."""
        job = self.find_job(request.job)
        instances = list(self._saved.of_job(job.id))
        response = manager_pb2.GetJobResponse(job=self.job(job))
        response.instances.extend([self.instance(item) async for item in in_portions(instances)])
        return response

    # Instances

    def _shown(self, instance: Instance) -> Instance:
        """UNKNOWN where nobody knows what became of it: its node is silent, and nothing was decided yet.

        Where its delete waits for others, because its engine carries out one after the other, that is said.
        """
        shown = as_heard(instance, self._core.leases.is_silent(instance.node_id), self._trouble(instance.node_id))
        ahead = self._core.dispatcher.ahead_of(instance.key) if shown.state is InstanceState.STOPPING else 0
        return replace(shown, detail=queued(ahead)) if ahead else shown

    def _trouble(self, node_id: str) -> str:
        node = self._core.state.nodes.get(node_id)
        live = self._core.state.live.get(node_id)
        return (live.trouble if live else "") or (node.detail if node else "")

    def instance(self, instance: Instance) -> instance_pb2.Instance:
        """An instance with what its worker measured."""
        return instance_to_proto(self._shown(instance), self._core.usages.get(instance.key))

    def find_instance(self, key: instance_pb2.InstanceKey) -> Instance:
        """An instance as it is shown. Raises NotFoundError."""
        instance = self._saved.instances.get(InstanceKey(key.job_id, key.number))
        if instance is None:
            field = "instance_number" if self._core.state.of_job.get(key.job_id) else "job_id"
            raise NotFoundError(f"there is no instance {key.job_id}/{key.number}", field=field)
        return self._shown(instance)

    async def whole_instance(self, instance: Instance) -> instance_pb2.Instance:
        """An instance with specification and history."""
        events = await self._history(Kind.INSTANCE, str(instance.key), instance)
        return instance_to_proto(instance, self._core.usages.get(instance.key), events=events)

    def instances(self, request: manager_pb2.ListInstancesRequest) -> manager_pb2.ListInstancesResponse:
        """A page of instances by job and number."""
        found = filter(self._instance_filter(request), map(self._shown, self._candidates(request)))
        chosen, has_more = page(found, size_of(request.page_size))
        token = str(chosen[-1].key) if has_more else ""
        shown = (instance_to_proto(item, self._core.usages.get(item.key)) for item in chosen)
        return manager_pb2.ListInstancesResponse(instances=shown, next_page_token=token)

    def _candidates(self, request: manager_pb2.ListInstancesRequest) -> Iterable[Instance]:
        """In order, from behind the token: those of a job or of a node, where one is named."""
        after = _instance_token(request.page_token)
        if request.job_id:
            first = after if after and after.job_id == request.job_id else None
            return (item for item in self._saved.of_job(request.job_id) if first is None or item.key > first)
        if request.node:
            held = self._saved.on_node(self._core.state.get_node(request.node).id)
            return [item for item in held if after is None or item.key > after]
        return (self._saved.instances[key] for key in self._saved.instance_keys.after(after))

    def _instance_filter(self, request: manager_pb2.ListInstancesRequest) -> Callable[[Instance], bool]:
        wanted = set(request.states)
        node_id = self._core.state.get_node(request.node).id if request.node else ""

        def keep(instance: Instance) -> bool:
            if wanted and INSTANCE_STATES[instance.state] not in wanted:
                return False
            return not node_id or any(p.node_id == node_id for _, p in instance.placements())

        return keep

    # Events and status

    def events(self, request: manager_pb2.ListEventsRequest) -> manager_pb2.ListEventsResponse:
        """A page of the history, newest first."""
        size = size_of(request.page_size)
        before = _event_token(request.page_token)
        found = self._core.history.newest_first(self._event_filter(request), before, size + 1)
        chosen, has_more = found[:size], len(found) > size
        token = str(chosen[-1].id) if has_more else ""
        return manager_pb2.ListEventsResponse(events=map(entry_to_proto, chosen), next_page_token=token)

    def _event_filter(self, request: manager_pb2.ListEventsRequest) -> Callable[[Entry], bool]:
        node_id = self._core.state.get_node(request.node).id if request.node else ""
        number = request.instance_number if request.HasField("instance_number") else None

        def keep(entry: Entry) -> bool:
            if request.job_id and entry.job_id != request.job_id:
                return False
            if number is not None and entry.instance_number != number:
                return False
            return not node_id or node_id in (entry.event.node_id, entry.subject.removeprefix("node:"))

        return keep

    def status(self, parts: list[manager_pb2.PartStatus], name: str) -> manager_pb2.GetStatusResponse:
        """How the cluster stands."""
        core = self._core
        root = next((part for part in parts if part.name == "root"), None)
        held = list(core.leases.held())
        hold = core.leases.hold_of(held[0]) if held else None
        return manager_pb2.GetStatusResponse(
            cluster_id=core.cluster_id,
            cluster_name=name,
            parts=parts,
            is_connected_to_root=bool(root and root.is_ready),
            node_counts=node_counts(core),
            instance_counts=instance_counts(core),
            counters=core.counters,
            version=version(),
            held_node_ids=sorted(held)[:MAX_TOLD],
            held_node_count=len(held),
            hold_cause=hold.cause if hold else "",
            hold_left=duration(hold.left_s) if hold and isfinite(hold.left_s) else None,
            quarantined=[f"{kind.value} {record_id}" for kind, record_id in sorted(core.quarantined)][:MAX_TOLD],
            unsendable=sorted({str(broken.effect.key) for broken in core.dispatcher.broken.values()})[:MAX_TOLD],
        )


def event_message(entries: list[Entry]) -> list[event_pb2.Event]:
    """Entries as messages."""
    return [entry_to_proto(entry) for entry in entries]


def _instance_token(token: str) -> InstanceKey | None:
    if not token:
        return None
    job_id, separator, number = token.rpartition(_SEPARATOR)
    if not separator or not _NUMBER.match(number):
        raise InvalidInputError("page_token is not one that was given out", field="page_token")
    return InstanceKey(job_id, int(number))


def _event_token(token: str) -> int:
    if token and not _NUMBER.match(token):
        raise InvalidInputError("page_token is not one that was given out", field="page_token")
    return int(token or 0)
