"""The commands that change what runs already: move an instance, set a job's number of instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cluster.documents import parse_job_id
from cluster.errors import InvalidInputError
from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import instance_json
from gateway.inputs import MAX_INSTANCE_NUMBER, parse_count, parse_node, parse_object, read_json
from gateway.peers import Peers
from gateway.routes.commands import ACTOR
from gateway.tracing import request_id

MAX_INSTANCES: Final = 10_000
_ID_KEYS: Final = ("_id", "id", "system_job_id")
router = APIRouter(tags=["commands"], responses=openapi.PROBLEMS)


@router.post(
    "/api/move",
    summary="Move an instance to another node",
    **openapi.documented(schemas.Moved, body=("Move", schemas.MOVE_EXAMPLE)),
)
async def move(request: Request) -> Response:
    """Start the instance on another node and stop it on the old one when it runs there."""
    document = parse_object(await read_json(request), "a move")
    message = manager_pb2.MoveInstanceRequest(
        request_id=request_id(request),
        actor=ACTOR,
        job_id=_job_of(document),
        source_node=parse_node(document.get("node_from"), "node_from"),
    )
    if document.get("node_to") not in (None, ""):
        message.target_node = parse_node(document["node_to"], "node_to")
    if document.get("instance_number") is not None:
        message.instance_number = parse_count(document["instance_number"], "instance_number", MAX_INSTANCE_NUMBER)
    peers: Peers = request.app.state.peers
    answer = await peers.command(peers.manager_stub.MoveInstance, message)
    return JsonResponse({"status": "ok", "instance": instance_json(answer.instance)})


@router.post(
    "/api/replicate",
    summary="Set the number of instances of a job",
    **openapi.documented(schemas.Replicated, body=("Replicate", schemas.REPLICATE_EXAMPLE)),
)
async def replicate(request: Request) -> Response:
    """Place further instances of a job, or delete the newest ones, until it has as many as asked for."""
    document = parse_object(await read_json(request), "a replication")
    message = manager_pb2.ReplicateJobRequest(
        request_id=request_id(request),
        actor=ACTOR,
        job_id=_job_of(document),
        instance_count=parse_count(document.get("int_replicas"), "int_replicas", MAX_INSTANCES),
    )
    peers: Peers = request.app.state.peers
    answer = await peers.command(peers.manager_stub.ReplicateJob, message)
    return JsonResponse({"status": "ok", "instances": [instance_json(instance) for instance in answer.instances]})


def _job_of(document: Mapping[str, Any]) -> str:
    job = document.get("job")
    if job is None:
        raise InvalidInputError("`job` is needed: the job's id, or its document with `_id`", field="job")
    if isinstance(job, Mapping):
        return parse_job_id(next((job[key] for key in _ID_KEYS if job.get(key) is not None), None), "job._id")
    return parse_job_id(job, "job")
