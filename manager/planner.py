"""The scheduler over gRPC: plans and explanations, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc

from cluster.convert import resources_to_proto, spec_to_proto
from cluster.errors import ClusterError
from cluster.jobs import JobSpec, Resources
from cluster.rpc_errors import from_rpc_error
from cluster.v1 import instance_pb2, node_pb2, scheduler_pb2, scheduler_pb2_grpc
from manager.domain.model import InstanceKey, NodeKind, Refusal

PLAN_TIMEOUT_S: Final = 10.0
CHECK_TIMEOUT_S: Final = 2.0
KINDS: Final = {kind: node_pb2.NodeKind.Value(f"NODE_KIND_{kind.name}") for kind in NodeKind}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One placement to be planned; `target_node_id` is the only node that may be taken, where it is given."""

    key: InstanceKey
    spec: JobSpec
    excluded_node_ids: tuple[str, ...] = ()
    excluded_kinds: tuple[NodeKind, ...] = ()
    target_node_id: str = ""
    released_node_id: str = ""
    released: Resources | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A node and why it was chosen, or the reasons why there is none.

    `is_behind`: the scheduler had not heard of the newest change for the better when it refused.
    """

    node_id: str
    refusals: tuple[Refusal, ...] = field(default=())
    cause: str = ""
    is_behind: bool = False


class Scheduler(Protocol):
    """Whoever plans: the scheduler over gRPC, or one in the same process."""

    async def plan(self, requests: Sequence[Request], peers: dict[str, dict[str, int]], sequence: int) -> list[Result]:
        """Plan in order; `peers` has the open placements of each job by node. Raises ClusterError."""


class Planner:
    """A client of SchedulerService. `failure` says why the last call did not work; "" when it did.

    `room_sequence` answers the newest change for the better, which each plan must know of: views travel by themselves.
    """

    def __init__(self, channel: grpc.aio.Channel, room_sequence: Callable[[], int] = lambda: 0) -> None:
        self._stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._room_sequence = room_sequence
        self.failure = "not asked yet"

    async def plan(self, requests: Sequence[Request], peers: dict[str, dict[str, int]], sequence: int) -> list[Result]:
        """Plan in order; `peers` has the open placements of each job by node. Raises ClusterError."""
        message = plan_request(requests, peers, sequence)
        message.view_sequence = self._room_sequence()
        try:
            response = await self._stub.Plan(message, timeout=PLAN_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._failed(error) from None
        self.failure = ""
        return [
            Result(
                node_id=item.node_id,
                refusals=tuple(map(_refusal, item.refusals)),
                cause=item.cause,
                is_behind=response.is_behind,
            )
            for item in response.results
        ]

    async def check(self) -> None:
        """Ask for a plan of nothing, so that `failure` tells whether the scheduler would answer."""
        try:
            await self._stub.Plan(scheduler_pb2.PlanRequest(is_dry_run=True), timeout=CHECK_TIMEOUT_S)
        except grpc.RpcError as error:
            self._failed(error)
        else:
            self.failure = ""

    async def explain(
        self, job_id: str, spec: JobSpec, peers: dict[str, int], released_node_id: str
    ) -> scheduler_pb2.ExplainResponse:
        """What each filter thinks of each node. Raises ClusterError."""
        request = scheduler_pb2.ExplainRequest(spec=_plan_spec(job_id, spec, peers), released_node_id=released_node_id)
        try:
            response = await self._stub.Explain(request, timeout=PLAN_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._failed(error) from None
        self.failure = ""
        return response

    def _failed(self, error: grpc.RpcError) -> ClusterError:
        known = from_rpc_error(error)
        self.failure = known.detail
        return known


def plan_request(
    requests: Sequence[Request], peers: dict[str, dict[str, int]], sequence: int
) -> scheduler_pb2.PlanRequest:
    """The message for a batch: each distinct specification of a job stands in it once."""
    message = scheduler_pb2.PlanRequest(plan_sequence=sequence)
    positions: dict[tuple[str, str], int] = {}
    for request in requests:
        job_id = request.key.job_id
        known = (job_id, request.spec.digest)
        if known not in positions:
            positions[known] = len(message.specs)
            message.specs.append(_plan_spec(job_id, request.spec, peers.get(job_id, {})))
        message.items.add(
            key=instance_pb2.InstanceKey(job_id=job_id, number=request.key.number),
            spec_index=positions[known],
            excluded_node_ids=request.excluded_node_ids,
            excluded_kinds=map(KINDS.__getitem__, request.excluded_kinds),
            target_node_id=request.target_node_id,
            released_node_id=request.released_node_id,
            released=resources_to_proto(request.released) if request.released else None,
        )
    return message


def _plan_spec(job_id: str, spec: JobSpec, peers: dict[str, int]) -> scheduler_pb2.PlanSpec:
    message = scheduler_pb2.PlanSpec(job_id=job_id, spec=spec_to_proto(spec))
    for node_id, count in peers.items():
        message.peers.add(node_id=node_id, count=count)
    return message


def _refusal(message: instance_pb2.Refusal) -> Refusal:
    return Refusal(reason=message.reason, node_count=message.node_count, detail=message.detail)
