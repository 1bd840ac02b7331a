"""What callers read: lists, pages, single records and the status, from memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Final

from cluster.errors import InvalidInputError, NotFoundError
from cluster.process import version
from cluster.v1 import event_pb2, instance_pb2, job_pb2, manager_pb2, node_pb2
from manager.core import Core
from manager.domain.model import Instance, InstanceKey, Job, Node
from manager.history import Entry
from manager.rpc.convert import (
    INSTANCE_STATES,
    NODE_STATES,
    entry_to_proto,
    event_to_proto,
    instance_to_proto,
    job_to_proto,
    node_to_proto,
    orphan_to_proto,
)
from manager.rpc.paging import page, size_of

_SEPARATOR: Final = "/"
_NUMBER: Final = re.compile(r"[0-9]{1,20}\Z", re.ASCII)


class Reader:
    """Queries on the state."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # Nodes

    def node(self, node: Node) -> node_pb2.Node:
        """A node with what it measured and what is reserved on it."""
        state = self._core.state
        return node_to_proto(
            node,
            state.live[node.id],
            state.allocated[node.id],
            sum(state.on_node[node.id].values()),
            self._core.applied_sequence,
        )

    def nodes(self, request: manager_pb2.ListNodesRequest) -> manager_pb2.ListNodesResponse:
        """A page of nodes by name."""
        wanted = set(request.states)
        found = (
            node
            for node in self._core.state.nodes.values()
            if (not wanted or NODE_STATES[node.state] in wanted) and request.name in ("", node.name)
        )
        chosen, has_more = page(found, lambda node: node.name, request.page_token or None, size_of(request.page_size))
        token = chosen[-1].name if has_more else ""
        return manager_pb2.ListNodesResponse(nodes=map(self.node, chosen), next_page_token=token)

    def get_node(self, request: manager_pb2.GetNodeRequest) -> manager_pb2.GetNodeResponse:
        """One node with its history and what runs there unknown."""
        node = self._core.state.get_node(request.node)
        events = [event_to_proto(event, f"node:{node.id}") for event in node.events]
        held = self._core.orphans.get(node.id, {})
        orphans = [orphan_to_proto(held[name]) for name in sorted(held)]
        return manager_pb2.GetNodeResponse(node=self.node(node), events=events, orphans=orphans)

    # Jobs

    def job(self, job: Job) -> job_pb2.Job:
        """A job with the sum of its instances."""
        return job_to_proto(job, self._instances_of(job.id))

    def _instances_of(self, job_id: str) -> list[Instance]:
        state = self._core.state
        return [state.instances[InstanceKey(job_id, number)] for number in sorted(state.of_job.get(job_id, {}))]

    def jobs(self, request: manager_pb2.ListJobsRequest) -> manager_pb2.ListJobsResponse:
        """A page of jobs by id."""
        found = (job for job in self._core.state.jobs.values() if request.name in ("", job.spec.name))
        chosen, has_more = page(found, lambda job: job.id, request.page_token or None, size_of(request.page_size))
        token = chosen[-1].id if has_more else ""
        return manager_pb2.ListJobsResponse(jobs=map(self.job, chosen), next_page_token=token)

    def get_job(self, request: manager_pb2.GetJobRequest) -> manager_pb2.GetJobResponse:
        """One job with its instances."""
        job = self._core.state.find_job(request.job)
        return manager_pb2.GetJobResponse(job=self.job(job), instances=map(self.instance, self._instances_of(job.id)))

    # Instances

    def instance(self, instance: Instance) -> instance_pb2.Instance:
        """An instance with what its worker measured."""
        return instance_to_proto(instance, self._core.usages.get(instance.key))

    def whole_instance(self, key: instance_pb2.InstanceKey) -> tuple[Instance, instance_pb2.Instance]:
        """An instance with specification and history. Raises NotFoundError."""
        instance = self._core.state.instances.get(InstanceKey(key.job_id, key.number))
        if instance is None:
            field = "instance_number" if self._core.state.of_job.get(key.job_id) else "job_id"
            raise NotFoundError(f"there is no instance {key.job_id}/{key.number}", field=field)
        return instance, instance_to_proto(instance, self._core.usages.get(instance.key), is_whole=True)

    def instances(self, request: manager_pb2.ListInstancesRequest) -> manager_pb2.ListInstancesResponse:
        """A page of instances by job and number."""
        found = filter(self._instance_filter(request), self._candidates(request))
        after = _instance_token(request.page_token)
        chosen, has_more = page(found, lambda item: item.key, after, size_of(request.page_size))
        token = str(chosen[-1].key) if has_more else ""
        return manager_pb2.ListInstancesResponse(instances=map(self.instance, chosen), next_page_token=token)

    def _candidates(self, request: manager_pb2.ListInstancesRequest) -> list[Instance]:
        if request.job_id:
            return self._instances_of(request.job_id)
        return list(self._core.state.instances.values())

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
        state = self._core.state
        root = next((part for part in parts if part.name == "root"), None)
        return manager_pb2.GetStatusResponse(
            cluster_id=self._core.cluster_id,
            cluster_name=name,
            parts=parts,
            is_connected_to_root=bool(root and root.is_ready),
            node_counts=Counter(node.state.value for node in state.nodes.values()),
            instance_counts=Counter(item.state.value for item in state.instances.values()),
            counters=self._core.counters,
            version=version(),
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
