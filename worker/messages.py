"""The worker's JSON on the wire, written from its records; docs/worker-protocol.md is the authority."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import orjson

from worker.records import Instance, Ref
from worker.runtime.base import Usage
from worker.state import Message

TELL_AGAIN_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What registration says of this node; amounts in MB are 2^20 bytes."""

    name: str
    ip: str
    port: int
    technologies: tuple[str, ...]
    vcpus: int
    memory_in_mb: int
    storage_in_mb: int
    architecture: str


def registration(node: NodeFacts, node_id: str) -> bytes:
    """The body of `POST /api/node/register`, and the answer of the worker's own `GET` there."""
    return orjson.dumps(
        {
            "id": node_id,
            "name": node.name,
            "ip": node.ip,
            "port": str(node.port),
            "dialect": "worker",
            "technology": list(node.technologies),
            "vcpus": node.vcpus,
            "memory_in_MB": node.memory_in_mb,
            "storage_in_MB": node.storage_in_mb,
            "vgpus": 0,
            "architecture": node.architecture,
            "supported_addons": [],
            "csi_drivers": [],
        }
    )


def farewell(*, are_workloads_stopped: bool) -> bytes:
    """The last message on `nodes/{id}/connection` of a worker that ends in order."""
    workloads = "stopped" if are_workloads_stopped else "kept"
    return orjson.dumps({"online": False, "stopped": True, "workloads": workloads})


def state(message: Message, ip: str) -> bytes:
    """A message on `nodes/{id}/job`."""
    body: dict[str, Any] = {
        "sname": message.job_name,
        "status": message.status,
        "status_detail": message.detail[:1024],
        "instance": message.ref.number,
        "publicip": ip,
        "job_id": message.ref.job_id,
        "generation": message.ref.generation,
        "sequence": message.sequence,
        "at_ms": message.at_ms,
        "restarts": message.restarts,
    }
    if message.exit_code is not None:
        body["exit_code"] = message.exit_code
    if message.incoming:
        body["incoming"] = message.incoming
    return orjson.dumps(body)


class Inventories:
    """Messages on `nodes/{id}/jobs/resources`: everything that the worker has on disk.

    What a workload wrote last is told again after a while only, unless it changed: links are narrow.
    """

    def __init__(self) -> None:
        self._told: dict[Ref, tuple[str, float]] = {}

    def compose(
        self, instances: Iterable[Instance], usages: Mapping[Ref, Usage], sequence: int, now_mono_s: float
    ) -> bytes:
        """The next one."""
        held = {item.ref: _entry(item, usages.get(item.ref, Usage())) for item in instances}
        self._told = {ref: told for ref, told in self._told.items() if ref in held}
        for ref, usage in usages.items():
            words, told_s = self._told.get(ref, ("", -inf))
            if ref in held and (usage.last_words != words or now_mono_s - told_s >= TELL_AGAIN_S):
                held[ref]["logs"] = usage.last_words
                self._told[ref] = (usage.last_words, now_mono_s)
        return orjson.dumps({"inventory": True, "sequence": sequence, "services": list(held.values())})


def _entry(item: Instance, usage: Usage) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "job_id": item.ref.job_id,
        "job_name": item.spec.name,
        "instance": item.ref.number,
        "generation": item.ref.generation,
        "virtualization": item.spec.technology,
        "status": item.status,
        "status_detail": item.detail[:1024],
        "cpu_percent": round(usage.cpu_percent, 3),
        "memory_bytes": usage.memory_bytes,
        "disk": usage.disk_bytes,
        "restarts": item.restarts,
    }
    if item.exit_code is not None:
        entry["exit_code"] = item.exit_code
    return entry
