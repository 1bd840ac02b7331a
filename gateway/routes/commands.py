"""What a root orders: deploy and delete an instance, in the route sets of all root generations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from cluster.convert import spec_to_proto
from cluster.documents import parse_job, parse_job_id
from cluster.v1 import instance_pb2, job_pb2, manager_pb2, root_pb2
from gateway import openapi, schemas
from gateway.answers import ok
from gateway.deploys import Deploys
from gateway.inputs import parse_flag, parse_instance_number, read_json
from gateway.peers import Peers
from gateway.tracing import given_request_id, request_id

ACTOR = "root"
router = APIRouter(tags=["commands"], responses=openapi.PROBLEMS)
_deploy_docs = openapi.documented(schemas.Ok, body=("JobDocument", schemas.JOB_EXAMPLE))
_delete_docs = openapi.documented(schemas.Ok)


@router.post("/api/deploy/{job_id}/{instance_number}", summary="Deploy an instance (roots until 2025)", **_deploy_docs)
@router.post("/api/service/{job_id}/{instance_number}", summary="Deploy an instance", **_deploy_docs)
async def deploy(
    job_id: str,
    instance_number: str,
    request: Request,
    rerun: Annotated[str, Query(description="true runs again what has ended; needs the header X-Request-Id")] = "false",
) -> Response:
    """Save that an instance should run; the path names it, whatever id the body has. May be repeated.

    A repetition starts nothing: not what runs, and not what has done its work or ended after its only run. What was
    deleted starts at once, another specification replaces what there is. With `rerun` what has ended runs again, once
    for each `X-Request-Id`.
    """
    key = instance_pb2.InstanceKey(job_id=parse_job_id(job_id), number=parse_instance_number(instance_number))
    spec = parse_job(await read_json(request))
    if parse_flag(rerun, "rerun"):
        await _rerun(request, key, spec_to_proto(spec))
        return ok()
    deploys: Deploys = request.app.state.deploys
    await deploys.deploy(request_id(request), ACTOR, key, spec_to_proto(spec), _route(request))
    return ok()


async def _rerun(request: Request, key: instance_pb2.InstanceKey, spec: job_pb2.JobSpec) -> None:
    """A call of its own: it is the id of this request that counts."""
    peers: Peers = request.app.state.peers
    message = manager_pb2.DeployInstancesRequest(
        request_id=given_request_id(request), actor=ACTOR, specs=[spec], route=_route(request), is_rerun=True
    )
    message.deployments.add(key=key)
    await peers.command(peers.manager_stub.DeployInstances, message)


@router.get("/api/delete/{job_id}/{instance_number}", summary="Delete an instance (roots until 2025)", **_delete_docs)
@router.delete("/api/service/{job_id}/{instance_number}", summary="Delete an instance", **_delete_docs)
async def delete(job_id: str, instance_number: str, request: Request) -> Response:
    """Save that an instance should not run, -1 for all of the job. Unknown and ended ones succeed."""
    number = parse_instance_number(instance_number, minimum=-1)
    key = instance_pb2.InstanceKey(job_id=parse_job_id(job_id), number=number)
    peers: Peers = request.app.state.peers
    await peers.command(
        peers.manager_stub.DeleteInstances,
        manager_pb2.DeleteInstancesRequest(
            request_id=request_id(request), actor=ACTOR, keys=[key], route=_route(request)
        ),
    )
    return ok()


def _route(request: Request) -> root_pb2.RootRoute.ValueType:
    """The route set, by which the manager tells the generations of roots apart."""
    is_service = request.url.path.startswith("/api/service/")
    return root_pb2.ROOT_ROUTE_SERVICE if is_service else root_pb2.ROOT_ROUTE_DEPLOY
