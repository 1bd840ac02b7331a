"""The machines of the cluster, as an operator reads them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import NODE_STATES, event_json, node_json, orphan_json
from gateway.inputs import parse_page_size, parse_words
from gateway.peers import Peers

router = APIRouter(tags=["nodes"], responses=openapi.PROBLEMS)


@router.get("/api/nodes", summary="List nodes by name", **openapi.documented(schemas.Nodes))
async def list_nodes(
    request: Request,
    state: Annotated[list[str], Query(description=f"only these states: {', '.join(NODE_STATES)}")] = [],  # noqa: B006
    name: Annotated[str, Query(description="only the node of that name")] = "",
    page_size: openapi.PageSize = "0",
    page_token: openapi.PageToken = "",
) -> Response:
    """A page of nodes."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(
        peers.manager_stub.ListNodes,
        manager_pb2.ListNodesRequest(
            page_size=parse_page_size(page_size),
            page_token=page_token,
            states=parse_words(state, NODE_STATES, "state"),
            name=name,
        ),
    )
    return JsonResponse(
        {"nodes": [node_json(node) for node in answer.nodes], "next_page_token": answer.next_page_token}
    )


@router.get("/api/nodes/{node}", summary="Read a node", **openapi.documented(schemas.NodeDetail))
async def get_node(request: Request, node: str) -> Response:
    """A node by id, alias or name, with its last events, oldest first, and what runs there unknown here."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(peers.manager_stub.GetNode, manager_pb2.GetNodeRequest(node=node))
    return JsonResponse(
        {
            **node_json(answer.node),
            "events": [event_json(event) for event in answer.events],
            "orphans": [orphan_json(orphan) for orphan in answer.orphans],
        }
    )
