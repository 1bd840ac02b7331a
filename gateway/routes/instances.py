"""The numbered copies of the jobs, as an operator reads them: lists, one of them, why, and what it printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cluster.documents import parse_job_id
from cluster.errors import ClusterError
from cluster.v1 import instance_pb2, manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse
from gateway.convert import INSTANCE_STATES, explanation_json, instance_detail_json, instance_json
from gateway.inputs import parse_flag, parse_instance_number, parse_integer, parse_page_size, parse_words
from gateway.peers import Peers

router = APIRouter(tags=["instances"], responses=openapi.PROBLEMS)
FIRST_OUTPUT_S: Final = 1.0
FOLLOW_S: Final = 24 * 3600.0
MAX_TAIL_LINES: Final = 1_000_000


@router.get("/api/instances", summary="List instances by job and number", **openapi.documented(schemas.Instances))
async def list_instances(
    request: Request,
    job_id: Annotated[str, Query(description="only instances of that job")] = "",
    node: Annotated[str, Query(description="only instances placed on that node (id, alias or name)")] = "",
    state: Annotated[list[str], Query(description=f"only these states: {', '.join(INSTANCE_STATES)}")] = [],  # noqa: B006
    page_size: openapi.PageSize = "0",
    page_token: openapi.PageToken = "",
) -> Response:
    """A page of instances."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(
        peers.manager_stub.ListInstances,
        manager_pb2.ListInstancesRequest(
            page_size=parse_page_size(page_size),
            page_token=page_token,
            job_id=parse_job_id(job_id) if job_id else "",
            node=node,
            states=parse_words(state, INSTANCE_STATES, "state"),
        ),
    )
    instances = [instance_json(instance) for instance in answer.instances]
    return JsonResponse({"instances": instances, "next_page_token": answer.next_page_token})


@router.get(
    "/api/instances/{job_id}/{instance_number}",
    summary="Read an instance",
    **openapi.documented(schemas.InstanceDetail),
)
async def get_instance(request: Request, job_id: str, instance_number: str) -> Response:
    """An instance with its specification and history."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(
        peers.manager_stub.GetInstance, manager_pb2.GetInstanceRequest(key=_key(job_id, instance_number))
    )
    return JsonResponse(instance_detail_json(answer.instance))


@router.get(
    "/api/instances/{job_id}/{instance_number}/explain",
    summary="Why it is where it is",
    **openapi.documented(schemas.Explanation),
)
async def explain(request: Request, job_id: str, instance_number: str) -> Response:
    """In plain words why an instance is where it is or why it is pending, and what would change that."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(
        peers.manager_stub.ExplainInstance, manager_pb2.ExplainInstanceRequest(key=_key(job_id, instance_number))
    )
    return JsonResponse(explanation_json(answer))


@router.get(
    "/api/instances/{job_id}/{instance_number}/logs",
    summary="What it printed",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string", "examples": ["listening on :80\n"]}}}}},
)
async def logs(
    request: Request,
    job_id: str,
    instance_number: str,
    follow: Annotated[str, Query(description="true goes on until the client leaves")] = "false",
    tail_lines: Annotated[str, Query(description="how many of the last lines come first; 0 means all kept")] = "0",
) -> Response:
    """The output of an instance as it wrote it."""
    message = manager_pb2.StreamLogsRequest(
        key=_key(job_id, instance_number),
        is_following=parse_flag(follow, "follow"),
        tail_lines=parse_integer(tail_lines, "tail_lines", 0, MAX_TAIL_LINES),
    )
    peers: Peers = request.app.state.peers
    timeout_s = FOLLOW_S if message.is_following else request.app.state.settings.call_timeout_s
    pieces = peers.manager.stream(peers.manager_stub.StreamLogs(message, timeout=timeout_s))
    first = asyncio.ensure_future(anext(pieces, None))
    await asyncio.wait([first], timeout=FIRST_OUTPUT_S)
    if first.done() and first.exception() is not None:
        first.result()
    return StreamingResponse(_output(first, pieces), media_type="text/plain; charset=utf-8")


async def _output(
    first: asyncio.Future[manager_pb2.StreamLogsResponse | None],
    rest: AsyncGenerator[manager_pb2.StreamLogsResponse],
) -> AsyncIterator[bytes]:
    try:
        piece = await first
        while piece is not None:
            yield piece.data
            piece = await anext(rest, None)
    except ClusterError as error:
        # the status line has gone out long ago
        yield f"\n[the output ends here: {error.detail}]\n".encode()
    finally:
        first.cancel()
        await rest.aclose()


def _key(job_id: str, instance_number: str) -> instance_pb2.InstanceKey:
    return instance_pb2.InstanceKey(job_id=parse_job_id(job_id), number=parse_instance_number(instance_number))
