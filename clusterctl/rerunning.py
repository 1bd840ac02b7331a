"""`deploy --rerun`: what has ended runs again, under the id and the numbers that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.convert import spec_from_proto, spec_to_proto
from cluster.documents import job_document
from cluster.v1 import instance_pb2, manager_pb2
from clusterctl.client import ACTOR, Manager
from clusterctl.exits import UnreachableError, UsageError
from clusterctl.jobfile import WantedJob, merged, wanted_jobs
from clusterctl.names import find_job

_BATCH_TIMEOUT_S = 120.0


def rerun(
    manager: Manager,
    documents: Sequence[dict[str, Any]],
    flags: dict[str, Any],
    *,
    job_id: str,
    replicas: int | None,
    request_id: str,
) -> list[instance_pb2.Instance]:
    """The instances as they are asked for once more; without documents the job's own specification counts."""
    request = manager_pb2.DeployInstancesRequest(request_id=request_id, actor=ACTOR, is_rerun=True)
    for document in documents or [{}]:
        job, numbers = _wanted(manager, document, flags, job_id, replicas)
        for number in numbers:
            request.deployments.add(key={"job_id": job.job_id, "number": number}, spec_index=len(request.specs))
        request.specs.append(spec_to_proto(job.spec))
    try:
        return list(manager.call(manager.api.DeployInstances, request, _BATCH_TIMEOUT_S).instances)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error.detail}\n(with --request-id {request_id} the command may be repeated: nothing runs twice)"
        ) from None


def _wanted(
    manager: Manager, document: dict[str, Any], flags: dict[str, Any], job_id: str, replicas: int | None
) -> tuple[WantedJob, list[int]]:
    """The job that is meant, and which of its instances: as many as are asked for, else those that it has."""
    given = merged(document, flags)
    reference = job_id or given.get("_id") or given.get("name") or given.get("job_name")
    if not reference:
        raise UsageError("say which job is to run again: a document, --id or --name")
    found = find_job(manager, str(reference))
    base = document or job_document(spec_from_proto(found.job.spec))
    [job] = wanted_jobs([merged(base, flags)], job_id=found.job.id, replicas=replicas)
    has_count = replicas is not None or "replicas" in document
    own = [item.key.number for item in found.instances if item.is_desired]
    return job, list(range(job.replicas)) if has_count or not own else own
