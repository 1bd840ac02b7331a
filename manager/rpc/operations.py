"""The calls that move, scale, update and drain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc

from cluster.convert import seconds, spec_from_proto
from cluster.errors import ConflictError, InvalidInputError
from cluster.v1 import job_pb2, manager_pb2_grpc
from cluster.v1 import manager_pb2 as pb
from manager.core import Core
from manager.detector import Detector
from manager.domain.model import Instance, NodeState, Update, UpdatePhase
from manager.drain import Drain
from manager.jobs import Jobs
from manager.moves import Mover
from manager.nodes import Nodes
from manager.portions import in_portions
from manager.rpc.checks import checked_job_id, checked_spec
from manager.rpc.reading import Reader

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
DEFAULT_PARALLEL: Final = 5
DEFAULT_DRAIN_S: Final = 600.0
_PHASES: Final = {
    pb.UPDATE_CONTROL_PAUSE: UpdatePhase.PAUSED,
    pb.UPDATE_CONTROL_RESUME: UpdatePhase.ROLLING,
    pb.UPDATE_CONTROL_ROLL_BACK: UpdatePhase.ROLLING_BACK,
}


class OperationsServicer(manager_pb2_grpc.ManagerServiceServicer):
    """The operator's half of ManagerService."""

    def __init__(self, core: Core, nodes: Nodes, mover: Mover, jobs: Jobs, detector: Detector) -> None:
        self._core = core
        self._nodes = nodes
        self._mover = mover
        self._jobs = jobs
        self._detector = detector
        self._reader = Reader(core)

    async def MoveInstance(self, request: pb.MoveInstanceRequest, context: Context) -> pb.MoveInstanceResponse:
        """Move an instance to another node, make before break; repeated, it answers the move under way or done."""
        checked_job_id(request.job_id)
        instance = self._repeated(request)
        if instance is None:
            number = request.instance_number if request.HasField("instance_number") else None
            found = self._mover.find(request.job_id, number, request.source_node)
            instance = await self._mover.move(found, request.target_node, request.actor or "operator")
        return pb.MoveInstanceResponse(instance=self._reader.instance(instance))

    def _repeated(self, request: pb.MoveInstanceRequest) -> Instance | None:
        number = request.instance_number if request.HasField("instance_number") else None
        if not request.target_node or not request.source_node:
            return None
        return self._mover.already_moved(request.job_id, number, request.source_node, request.target_node)

    async def ReplicateJob(self, request: pb.ReplicateJobRequest, context: Context) -> pb.ReplicateJobResponse:
        """Set the number of instances of a job."""
        job_id, actor = checked_job_id(request.job_id), request.actor or "operator"
        await self._core.change([job_id], self._jobs.replicating(job_id, request.instance_count, actor))
        desired = [item async for item in in_portions(self._jobs.instances(job_id)) if item.is_desired]
        return pb.ReplicateJobResponse(instances=[self._reader.instance(item) async for item in in_portions(desired)])

    async def UpdateJob(self, request: pb.UpdateJobRequest, context: Context) -> pb.UpdateJobResponse:
        """Change the specification of all instances of a job, in batches behind a health gate."""
        job_id = checked_job_id(request.job_id)
        spec = checked_spec(spec_from_proto(request.spec), "spec")
        update = _update(request.strategy, request.HasField("strategy"), spec)
        await self._core.change([job_id], self._jobs.updating(job_id, spec, update, request.actor or "operator"))
        return pb.UpdateJobResponse(job=self._reader.job(self._jobs.get(job_id)))

    async def ControlUpdate(self, request: pb.ControlUpdateRequest, context: Context) -> pb.ControlUpdateResponse:
        """Pause, resume or roll back the update of a job."""
        job_id = checked_job_id(request.job_id)
        phase = _PHASES.get(request.control)
        if phase is None:
            raise InvalidInputError("control must be PAUSE, RESUME or ROLL_BACK", field="control")
        await self._core.change([job_id], self._jobs.controlling(job_id, phase, request.actor or "operator"))
        return pb.ControlUpdateResponse(job=self._reader.job(self._jobs.get(job_id)))

    async def CordonNode(self, request: pb.CordonNodeRequest, context: Context) -> pb.CordonNodeResponse:
        """Stop or allow new placements on a node."""
        self._core.require_store()
        known = self._core.state.get_node(request.node)
        node = self._core.state.set_cordoned(known.id, request.is_cordoned, "operator", self._core.now_ms())
        await self._core.saved()
        if not request.is_cordoned:
            self._core.look_for_room()
        return pb.CordonNodeResponse(node=self._reader.node(node))

    async def DrainNode(self, request: pb.DrainNodeRequest, context: Context) -> AsyncIterator[pb.DrainNodeResponse]:
        """Cordon a node and move its instances away, telling how far it is."""
        if request.max_parallel < 0:
            raise InvalidInputError("max_parallel must be >= 1, or 0 for 5", field="max_parallel")
        self._core.require_store()
        node = self._core.state.get_node(request.node)
        deadline_s = seconds(request.deadline) if request.HasField("deadline") else DEFAULT_DRAIN_S
        drain = Drain(self._core, self._mover, node, request.max_parallel or DEFAULT_PARALLEL, deadline_s)
        async for progress in drain.run():
            yield pb.DrainNodeResponse(
                total_count=progress.total,
                moved_count=progress.moved,
                detail=progress.detail,
                is_done=progress.is_done,
            )

    async def ConfirmLost(self, request: pb.ConfirmLostRequest, context: Context) -> pb.ConfirmLostResponse:
        """Give silent nodes up, or all of them."""
        self._core.require_store()
        nodes = self._detector.confirm_lost(list(request.nodes))
        await self._detector.judge()
        await self._core.saved()
        found = (self._core.state.nodes[node.id] for node in nodes if node.id in self._core.state.nodes)
        return pb.ConfirmLostResponse(nodes=map(self._reader.node, found))

    async def RemoveNode(self, request: pb.RemoveNodeRequest, context: Context) -> pb.RemoveNodeResponse:
        """Forget a node."""
        self._core.require_store()
        node = self._core.state.get_node(request.node)
        state, has_left = self._core.state.state_of(node), self._core.state.live[node.id].has_left
        is_alive = state in (NodeState.READY, NodeState.SUSPECT) and not has_left
        if is_alive and not request.is_forced:
            raise ConflictError(f"node {node.name} is {state}: stop its worker first, or use force", field="node")
        await self._nodes.remove(node, is_forced=request.is_forced)
        return pb.RemoveNodeResponse()


def _update(strategy: job_pb2.UpdateStrategy, is_given: bool, spec: Any) -> Update:
    """`old` is filled in by the job; without a strategy: one at a time, with roll-back."""
    if strategy.batch_size < 0:
        raise InvalidInputError("batch_size must be >= 1, or 0 for 1", field="strategy.batch_size")
    defaults = Update(old=spec, phase=UpdatePhase.ROLLING)
    has_deadline = strategy.HasField("health_deadline")
    return Update(
        old=spec,
        phase=UpdatePhase.ROLLING,
        batch_size=strategy.batch_size or defaults.batch_size,
        health_deadline_ms=int(seconds(strategy.health_deadline) * 1000)
        if has_deadline
        else defaults.health_deadline_ms,
        rollback_on_failure=strategy.rollback_on_failure if is_given else True,
    )
