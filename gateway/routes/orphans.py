"""What runs on a node and is not known to the cluster: take it in as it is, or end it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cluster.convert import spec_to_proto
from cluster.documents import parse_job, parse_job_id, parse_json
from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import instance_json
from gateway.inputs import parse_instance_number, parse_object, read_body
from gateway.peers import Peers
from gateway.tracing import request_id

ALL = -1
ACTOR = "operator"
router = APIRouter(tags=["nodes"], responses=openapi.PROBLEMS)
_PATH = "/api/nodes/{node}/orphans/{job_name}/{instance_number}"


@router.post(
    _PATH,
    summary="Adopt an orphan",
    **openapi.documented(schemas.Orphaned, body=("JobDocument", schemas.JOB_EXAMPLE), is_body_needed=False),
)
async def adopt(request: Request, node: str, job_name: str, instance_number: str) -> Response:
    """Make it an instance of this cluster, without restarting it; -1 means all of that name. May be repeated.

    The body is the job document of what runs there, with the job's `_id` where it has one. It is needed where neither
    the node's worker nor a job of this cluster says what that is.
    """
    message = manager_pb2.AdoptOrphansRequest(request_id=request_id(request), actor=ACTOR, node=node, job_name=job_name)
    _number(message, instance_number)
    if body := await read_body(request):
        document = parse_object(parse_json(body), "a job document")
        message.spec.CopyFrom(spec_to_proto(parse_job(document)))
        if document.get("_id") not in (None, ""):
            message.job_id = parse_job_id(document["_id"], "_id")
    peers: Peers = request.app.state.peers
    answer = await peers.command(peers.manager_stub.AdoptOrphans, message)
    return JsonResponse({"status": "ok", "instances": [instance_json(instance) for instance in answer.instances]})


@router.delete(_PATH, summary="End an orphan", **openapi.documented(schemas.Orphaned))
async def delete(request: Request, node: str, job_name: str, instance_number: str) -> Response:
    """End it on its node, repeated until the node confirms it; -1 means all of that name. May be repeated."""
    message = manager_pb2.DeleteOrphansRequest(
        request_id=request_id(request), actor=ACTOR, node=node, job_name=job_name
    )
    _number(message, instance_number)
    peers: Peers = request.app.state.peers
    answer = await peers.command(peers.manager_stub.DeleteOrphans, message)
    return JsonResponse({"status": "ok", "instances": [instance_json(instance) for instance in answer.instances]})


def _number(message: manager_pb2.AdoptOrphansRequest | manager_pb2.DeleteOrphansRequest, text: str) -> None:
    number = parse_instance_number(text, minimum=ALL)
    if number != ALL:
        message.instance_number = number
