"""The manager's records as protobuf messages, and registrations the other way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from cluster.convert import resources_from_proto, resources_to_proto, spec_to_proto, timestamp
from cluster.jobs import Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import ResourceEntry
from cluster.v1 import event_pb2, instance_pb2, job_pb2, manager_pb2, node_pb2
from manager.domain.model import (
    Event,
    Instance,
    InstanceState,
    Job,
    Node,
    NodeKind,
    NodeLive,
    NodeState,
    Role,
    Update,
    Usage,
)
from manager.domain.rolling import target_of
from manager.history import Entry
from manager.ports import Quarantined

DIALECTS: Final = {
    Dialect.SEED: node_pb2.NODE_DIALECT_SEED,
    Dialect.WORKER: node_pb2.NODE_DIALECT_WORKER,
    Dialect.ENGINE_A: node_pb2.NODE_DIALECT_ENGINE_A,
    Dialect.ENGINE_C: node_pb2.NODE_DIALECT_ENGINE_C,
}
_DIALECTS_BACK: Final = {value: key for key, value in DIALECTS.items()}
NODE_STATES: Final = {state: node_pb2.NodeState.Value(f"NODE_STATE_{state}") for state in NodeState}
NODE_KINDS: Final = {kind: node_pb2.NodeKind.Value(f"NODE_KIND_{kind.name}") for kind in NodeKind}
INSTANCE_STATES: Final = {state: instance_pb2.InstanceState.Value(f"INSTANCE_STATE_{state}") for state in InstanceState}
_ROLES: Final = {
    Role.CURRENT: instance_pb2.PLACEMENT_ROLE_CURRENT,
    Role.SUCCESSOR: instance_pb2.PLACEMENT_ROLE_SUCCESSOR,
    Role.RETIRING: instance_pb2.PLACEMENT_ROLE_RETIRING,
}
# The job's state is that of the instance furthest from RUNNING: first in this list wins.
_FURTHEST: Final = (
    InstanceState.FAILED,
    InstanceState.LOST,
    InstanceState.PENDING,
    InstanceState.REQUESTED,
    InstanceState.UNKNOWN,
    InstanceState.RESTARTING,
    InstanceState.SCHEDULED,
    InstanceState.STARTING,
    InstanceState.STOPPING,
    InstanceState.RUNNING,
    InstanceState.COMPLETED,
    InstanceState.STOPPED,
)


def registration_from_proto(message: node_pb2.NodeRegistration) -> Registration:
    """What a node says of itself."""
    return Registration(
        name=message.name,
        given_id=message.given_id,
        ip=message.ip,
        port=message.port,
        dialect=_DIALECTS_BACK.get(message.dialect, Dialect.SEED),
        technologies=tuple(message.technologies),
        capacity=resources_from_proto(message.capacity),
        architecture=message.architecture,
        addons=tuple(message.addons),
        csi_drivers=tuple(message.csi_drivers),
        document=message.document_json or "{}",
    )


def registration_to_proto(registration: Registration) -> node_pb2.NodeRegistration:
    """What a node said of itself."""
    return node_pb2.NodeRegistration(
        name=registration.name,
        given_id=registration.given_id,
        ip=registration.ip,
        port=registration.port,
        dialect=DIALECTS[registration.dialect],
        technologies=registration.offered,
        capacity=resources_to_proto(registration.capacity),
        architecture=registration.architecture,
        addons=registration.addons,
        csi_drivers=registration.csi_drivers,
    )


def shown_state(node: Node, live: NodeLive | None) -> NodeState:
    """What is known of a node at the moment."""
    is_suspect = node.state is NodeState.READY and live is not None and live.is_suspect
    return NodeState.SUSPECT if is_suspect else node.state


def node_to_proto(
    node: Node, live: NodeLive, allocated: Resources, instance_count: int, plan_sequence: int = 0
) -> node_pb2.Node:
    """A node with what it measured and what is reserved on it."""
    message = node_pb2.Node(
        id=node.id,
        registration=registration_to_proto(node.registration),
        state=NODE_STATES[shown_state(node, live)],
        is_cordoned=node.is_cordoned,
        allocated=resources_to_proto(allocated),
        instance_count=instance_count,
        registered_at=timestamp(node.registered_at_ms),
        topic_id=node.topic_id,
        detail=live.trouble or node.detail,
        plan_sequence=plan_sequence,
        kind=NODE_KINDS[node.kind],
    )
    if live.heartbeat_at_ms is not None:
        message.heartbeat_at.CopyFrom(timestamp(live.heartbeat_at_ms))
    if live.cpu_percent is not None or live.memory_percent is not None:
        message.usage.cpu_percent = live.cpu_percent or 0.0
        message.usage.memory_percent = live.memory_percent or 0.0
    if live.memory_free_bytes is not None:
        message.usage.memory_free_bytes = live.memory_free_bytes
    return message


def quarantined_to_proto(item: Quarantined) -> manager_pb2.QuarantinedRecord:
    """A saved record that cannot be read."""
    return manager_pb2.QuarantinedRecord(
        kind=item.kind.value, id=item.id, saved_text=item.document, error=item.error, at=timestamp(item.at_ms)
    )


def orphan_to_proto(entry: ResourceEntry) -> node_pb2.Orphan:
    """What a node runs that is not known here."""
    return node_pb2.Orphan(
        job_name=entry.job_name,
        number=entry.number,
        technology=entry.technology,
        status=entry.status,
        job_id=entry.job_id,
        generation=entry.generation,
    )


def instance_to_proto(
    instance: Instance, usage: Usage | None = None, *, events: Iterable[Event] | None = None
) -> instance_pb2.Instance:
    """An instance; with its specification where its history is given."""
    message = instance_pb2.Instance(
        key=instance_pb2.InstanceKey(job_id=instance.key.job_id, number=instance.key.number),
        job_name=instance.job_name,
        state=INSTANCE_STATES[instance.state],
        detail=instance.detail,
        version=instance.version,
        attempts=instance.attempts,
        exit_code=instance.exit_code,
        created_at=timestamp(instance.created_at_ms),
        updated_at=timestamp(instance.updated_at_ms),
        node_id=instance.node_id,
        is_desired=instance.is_desired,
        technology=instance.spec.technology,
        image=instance.spec.image,
        restarts=instance.restarts,
    )
    _add_parts(message, instance)
    if usage is not None:
        message.usage.cpu_percent = usage.cpu_percent or 0.0
        message.usage.memory_bytes = usage.memory_bytes or 0
        message.usage.disk_bytes = usage.disk_bytes or 0
    if events is not None:
        message.spec.CopyFrom(spec_to_proto(instance.spec))
        message.events.extend(event_to_proto(event, f"instance:{instance.key}") for event in events)
    return message


def _add_parts(message: instance_pb2.Instance, instance: Instance) -> None:
    for role, placement in instance.placements():
        message.placements.add(
            role=_ROLES[role],
            node_id=placement.node_id,
            generation=placement.generation,
            state=INSTANCE_STATES[placement.state],
            since=timestamp(placement.since_ms),
        )
    for refusal in instance.refusals:
        message.refusals.add(reason=refusal.reason, node_count=refusal.node_count, detail=refusal.detail)
    if instance.retry_at_ms is not None:
        message.retry_at.CopyFrom(timestamp(instance.retry_at_ms))


def job_to_proto(job: Job, instances: Iterable[Instance]) -> job_pb2.Job:
    """A job with the sum of its instances, and how far an update of it is."""
    found = tuple(instances)
    states = Counter(instance.state for instance in found)
    stopped = states[InstanceState.STOPPED] + states[InstanceState.STOPPING]
    return job_pb2.Job(
        id=job.id,
        spec=spec_to_proto(job.spec),
        instance_count=states.total() - stopped,
        running_count=states[InstanceState.RUNNING],
        created_at=timestamp(job.created_at_ms),
        state=next((state for state in _FURTHEST if states[state]), InstanceState.STOPPED),
        update=_update(job, job.update, found) if job.update else None,
        is_deleted=not job.is_kept and not any(item.is_desired for item in found),
    )


def _update(job: Job, update: Update, instances: Iterable[Instance]) -> job_pb2.RollingUpdate:
    desired = [item for item in instances if item.is_desired]
    target = target_of(job, update)
    return job_pb2.RollingUpdate(
        state=update.phase.value,
        updated_count=sum(1 for item in desired if item.spec == target and item.state is InstanceState.RUNNING),
        total_count=len(desired),
        detail=update.detail,
    )


def event_to_proto(event: Event, subject: str, entry_id: int = 0) -> event_pb2.Event:
    """One entry of the history."""
    entry = Entry(id=entry_id, subject=subject, event=event)
    node_id = event.node_id or (subject.removeprefix("node:") if subject.startswith("node:") else "")
    return event_pb2.Event(
        id=entry_id,
        at=timestamp(event.at_ms),
        actor=event.actor,
        subject=subject,
        kind=event.kind,
        state=event.state,
        cause=event.cause,
        job_id=entry.job_id,
        instance_number=entry.instance_number,
        node_id=node_id,
    )


def entry_to_proto(entry: Entry) -> event_pb2.Event:
    """One entry of the cluster's history, with its id."""
    return event_to_proto(entry.event, entry.subject, entry.id)
