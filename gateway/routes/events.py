"""The history: who changed what, when and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from cluster.documents import parse_job_id
from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import event_json
from gateway.inputs import parse_instance_number, parse_page_size
from gateway.peers import Peers

router = APIRouter(tags=["events"], responses=openapi.PROBLEMS)


@router.get("/api/events", summary="List events, newest first", **openapi.documented(schemas.Events))
async def list_events(
    request: Request,
    job_id: Annotated[str, Query(description="only events of that job")] = "",
    instance_number: Annotated[str, Query(description="only events of that instance of the job")] = "",
    node: Annotated[str, Query(description="only events that involve that node (id, alias or name)")] = "",
    page_size: openapi.PageSize = "0",
    page_token: openapi.PageToken = "",
) -> Response:
    """A page of the history."""
    message = manager_pb2.ListEventsRequest(
        page_size=parse_page_size(page_size),
        page_token=page_token,
        job_id=parse_job_id(job_id) if job_id else "",
        instance_number=parse_instance_number(instance_number) if instance_number else None,
        node=node,
    )
    peers: Peers = request.app.state.peers
    answer = await peers.read(peers.manager_stub.ListEvents, message)
    events = [event_json(event) for event in answer.events]
    return JsonResponse({"events": events, "next_page_token": answer.next_page_token})
