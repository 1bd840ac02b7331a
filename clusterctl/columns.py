"""What the tables show of nodes, jobs, instances, orphans and events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from clusterctl.output import Column

_MEBIBYTE: Final = 1024 * 1024


def age(at: str | None, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was, in its largest unit: "5s", "3m", "2h", "4d"."""
    if not at:
        return ""
    elapsed = max(0, int(((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds()))
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if elapsed >= 2 * length_s:
            return f"{elapsed // length_s}{unit}"
    return f"{elapsed}s"


def amount(amounts: Mapping[str, Any] | None, key: str) -> str:
    """Cores or MiB of a set of resources; "?" where unknown."""
    value = (amounts or {}).get(key)
    if value is None:
        return "?"
    return f"{value / 1000:g}" if key == "cpu_millicores" else f"{value // _MEBIBYTE}Mi"


def _state(node: Mapping[str, Any]) -> str:
    return f"{node['state']},CORDONED" if node["is_cordoned"] else str(node["state"])


def _job_state(job: Mapping[str, Any]) -> str:
    return "DELETED" if job["is_deleted"] and job["state"] == "STOPPED" else str(job["state"])


def _percent(node: Mapping[str, Any], key: str) -> str:
    return f"{node['usage'][key]:.0f}%" if node["usage"] else ""


def _share(node: Mapping[str, Any], key: str) -> str:
    allocated = (node["allocated"] or {}).get(key) or 0
    return f"{amount({key: allocated}, key)}/{amount(node['capacity'], key)}"


def _local_time(at: str | None) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


NODES: Final = (
    Column(title="NAME", cell=lambda node: node["name"]),
    Column(title="ID", cell=lambda node: node["id"]),
    Column(title="STATE", cell=_state),
    Column(title="ADDRESS", cell=lambda node: f"{node['ip']}:{node['port']}"),
    Column(title="RUNS", cell=lambda node: ",".join(node["technologies"])),
    Column(title="INSTANCES", cell=lambda node: node["instance_count"]),
    Column(title="CPU", cell=lambda node: _percent(node, "cpu_percent")),
    Column(title="MEMORY", cell=lambda node: _percent(node, "memory_percent")),
    Column(title="RESERVED CORES", cell=lambda node: _share(node, "cpu_millicores")),
    Column(title="RESERVED MEMORY", cell=lambda node: _share(node, "memory_bytes")),
    Column(title="HEARD", cell=lambda node: age(node["heartbeat_at"])),
)
JOBS: Final = (
    Column(title="NAME", cell=lambda job: job["name"]),
    Column(title="ID", cell=lambda job: job["id"]),
    Column(title="STATE", cell=_job_state),
    Column(title="RUNNING", cell=lambda job: f"{job['running_count']}/{job['instance_count']}"),
    Column(title="RUNS ON", cell=lambda job: job["technology"]),
    Column(title="IMAGE", cell=lambda job: job["image"]),
    Column(title="AGE", cell=lambda job: age(job["created_at"])),
)
ORPHANS: Final = (
    Column(title="NODE", cell=lambda orphan: orphan["node"]),
    Column(title="INSTANCE", cell=lambda orphan: f"{orphan['job_name']}/{orphan['number']}"),
    Column(title="RUNS ON", cell=lambda orphan: orphan["technology"]),
    Column(title="STATUS", cell=lambda orphan: orphan["status"]),
    Column(title="JOB ID", cell=lambda orphan: orphan["job_id"]),
    Column(title="GENERATION", cell=lambda orphan: str(orphan["generation"] or "")),
)
INSTANCES: Final = (
    Column(title="INSTANCE", cell=lambda item: item["id"]),
    Column(title="NAME", cell=lambda item: item["job_name"]),
    Column(title="STATE", cell=lambda item: item["state"]),
    Column(title="RESTARTS", cell=lambda item: item["restarts"]),
    Column(title="NODE", cell=lambda item: item["node_name"] or item["node_id"]),
    Column(title="AGE", cell=lambda item: age(item["created_at"])),
    Column(title="DETAIL", cell=lambda item: item["detail"]),
)
EVENTS: Final = (
    Column(title="AT", cell=lambda event: _local_time(event["at"])),
    Column(title="WHO", cell=lambda event: event["actor"]),
    Column(title="SUBJECT", cell=lambda event: event["subject"]),
    Column(title="WHAT", cell=lambda event: event["kind"]),
    Column(title="STATE", cell=lambda event: event["state"]),
    Column(title="DETAIL", cell=lambda event: event["cause"]),
)
QUARANTINED: Final = (
    Column(title="KIND", cell=lambda item: item["kind"]),
    Column(title="ID", cell=lambda item: item["id"]),
    Column(title="SINCE", cell=lambda item: _local_time(item["at"])),
    Column(title="WHY", cell=lambda item: item["error"]),
)
