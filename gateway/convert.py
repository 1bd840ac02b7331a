"""Between records, protobuf messages and the documented JSON: integers stay integers, absent becomes null."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from cluster.convert import resources_from_proto, resources_to_proto, seconds, spec_from_proto, unix_ms
from cluster.documents import job_document
from cluster.nodes import Dialect, Registration
from cluster.v1 import event_pb2, instance_pb2, job_pb2, manager_pb2, node_pb2, resources_pb2, scheduler_pb2

Json = dict[str, Any]

_NODE_STATE: Final = "NODE_STATE_"
_INSTANCE_STATE: Final = "INSTANCE_STATE_"
_ROLE: Final = "PLACEMENT_ROLE_"
_DIALECT: Final = "NODE_DIALECT_"
_DIALECTS: Final = {dialect: node_pb2.NodeDialect.Value(_DIALECT + dialect.name) for dialect in Dialect}
NODE_STATES: Final = {name.removeprefix(_NODE_STATE): value for name, value in node_pb2.NodeState.items() if value}
INSTANCE_STATES: Final = {
    name.removeprefix(_INSTANCE_STATE): value for name, value in instance_pb2.InstanceState.items() if value
}
_NODE_WORDS: Final = {value: word for word, value in NODE_STATES.items()}
_INSTANCE_WORDS: Final = {value: word for word, value in INSTANCE_STATES.items()}
_ROLE_WORDS: Final = {value: name.removeprefix(_ROLE) for name, value in instance_pb2.PlacementRole.items()}
_DIALECT_WORDS: Final = {value: dialect.value for dialect, value in _DIALECTS.items()}


def registration_to_proto(registration: Registration) -> node_pb2.NodeRegistration:
    """What a node says of itself."""
    return node_pb2.NodeRegistration(
        given_id=registration.given_id,
        name=registration.name,
        ip=registration.ip,
        port=registration.port,
        dialect=_DIALECTS[registration.dialect],
        technologies=registration.technologies,
        capacity=resources_to_proto(registration.capacity),
        architecture=registration.architecture,
        addons=registration.addons,
        csi_drivers=registration.csi_drivers,
        document_json=registration.document,
    )


def time_json(message: Timestamp) -> str:
    """ISO 8601 in UTC to the millisecond: `2026-01-31T12:00:00.000Z`."""
    at = datetime.fromtimestamp(unix_ms(message) / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def resources_json(message: resources_pb2.Resources) -> Json:
    """Each amount, or null where it is unknown."""
    return asdict(resources_from_proto(message))


def orphan_json(orphan: node_pb2.Orphan) -> Json:
    """A copy that runs on a node and is not known to the cluster."""
    return {
        "job_name": orphan.job_name,
        "instance_number": orphan.number,
        "technology": orphan.technology,
        "status": orphan.status,
        "job_id": orphan.job_id,
        "generation": orphan.generation if orphan.HasField("generation") else None,
    }


def node_json(node: node_pb2.Node) -> Json:
    """A node as the lists show it."""
    said = node.registration
    return {
        "id": node.id,
        "name": said.name,
        "state": _NODE_WORDS.get(node.state, ""),
        "detail": node.detail,
        "is_cordoned": node.is_cordoned,
        "ip": said.ip,
        "port": said.port,
        "dialect": _DIALECT_WORDS.get(said.dialect, ""),
        "technologies": list(said.technologies),
        "architecture": said.architecture,
        "addons": list(said.addons),
        "csi_drivers": list(said.csi_drivers),
        "capacity": resources_json(said.capacity),
        "allocated": resources_json(node.allocated),
        "usage": _node_usage_json(node.usage) if node.HasField("usage") else None,
        "instance_count": node.instance_count,
        "heartbeat_at": _time_of(node, "heartbeat_at"),
        "registered_at": _time_of(node, "registered_at"),
        "topic_id": node.topic_id,
        "given_id": said.given_id,
    }


def job_json(job: job_pb2.Job) -> Json:
    """A job as the lists show it."""
    return {
        "id": job.id,
        "name": job.spec.name,
        "image": job.spec.image,
        "technology": job.spec.technology,
        "state": job.state,
        "instance_count": job.instance_count,
        "running_count": job.running_count,
        "created_at": _time_of(job, "created_at"),
        "update": _update_json(job.update) if job.HasField("update") else None,
        "is_deleted": job.is_deleted,
    }


def spec_json(spec: job_pb2.JobSpec) -> Json:
    """The specification as a job document, which can be sent again."""
    return job_document(spec_from_proto(spec))


def instance_json(instance: instance_pb2.Instance) -> Json:
    """An instance as the lists show it; its id is `JOB_ID/NUMBER`."""
    key = instance.key
    return {
        "id": f"{key.job_id}/{key.number}",
        "job_id": key.job_id,
        "job_name": instance.job_name,
        "instance_number": key.number,
        "node_id": instance.node_id,
        "state": _INSTANCE_WORDS.get(instance.state, ""),
        "detail": instance.detail,
        "is_desired": instance.is_desired,
        "technology": instance.technology,
        "image": instance.image,
        "placements": [_placement_json(placement) for placement in instance.placements],
        "refusals": [refusal_json(refusal) for refusal in instance.refusals],
        "attempts": instance.attempts,
        "restarts": instance.restarts,
        "retry_at": _time_of(instance, "retry_at"),
        "exit_code": instance.exit_code if instance.HasField("exit_code") else None,
        "usage": _instance_usage_json(instance.usage) if instance.HasField("usage") else None,
        "created_at": _time_of(instance, "created_at"),
        "updated_at": _time_of(instance, "updated_at"),
        "version": instance.version,
    }


def instance_detail_json(instance: instance_pb2.Instance) -> Json:
    """An instance with its specification (null where the manager sent none) and its history, oldest first."""
    return {
        **instance_json(instance),
        "spec": spec_json(instance.spec) if instance.HasField("spec") else None,
        "events": [event_json(event) for event in instance.events],
    }


def event_json(event: event_pb2.Event) -> Json:
    """An entry of the history."""
    return {
        "id": event.id,
        "at": _time_of(event, "at"),
        "actor": event.actor,
        "subject": event.subject,
        "kind": event.kind,
        "state": event.state,
        "cause": event.cause,
        "job_id": event.job_id,
        "instance_number": event.instance_number if event.HasField("instance_number") else None,
        "node_id": event.node_id,
    }


def refusal_json(refusal: instance_pb2.Refusal) -> Json:
    """How many nodes a reason ruled out."""
    return {"reason": refusal.reason, "node_count": refusal.node_count, "detail": refusal.detail}


def explanation_json(answer: manager_pb2.ExplainInstanceResponse) -> Json:
    """Why an instance is where it is; `planning` is null while the scheduler is away."""
    planning = answer.planning
    return {
        "instance": instance_detail_json(answer.instance),
        "summary": answer.summary,
        "planning": {
            "node_count": planning.node_count,
            "fitting_count": planning.fitting_count,
            "refusals": [refusal_json(refusal) for refusal in planning.refusals],
            "nearest": _verdict_json(planning.nearest) if planning.HasField("nearest") else None,
            "smallest_change": planning.smallest_change,
            "verdicts": [_verdict_json(verdict) for verdict in planning.verdicts],
        }
        if answer.HasField("planning")
        else None,
    }


def status_json(answer: manager_pb2.GetStatusResponse, default_name: str) -> Json:
    """How the cluster stands."""
    return {
        "cluster_name": answer.cluster_name or default_name,
        "cluster_id": answer.cluster_id,
        "connected_to_root": answer.is_connected_to_root,
        "version": answer.version,
        "parts": [{"name": part.name, "is_ready": part.is_ready, "detail": part.detail} for part in answer.parts],
        "nodes": dict(answer.node_counts),
        "instances": dict(answer.instance_counts),
        "counters": dict(answer.counters),
        "waited_for": {
            "count": answer.held_node_count,
            "cause": answer.hold_cause,
            "left_s": seconds(answer.hold_left) if answer.HasField("hold_left") else None,
            "node_ids": list(answer.held_node_ids),
        },
        "quarantined": list(answer.quarantined),
        "unsendable": list(answer.unsendable),
    }


def schedule_json(answer: scheduler_pb2.PlanResponse, image: str) -> Json:
    """The documented scheduling answer; `reasons` only where some replica found no node."""
    results = answer.results
    document: Json = {"workers": [result.node_id for result in results if result.node_id], "job": {"image": image}}
    refused = next((result for result in results if not result.node_id), None)
    if refused is not None:
        document["reasons"] = {
            refusal.reason: {"count": refusal.node_count, "detail": refusal.detail} for refusal in refused.refusals
        } or {"no_nodes": {"count": 0, "detail": "the cluster has no nodes: register one"}}
    return document


def _time_of(message: Any, name: str) -> str | None:
    return time_json(getattr(message, name)) if message.HasField(name) else None


def _node_usage_json(usage: node_pb2.NodeUsage) -> Json:
    return {
        "cpu_percent": usage.cpu_percent,
        "memory_percent": usage.memory_percent,
        "memory_free_bytes": usage.memory_free_bytes if usage.HasField("memory_free_bytes") else None,
    }


def _instance_usage_json(usage: instance_pb2.InstanceUsage) -> Json:
    return {
        "cpu_percent": usage.cpu_percent,
        "memory_bytes": usage.memory_bytes,
        "disk_bytes": usage.disk_bytes,
    }


def _placement_json(placement: instance_pb2.Placement) -> Json:
    return {
        "role": _ROLE_WORDS.get(placement.role, ""),
        "node_id": placement.node_id,
        "generation": placement.generation,
        "state": _INSTANCE_WORDS.get(placement.state, ""),
        "since": _time_of(placement, "since"),
    }


def _update_json(update: job_pb2.RollingUpdate) -> Json:
    return {
        "state": update.state,
        "updated_count": update.updated_count,
        "total_count": update.total_count,
        "detail": update.detail,
    }


def _verdict_json(verdict: scheduler_pb2.NodeVerdict) -> Json:
    return {
        "node_id": verdict.node_id,
        "reasons": list(verdict.reasons),
        "score": verdict.score,
        "shortfall": verdict.shortfall,
    }
