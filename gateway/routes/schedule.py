"""Where would it run? The documented question to the scheduler; asking changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cluster.convert import spec_to_proto
from cluster.documents import parse_job, parse_job_id, replicas_of
from cluster.v1 import instance_pb2, scheduler_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import schedule_json
from gateway.inputs import read_json
from gateway.peers import Peers
from gateway.tracing import request_id

router = APIRouter(tags=["scheduling"], responses=openapi.PROBLEMS)


@router.post(
    "/api/schedule",
    summary="Choose workers for a job",
    **openapi.documented(schemas.Schedule, body=("JobDocument", schemas.JOB_EXAMPLE)),
)
async def schedule(request: Request) -> Response:
    """The workers that a job would get: one, or as many as its `replicas`; fewer come with `reasons`."""
    document = await read_json(request)
    spec = parse_job(document)
    count = replicas_of(document)
    if count == 0:
        return JsonResponse(schedule_json(scheduler_pb2.PlanResponse(), spec.image))
    job_id = _job_id(document)
    peers: Peers = request.app.state.peers
    answer = await peers.scheduler.call(
        peers.scheduler_stub.Plan,
        scheduler_pb2.PlanRequest(
            request_id=request_id(request),
            specs=[scheduler_pb2.PlanSpec(job_id=job_id, spec=spec_to_proto(spec))],
            items=[
                scheduler_pb2.PlanItem(key=instance_pb2.InstanceKey(job_id=job_id, number=number), spec_index=0)
                for number in range(count)
            ],
            is_dry_run=True,
        ),
        request.app.state.settings.read_wait_s,
    )
    return JsonResponse(schedule_json(answer, spec.image))


def _job_id(document: Mapping[str, Any]) -> str:
    given = document.get("_id")
    return "" if given in (None, "") else parse_job_id(given, "_id")
