"""Machines that join."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cluster.nodes import parse_registration
from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import registration_to_proto
from gateway.inputs import read_json
from gateway.peers import Peers
from gateway.tracing import request_id

router = APIRouter(tags=["nodes"], responses=openapi.PROBLEMS)


@router.post(
    "/api/node/register",
    summary="Register a node",
    **openapi.documented(schemas.Registered, body=("Registration", schemas.REGISTRATION_EXAMPLE)),
)
async def register(request: Request) -> Response:
    """Admit a node, or renew what it said. The answer's port is a string: the deployed engines parse it as one."""
    registration = parse_registration(await read_json(request))
    peers: Peers = request.app.state.peers
    answer = await peers.command(
        peers.manager_stub.RegisterNode,
        manager_pb2.RegisterNodeRequest(
            request_id=request_id(request), registration=registration_to_proto(registration)
        ),
    )
    return JsonResponse(
        {"id": answer.node_id, "MQTT_BROKER_PORT": str(answer.mqtt_broker_port), "cluster_id": answer.cluster_id}
    )
