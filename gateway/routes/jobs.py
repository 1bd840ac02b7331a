"""The jobs of the cluster, as an operator reads them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import instance_json, job_json, spec_json
from gateway.inputs import parse_page_size
from gateway.peers import Peers

router = APIRouter(tags=["jobs"], responses=openapi.PROBLEMS)


@router.get("/api/jobs", summary="List jobs by id", **openapi.documented(schemas.Jobs))
async def list_jobs(
    request: Request,
    name: Annotated[str, Query(description="only jobs of that name")] = "",
    page_size: openapi.PageSize = "0",
    page_token: openapi.PageToken = "",
) -> Response:
    """A page of jobs."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(
        peers.manager_stub.ListJobs,
        manager_pb2.ListJobsRequest(page_size=parse_page_size(page_size), page_token=page_token, name=name),
    )
    return JsonResponse({"jobs": [job_json(job) for job in answer.jobs], "next_page_token": answer.next_page_token})


@router.get("/api/jobs/{job}", summary="Read a job", **openapi.documented(schemas.JobDetail))
async def get_job(request: Request, job: str) -> Response:
    """A job by id or by the name of a living one, with its specification as a job document, and its instances."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(peers.manager_stub.GetJob, manager_pb2.GetJobRequest(job=job))
    instances = [instance_json(instance) for instance in answer.instances]
    return JsonResponse({**job_json(answer.job), "spec": spec_json(answer.job.spec), "instances": instances})
