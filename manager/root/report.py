"""Reports in the dialect of each generation of roots. Pure.

Sources: section 3.3 of the contract of the deployed ecosystem, and 12.1 and 12.2 for what a root refuses: no null, no
`port`, no name of the cluster, `jobs` always a list, every key of an instance present.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from manager.domain.model import Instance, InstanceState, Node, Usage
from manager.domain.roots import Era
from manager.root.totals import Totals
from manager.root.words import status_word

MAX_DETAIL: Final = 1024
TUNNEL_PORT: Final = 50103
Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportedInstance:
    """An instance with what is known around it: the node that it is or was on, and what that node measured."""

    instance: Instance
    node: Node | None = None
    usage: Usage | None = None
    seen_at_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class ReportedJob:
    """A job, its word and detail, and the documents of those of its instances that this report tells of."""

    id: str
    name: str
    status: str
    detail: str
    instances: Sequence[Document]


def report_body(era: Era, totals: Totals, jobs: Sequence[ReportedJob]) -> Document:
    """The report. To a root whose era is not decided it tells no jobs, and the numbers under both names."""
    if era is Era.UNDECIDED:
        return _numbers_r2(totals) | _numbers_r3(totals) | {"jobs": []}
    numbers = {Era.R1: _numbers_r1, Era.R2: _numbers_r2, Era.R3: _numbers_r3}[era](totals)
    return numbers | {"jobs": [_job(era, job) for job in jobs]}


def _numbers_r1(totals: Totals) -> Document:
    return {
        "cpu_percent": totals.cpu_percent,
        "memory_percent": totals.memory_percent,
        "cpu_cores": totals.core_count,
        "cumulative_memory_in_mb": totals.memory_mb,
        "gpu_cores": totals.gpu_count,
        "gpu_percent": round(totals.gpu_percent),
        "number_of_nodes": totals.node_count,
        "virtualization": list(totals.technologies),
        "more": 0,
    }


def _numbers_r2(totals: Totals) -> Document:
    return _numbers_r1(totals) | {
        "gpu_tot_mem": totals.gpu_memory_mb,
        "gpu_mem_used": totals.gpu_memory_used_mb,
        "gpu_temp": totals.gpu_temperature_c,
        "gpu_drivers": list(totals.gpu_drivers),
        "supported_addons": list(totals.addons),
        "aggregation_per_architecture": {
            name: {
                "cpu_percent": part.cpu_percent,
                "cpu_cores": part.core_count,
                "memory": part.memory_percent,
                "memory_in_mb": part.memory_mb,
            }
            for name, part in totals.by_architecture.items()
        },
    }


def _numbers_r3(totals: Totals) -> Document:
    return {
        "cpu_percent": totals.cpu_percent,
        "vcpus": totals.core_count,
        "memory_percent": totals.memory_percent,
        "vram": totals.gpu_memory_mb,
        "vram_percent": totals.gpu_memory_used_mb * 100 / totals.gpu_memory_mb if totals.gpu_memory_mb else 0.0,
        "gpu_temp": totals.gpu_temperature_c,
        "gpu_drivers": list(totals.gpu_drivers),
        "gpu_percent": round(totals.gpu_percent),
        "vgpus": totals.gpu_count,
        "memory": totals.memory_mb,
        "virtualization": list(totals.technologies),
        "supported_addons": list(totals.addons),
        "csi_drivers": list(totals.csi_drivers),
        "active_nodes": totals.node_count,
        "aggregation_per_architecture": {
            name: {
                "cpu_percent": part.cpu_percent,
                "vcpus": part.core_count,
                "memory_percent": part.memory_percent,
                "memory": part.memory_mb,
            }
            for name, part in totals.by_architecture.items()
        },
    }


def _job(era: Era, job: ReportedJob) -> Document:
    return {
        "_id" if era is Era.R3 else "system_job_id": job.id,
        "job_name": job.name,
        "status": job.status,
        "status_detail": _cut(job.detail),
        "instance_list": list(job.instances),
    }


def instance_document(era: Era, item: ReportedInstance) -> Document:
    """An instance, with what it measured and its last words."""
    instance, registration = item.instance, item.node.registration if item.node else None
    document = {
        "instance_number": instance.key.number,
        "status": status_word(instance, era),
        "status_detail": _cut(instance.detail),
        "publicip": registration.ip if registration else "",
    }
    document |= _usage_r3(item) if era is Era.R3 else _usage_r1(item)
    if era is not Era.R1:
        document["logs"] = _clean((item.usage.logs or "")[-MAX_DETAIL:]) if item.usage else ""
    return document | {
        "worker_id": item.node.id if item.node else "",
        "host_ip": registration.ip if registration else "",
        "host_port": _tunnel_port(registration.document) if registration else 0,
        "last_modified_timestamp": (item.seen_at_ms or instance.updated_at_ms) / 1000,
    }


def _usage_r1(item: ReportedInstance) -> Document:
    usage = item.usage
    return {
        "cpu": _text(usage.cpu_percent if usage else None),
        "memory": _text(usage.memory_bytes if usage else None),
        "disk": _text(usage.disk_bytes if usage else None),
    }


def _usage_r3(item: ReportedInstance) -> Document:
    usage = item.usage
    capacity = item.node.capacity.memory_bytes if item.node else None
    share = usage.memory_bytes * 100 / capacity if usage and usage.memory_bytes and capacity else None
    return {
        "cpu_percent": _text(usage.cpu_percent if usage else None),
        "memory_percent": _text(share),
        "disk": _text(usage.disk_bytes if usage else None),
    }


def _text(amount: float | None) -> str:
    """Amounts are strings, as worker engines send them."""
    return "0" if amount is None else str(amount) if isinstance(amount, int) else f"{amount:f}"


def _tunnel_port(registration: str) -> int:
    """Where the network of the ecosystem reaches a node: what an engine said at registration, else its default."""
    try:
        port = orjson.loads(registration).get("NetManagerPort")
    except (orjson.JSONDecodeError, AttributeError):
        return TUNNEL_PORT
    return port if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536 else TUNNEL_PORT


def _cut(text: str) -> str:
    return _clean(text[:MAX_DETAIL])


def _clean(text: str) -> str:
    """Text that JSON can hold: half a character must not stop every report."""
    return text.encode(errors="replace").decode()


def node_id_of(instance: Instance) -> str:
    """The node that an instance is on, or was on last."""
    if instance.node_id or instance.state in (InstanceState.REQUESTED, InstanceState.PENDING):
        return instance.node_id
    return instance.ended[-1].node_id if instance.ended else ""
