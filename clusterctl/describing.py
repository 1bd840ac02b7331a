"""One node, job or instance in full, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cluster.v1 import manager_pb2
from clusterctl import columns, reading
from clusterctl.client import Manager
from clusterctl.names import find_instance, find_job
from clusterctl.output import console, printable, table
from clusterctl.records import Record, instance_record, job_record, node_record, to_record

SHOWN_NODES: Final = 10


def node(manager: Manager, name: str) -> Record:
    """A node with its instances, orphans and last events."""
    found = manager.call(manager.api.GetNode, manager_pb2.GetNodeRequest(node=name))
    return node_record(found.node) | {
        "instances": reading.instances(manager, node=found.node.id),
        "events": [to_record(event) for event in found.events],
        "orphans": [to_record(orphan) for orphan in found.orphans],
    }


def job(manager: Manager, name: str) -> Record:
    """A job with all its instances."""
    found = find_job(manager, name)
    names = reading.node_names(manager)
    return job_record(found.job) | {"instances": [instance_record(item, names) for item in found.instances]}


def instance(manager: Manager, name: str) -> Record:
    """An instance with its specification and history."""
    key = find_instance(manager, name)
    found = manager.call(manager.api.GetInstance, manager_pb2.GetInstanceRequest(key=key))
    return instance_record(found.instance, reading.node_names(manager))


def status_lines(manager: Manager, answer: manager_pb2.GetStatusResponse, record: Record) -> Record:
    """The status for people: silent nodes that are waited for in one line, by name."""
    lines = {key: value for key, value in record.items() if not key.startswith(("held_", "hold_"))}
    if not answer.held_node_count:
        return lines
    names = reading.node_names(manager)
    shown = [names.get(node_id, node_id) for node_id in answer.held_node_ids[:SHOWN_NODES]]
    more = answer.held_node_count - len(shown)
    who = ", ".join(shown) + (f" and {more} more" if more else "")
    bound = f"for {answer.hold_left.seconds} s at most" if answer.HasField("hold_left") else "until a node is READY"
    told = f"{who}: waited for {bound}, because {answer.hold_cause}; `clusterctl node confirm-lost` ends that"
    return {**lines, "silent nodes": told}


def show(record: Mapping[str, Any]) -> None:
    """Write a record as lines of text, lists of instances and events as tables."""
    out = console()
    for line in _lines(record, ""):
        out.print(line, markup=False, soft_wrap=True)
    for key, shown in (("instances", columns.INSTANCES), ("events", columns.EVENTS)):
        if record.get(key):
            out.print(f"\n{key}:")
            out.print(table(shown, record[key]))


def _lines(record: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in record.items():
        if value in (None, "", [], {}) or key in ("instances", "events", "document"):
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines += [f"{indent}{key}:", *(line for item in value for line in _item(item, indent))]
        else:
            lines.append(f"{indent}{key}: {printable(value)}")
    return lines


def _item(item: object, indent: str) -> list[str]:
    if not isinstance(item, Mapping):
        return [f"{indent}  - {printable(item)}"]
    first, *rest = _lines(item, "") or ["{}"]
    return [f"{indent}  - {first}", *(f"{indent}    {line}" for line in rest)]
