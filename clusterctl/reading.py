"""Lists of nodes, jobs, instances, orphans and events as records, all pages of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cluster.v1 import event_pb2, instance_pb2, manager_pb2, node_pb2
from clusterctl.client import Manager
from clusterctl.exits import UsageError
from clusterctl.names import find_job, parse_name
from clusterctl.records import Record, instance_record, job_record, node_record, to_record

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper as EnumTypeWrapper


def nodes(manager: Manager, *, name: str = "", state: str = "") -> list[Record]:
    """Nodes, by name."""
    states = [node_pb2.NodeState.Value(_state(node_pb2.NodeState, "NODE_STATE_", state))] if state else []
    request = manager_pb2.ListNodesRequest(name=name, states=states)
    return [node_record(node) for page in manager.pages(manager.api.ListNodes, request) for node in page.nodes]


def node_names(manager: Manager) -> dict[str, str]:
    """The name of each node id."""
    return {node["id"]: node["name"] for node in nodes(manager)}


def orphans(manager: Manager, *, node: str = "") -> list[Record]:
    """What runs on one node, or on any, and is not known to the cluster; by node, job name and number."""
    found: list[Record] = []
    for name in [node] if node else node_names(manager):
        answer = manager.call(manager.api.GetNode, manager_pb2.GetNodeRequest(node=name))
        found += [{"node": answer.node.registration.name} | to_record(orphan) for orphan in answer.orphans]
    return found


def jobs(manager: Manager, *, job: str = "") -> list[Record]:
    """Jobs by id, or the one that `job` names by id or name."""
    if job:
        return [job_record(find_job(manager, job).job)]
    request = manager_pb2.ListJobsRequest()
    return [job_record(item) for page in manager.pages(manager.api.ListJobs, request) for item in page.jobs]


def instances(
    manager: Manager, *, job: str = "", node: str = "", state: str = "", with_stopped: bool = False
) -> list[Record]:
    """Instances by job and number; STOPPED ones only where asked for."""
    words = [_state(instance_pb2.InstanceState, "INSTANCE_STATE_", state)] if state else []
    states = [instance_pb2.InstanceState.Value(word) for word in words]
    job_id = find_job(manager, job).job.id if job else ""
    request = manager_pb2.ListInstancesRequest(job_id=job_id, node=node, states=states)
    found = [item for page in manager.pages(manager.api.ListInstances, request) for item in page.instances]
    hidden = () if with_stopped or states else (instance_pb2.INSTANCE_STATE_STOPPED,)
    names = node_names(manager) if found else {}
    return [instance_record(item, names) for item in found if item.state not in hidden]


def events(manager: Manager, *, job: str = "", node: str = "", limit: int = 0) -> list[Record]:
    """The newest `limit` events (0: all), oldest first; `job` is JOB or JOB/NUMBER."""
    job_id, number = _event_filter(manager, job)
    request = manager_pb2.ListEventsRequest(node=node, job_id=job_id, instance_number=number)
    found: list[event_pb2.Event] = []
    for page in manager.pages(manager.api.ListEvents, request):
        found += page.events
        if limit and len(found) >= limit:
            break
    return [to_record(event) for event in reversed(found[: limit or None])]


def new_events(manager: Manager, *, job: str = "", node: str = "", after_id: int = 0) -> Iterator[Record]:
    """Events as they happen, those after `after_id` first."""
    job_id, number = _event_filter(manager, job)
    node_id = manager.call(manager.api.GetNode, manager_pb2.GetNodeRequest(node=node)).node.id if node else ""
    request = manager_pb2.WatchEventsRequest(job_id=job_id, after_id=after_id)
    for response in manager.stream(manager.api.WatchEvents, request):
        for event in _matching(response.events, number, node_id):
            yield to_record(event)


def _matching(found: Iterable[event_pb2.Event], number: int | None, node_id: str) -> Iterator[event_pb2.Event]:
    for event in found:
        is_of_instance = number is None or (event.HasField("instance_number") and event.instance_number == number)
        if is_of_instance and node_id in ("", event.node_id):
            yield event


def _event_filter(manager: Manager, job: str) -> tuple[str, int | None]:
    if not job:
        return "", None
    name = parse_name(job)
    return find_job(manager, name.job).job.id, name.number


def _state(enum: EnumTypeWrapper[Any], prefix: str, word: str) -> str:
    known = [name.removeprefix(prefix) for name in enum.keys()[1:]]
    if word.upper() not in known:
        raise UsageError(f"unknown state {word!r}; use one of {', '.join(known)}")
    return prefix + word.upper()
