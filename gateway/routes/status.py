"""Whether it works: the whole cluster's readiness, its standing, and this process alone."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cluster.errors import DeadlineError, UnavailableError
from cluster.v1 import manager_pb2
from gateway import openapi, schemas
from gateway.answers import JsonResponse, ok
from gateway.convert import status_json
from gateway.peers import Peers
from gateway.problems import problem

STATUS_TIMEOUT_S: Final = 3.0  # roots wait 5 s
NEEDED: Final = ("store", "broker", "scheduler")
router = APIRouter(tags=["status"], responses=openapi.PROBLEMS)


@router.get("/status", summary="Is the cluster ready?", **openapi.documented(schemas.Ready))
async def status(request: Request) -> Response:
    """200 only while store, broker session and scheduler view are ready; else 503 with what is missing."""
    peers: Peers = request.app.state.peers
    try:
        answer = await peers.manager.call(
            peers.manager_stub.GetStatus, manager_pb2.GetStatusRequest(), wait_s=0.0, timeout_s=STATUS_TIMEOUT_S
        )
    except (DeadlineError, UnavailableError) as away:
        return problem(UnavailableError(away.detail, field="manager"), {"missing": ["manager"]})
    parts = {part.name: part for part in answer.parts}
    missing = {
        name: parts[name].detail if name in parts else "the manager does not tell"
        for name in NEEDED
        if name not in parts or not parts[name].is_ready
    }
    if missing:
        words = "; ".join(f"{name}: {detail}" if detail else name for name, detail in missing.items())
        error = UnavailableError(f"not ready: {words}", field=next(iter(missing)))
        return problem(error, {"missing": list(missing)})
    return JsonResponse({"status": "ok", "cluster_name": _name(request, answer), "cluster_id": answer.cluster_id})


@router.get("/api/cluster/status", summary="How the cluster stands", **openapi.documented(schemas.ClusterStatus))
async def cluster_status(request: Request) -> Response:
    """The cluster's name and id, whether a root has admitted it, and its nodes and instances in numbers."""
    peers: Peers = request.app.state.peers
    answer = await peers.read(peers.manager_stub.GetStatus, manager_pb2.GetStatusRequest())
    return JsonResponse(status_json(answer, request.app.state.settings.cluster_name))


@router.get("/healthz", summary="Does the gateway itself live?", **openapi.documented(schemas.Ok))
async def healthz() -> Response:
    """200 while this process answers, whatever the rest does."""
    return ok()


def _name(request: Request, answer: manager_pb2.GetStatusResponse) -> str:
    return answer.cluster_name or str(request.app.state.settings.cluster_name)
