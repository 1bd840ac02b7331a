"""Protobuf messages as plain records: numbers as numbers, enum words without prefix, times in RFC 3339."""

from __future__ import annotations

import json
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from cluster.v1.instance_pb2 import Instance
from cluster.v1.job_pb2 import Job
from cluster.v1.node_pb2 import Node

Record = dict[str, Any]


def to_record(message: Message) -> Record:
    """Every field of a message; absent ones are None, JSON texts are parsed."""
    return dict(_entry(message, cast("FieldDescriptor", field)) for field in message.DESCRIPTOR.fields)


def _entry(message: Message, field: FieldDescriptor) -> tuple[str, Any]:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return field.name, dict(value)
    if field.is_repeated:
        return field.name, [_plain(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return field.name, None
    if field.name.endswith("_json"):
        return field.name.removesuffix("_json"), json.loads(value or "{}")
    return field.name, _plain(field, value)


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Duration):
        return value.seconds + value.nanos / 1e9
    if isinstance(value, Message):
        return to_record(value)
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        return names[value].name.removeprefix(names[0].name.removesuffix("UNSPECIFIED")) if value in names else value
    return value


def node_record(node: Node) -> Record:
    """A node with what it said of itself on the same level."""
    record = to_record(node)
    said = record.pop("registration") or {}
    first = {"id": record.pop("id"), "name": said.pop("name", ""), "state": record.pop("state")}
    said.pop("given_id", None)
    return first | said | record


def job_record(job: Job) -> Record:
    """A job with its name, technology and image beside the full specification."""
    record = to_record(job)
    spec = job.spec
    return {"id": job.id, "name": spec.name, "technology": spec.technology, "image": spec.image} | record


def instance_record(instance: Instance, node_names: dict[str, str]) -> Record:
    """An instance with `id` as JOB/NUMBER, and the name of its node."""
    record = to_record(instance)
    key = record.pop("key")
    name = f"{key['job_id']}/{key['number']}"
    first = {"id": name, "job_id": key["job_id"], "job_name": record.pop("job_name"), "instance_number": key["number"]}
    first |= {"state": record.pop("state"), "node_id": instance.node_id}
    return first | {"node_name": node_names.get(instance.node_id, "")} | record
