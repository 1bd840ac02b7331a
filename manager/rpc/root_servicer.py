"""The calls about the root: how the link stands, and the operator's decision about workloads that it lost."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc

from cluster.convert import timestamp
from cluster.errors import InvalidInputError
from cluster.v1 import manager_pb2 as pb
from cluster.v1 import manager_pb2_grpc, root_pb2
from manager.core import Core
from manager.domain.model import InstanceKey
from manager.domain.roots import Era, LinkState, Route
from manager.roots import ALL, ROOT, Roots

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_STATES: Final = {
    LinkState.STAND_ALONE: root_pb2.ROOT_LINK_STATE_UNSPECIFIED,
    LinkState.NEVER: root_pb2.ROOT_LINK_STATE_NEVER,
    LinkState.HANDSHAKING: root_pb2.ROOT_LINK_STATE_HANDSHAKING,
    LinkState.ATTACHED: root_pb2.ROOT_LINK_STATE_ATTACHED,
    LinkState.LOST: root_pb2.ROOT_LINK_STATE_LOST,
    LinkState.REFUSED: root_pb2.ROOT_LINK_STATE_REFUSED,
}
_ERAS: Final = {
    None: root_pb2.ROOT_ERA_UNSPECIFIED,
    Era.UNDECIDED: root_pb2.ROOT_ERA_UNSPECIFIED,
    Era.R1: root_pb2.ROOT_ERA_R1,
    Era.R2: root_pb2.ROOT_ERA_R2,
    Era.R3: root_pb2.ROOT_ERA_R3,
}
_ROUTES: Final[dict[int, Route]] = {
    root_pb2.ROOT_ROUTE_DEPLOY: Route.DEPLOY,
    root_pb2.ROOT_ROUTE_SERVICE: Route.SERVICE,
}


def route_of(value: int) -> Route:
    """The route of a call."""
    return _ROUTES.get(value, Route.NONE)


class RootServicer(manager_pb2_grpc.ManagerServiceServicer):
    """The root's part of ManagerService."""

    def __init__(self, core: Core, roots: Roots) -> None:
        self._core = core
        self._roots = roots

    async def GetRoot(self, request: pb.GetRootRequest, context: Context) -> pb.GetRootResponse:
        """How the cluster stands with its root."""
        return pb.GetRootResponse(root=self._message())

    async def DecideRootDeletes(
        self, request: pb.DecideRootDeletesRequest, context: Context
    ) -> pb.DecideRootDeletesResponse:
        """Delete what the root ordered deleted, or keep what it does not know."""
        self._core.require_store()
        doomed: list[InstanceKey] = []
        if request.decision == root_pb2.ROOT_DECISION_KEEP:
            job_ids = self._roots.keep()
            told = "root_workloads_kept", f"{len(job_ids)} jobs that the root does not know stay by decision"
        elif request.decision == root_pb2.ROOT_DECISION_CONFIRM_DELETES:
            job_ids = self._roots.release()
            told = "root_deletes_confirmed", f"{len(job_ids)} jobs are deleted as the root ordered"
            doomed = [InstanceKey(job_id, ALL) for job_id in job_ids]
        else:
            raise InvalidInputError("decide to confirm the deletes or to keep the workloads", field="decision")
        await self._core.change(set(job_ids), self._core.state.deleting(doomed, ROOT, self._core.now_ms()))
        self._roots.tell(*told)
        return pb.DecideRootDeletesResponse(root=self._message(), job_ids=job_ids)

    def _message(self) -> root_pb2.Root:
        standing, guard = self._roots.standing, self._roots.guard
        message = root_pb2.Root(
            state=_STATES[standing.state],
            address=standing.address,
            era=_ERAS[standing.era],
            cluster_id=standing.cluster_id,
            detail=standing.detail,
            guarded_job_ids=sorted(guard.guarded),
            held_job_ids=sorted(guard.held),
            kept_job_ids=sorted(guard.kept),
        )
        if standing.last_report_at_ms is not None:
            message.last_report_at.CopyFrom(timestamp(standing.last_report_at_ms))
        return message
