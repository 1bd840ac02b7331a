"""How a root takes a report: as strictly, and as carelessly, as the real one of its generation.

Written from sections 3.3, 12.1 and 12.2 of the contract. A report answers an HTTP status and the ids of the jobs that
the root orders deleted while it handles it. What a real root would take and then suffer from goes to `faults`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from standins.roots.data import ELEVEN, R1_ENUM, R3_ENUM, Cluster, Database

HEX: Final = re.compile("[0-9a-f]{24}")
R1_NUMBERS: Final = (
    "cpu_percent",
    "memory_percent",
    "cpu_cores",
    "cumulative_memory_in_mb",
    "gpu_cores",
    "gpu_percent",
)
R3_NUMBERS: Final = ("memory", "vcpus", "vgpus", "active_nodes", "gpu_percent", "cpu_percent", "memory_percent")


def take_r1(data: Database, cluster_id: str, body: Any) -> tuple[int, list[str]]:
    """R1 and R2: everything is stored; a wrong id or a missing list ends it with 500, the jobs behind it are lost."""
    if not isinstance(body, dict):
        return 422, []
    if not HEX.fullmatch(cluster_id):
        return 500, []
    data.reports.append(body)
    cluster = data.clusters.get(cluster_id)
    if cluster is None:
        data.faults.append(f"a ghost cluster was made by a report under {cluster_id}")
        cluster = data.clusters[cluster_id] = Cluster(cluster_id, "", is_ghost=True)
    cluster.numbers = {key: value for key, value in body.items() if key != "jobs"}
    data.faults += [f"{key} is {body.get(key)!r}" for key in R1_NUMBERS if not _is_number(body.get(key))]
    if _is_number(body.get("cpu_percent")) and not 0 <= body["cpu_percent"] <= 100:
        data.faults.append(f"cpu_percent is {body['cpu_percent']}: the cluster looks negative")
    if not isinstance(body.get("jobs"), list):
        return 500, []
    return _jobs(data, body["jobs"], "system_job_id", R1_ENUM, {"cpu", "memory"}, is_strict=False)


def take_r3(data: Database, cluster_id: str, body: Any) -> tuple[int, list[str]]:
    """R3: numbers are checked first, for the whole report; then jobs one by one."""
    if not isinstance(body, dict):
        return 422, []
    if not HEX.fullmatch(cluster_id):
        return 400, []
    data.reports.append(body)
    if any(not _is_number(body[key]) and not isinstance(body[key], str) for key in R3_NUMBERS if key in body):
        return 400, []
    data.faults += [f"{key} is a string" for key in R3_NUMBERS if isinstance(body.get(key), str)]
    if not isinstance(body.get("port", ""), str) or not isinstance(body.get("aggregation_per_architecture", {}), dict):
        return 400, []
    data.faults += [f"the report holds {key}" for key in ("candidate_name", "candidate_location", "ip") if key in body]
    data.faults += [f"{key} is no list" for key in ("virtualization", "csi_drivers") if not _is_words(body.get(key))]
    if _is_number(body.get("cpu_percent")) and not 0 <= body["cpu_percent"] <= 100:
        data.faults.append(f"cpu_percent is {body.get('cpu_percent')}")
    if cluster_id in data.clusters:
        data.clusters[cluster_id].numbers = {key: value for key, value in body.items() if key != "jobs"}
    else:
        data.faults.append(f"a report under {cluster_id}, which is not known")
    if "jobs" not in body or body["jobs"] is None:
        return 500, []
    return _jobs(data, body["jobs"], "_id", R3_ENUM, {"cpu_percent", "memory_percent", "logs"}, is_strict=True)


def _jobs(
    data: Database, jobs: Any, id_key: str, enum: frozenset[str], usage: set[str], *, is_strict: bool
) -> tuple[int, list[str]]:
    unknown: list[str] = []
    for job in jobs:
        job_id = job.get(id_key)
        if not is_strict and job_id is not None and not HEX.fullmatch(job_id):
            return 500, unknown
        if job.get("status") not in enum:
            data.faults.append(f"job status {job.get('status')!r} is not in the enum")
            if is_strict:
                return 500, unknown
        if job.get("status_detail") is None:
            data.faults.append("a job's status_detail is stored as null")
        if is_strict and not isinstance(job.get("instance_list"), list):
            return 500, unknown
        service = data.services.get(job_id)
        if service is None:
            unknown.append(str(job_id))
            continue
        service.status = str(job.get("status"))
        for instance in job.get("instance_list") or []:
            if "instance_number" not in instance:
                return 500, unknown
            _judge(data, instance, ELEVEN | usage, enum)
            known = service.instances.get(instance["instance_number"])
            if known is not None:
                known.update(instance)
    return 200, unknown


def _judge(data: Database, instance: dict[str, Any], keys: set[str] | frozenset[str], enum: frozenset[str]) -> None:
    missing = sorted(key for key in keys if instance.get(key) is None)
    if missing:
        data.faults.append(f"an instance lacks {missing}")
    if instance.get("status") not in enum:
        data.faults.append(f"instance status {instance.get('status')!r} is not in the enum")
    if not isinstance(instance.get("host_port"), int) or not isinstance(instance.get("instance_number"), int):
        data.faults.append("host_port or instance_number is no integer")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
