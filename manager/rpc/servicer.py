"""ManagerService: every call checks its input first, changes the state at once, and answers when that is durable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import Any, Final, TypeAlias

import grpc

from cluster.convert import spec_from_proto
from cluster.errors import ClusterError, InvalidInputError, NotFoundError
from cluster.nodes import Dialect, parse_registration
from cluster.v1 import manager_pb2, manager_pb2_grpc
from cluster.v1 import manager_pb2 as pb
from manager import worker_client
from manager.core import Core
from manager.detector import Detector
from manager.domain.model import Instance, InstanceKey, Node
from manager.explain import summary
from manager.foreign_logs import told_output
from manager.jobs import Jobs
from manager.moves import Mover
from manager.nodes import Nodes
from manager.planner import Planner
from manager.portions import in_portions
from manager.roots import Roots
from manager.rpc.checks import check_batch, checked_key, checked_registration, checked_rerun_id, checked_spec, spec_at
from manager.rpc.convert import quarantined_to_proto, registration_from_proto
from manager.rpc.operations import OperationsServicer
from manager.rpc.orphans import OrphanServicer
from manager.rpc.reading import event_message
from manager.rpc.root_servicer import RootServicer, route_of
from manager.rpc.watch import watch_nodes

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
LOG_PIECE_BYTES: Final = 64 * 1024


class ManagerServicer(OperationsServicer, RootServicer, OrphanServicer):
    """The gRPC face of the core."""

    def __init__(
        self,
        core: Core,
        nodes: Nodes,
        planner: Planner,
        jobs: Jobs,
        detector: Detector,
        cluster_name: str,
        parts: Callable[[], list[pb.PartStatus]],
        roots: Roots | None = None,
    ) -> None:
        OperationsServicer.__init__(self, core, nodes, Mover(core, planner), jobs, detector)
        RootServicer.__init__(self, core, roots or Roots(core))
        OrphanServicer.__init__(self, core)
        self._planner = planner
        self._cluster_name = cluster_name
        self._parts = parts

    # Nodes

    async def RegisterNode(self, request: pb.RegisterNodeRequest, context: Context) -> pb.RegisterNodeResponse:
        """Admit a node or renew what it said."""
        node = await self._nodes.register(checked_registration(registration_from_proto(request.registration)))
        return pb.RegisterNodeResponse(
            node_id=node.id, mqtt_broker_port=self._nodes.broker_port, cluster_id=self._core.cluster_id
        )

    async def AdoptNode(self, request: pb.AdoptNodeRequest, context: Context) -> pb.AdoptNodeResponse:
        """Ask a waiting worker for its registration and answer it there."""
        if not request.address:
            raise InvalidInputError("write the address as IP:PORT", field="address")
        registration = parse_registration(await worker_client.fetch_registration(request.address))
        node = await self._nodes.register(registration)
        await worker_client.answer_registration(request.address, self._nodes.answer(node))
        return pb.AdoptNodeResponse(node=self._reader.node(node))

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        """A page of nodes by name."""
        return self._reader.nodes(request)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        """One node with its history."""
        return await self._reader.get_node(request)

    async def WatchNodes(self, request: pb.WatchNodesRequest, context: Context) -> AsyncIterator[pb.WatchNodesResponse]:
        """A snapshot, then deltas."""
        async for response in watch_nodes(self._core, self._reader):
            yield response

    # Instances

    async def DeployInstances(self, request: pb.DeployInstancesRequest, context: Context) -> pb.DeployInstancesResponse:
        """Save that instances should run, all or none."""
        check_batch(request.deployments, "deployments")
        rerun_id = checked_rerun_id(request.request_id) if request.is_rerun else ""
        specs = [
            checked_spec(spec_from_proto(spec), f"specs.{position}")
            async for position, spec in in_portions(enumerate(request.specs))
        ]
        wanted = [
            (checked_key(item.key, minimum=0), spec_at(specs, item.spec_index))
            async for item in in_portions(request.deployments)
        ]
        job_ids = {key.job_id for key, _ in wanted}
        self._core.require_store()
        self._roots.note_route(route_of(request.route), job_ids)
        actor, at_ms = request.actor or "operator", self._core.now_ms()
        steps = self._core.state.deploying(wanted, actor, at_ms, rerun_id=rerun_id)
        return pb.DeployInstancesResponse(instances=await self._change(job_ids, steps))

    async def DeleteInstances(self, request: pb.DeleteInstancesRequest, context: Context) -> pb.DeleteInstancesResponse:
        """Save that instances should not run, all or none."""
        check_batch(request.keys, "keys")
        keys = [checked_key(key, minimum=-1) async for key in in_portions(request.keys)]
        self._core.require_store()
        admitted = self._roots.admit_deletes(keys, request.actor)
        steps = self._core.state.deleting(admitted, request.actor or "operator", self._core.now_ms())
        changed = await self._change({key.job_id for key in admitted}, steps)
        return pb.DeleteInstancesResponse(instances=changed)

    async def _change(self, job_ids: Collection[str], steps: Iterable[Instance]) -> list[Any]:
        """The instances that the steps answer, as they then are saved."""
        changed: list[Instance] = []
        keys: list[InstanceKey] = []
        await self._core.change(job_ids, _noted(steps, changed, keys), awaited=keys)
        saved = self._core.saved_records.instances
        return [self._reader.instance(saved.get(item.key, item)) async for item in in_portions(changed)]

    # Reading

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """A page of jobs by id."""
        return await self._reader.jobs(request)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """One job with its instances."""
        return await self._reader.get_job(request)

    async def ListInstances(self, request: pb.ListInstancesRequest, context: Context) -> pb.ListInstancesResponse:
        """A page of instances by job and number."""
        return self._reader.instances(request)

    async def GetInstance(self, request: pb.GetInstanceRequest, context: Context) -> pb.GetInstanceResponse:
        """One instance with its specification and history."""
        instance = self._reader.find_instance(request.key)
        return pb.GetInstanceResponse(instance=await self._reader.whole_instance(instance))

    async def ExplainInstance(self, request: pb.ExplainInstanceRequest, context: Context) -> pb.ExplainInstanceResponse:
        """Why an instance is where it is, or why it is pending."""
        instance = self._reader.find_instance(request.key)
        response = pb.ExplainInstanceResponse(instance=await self._reader.whole_instance(instance))
        peers = self._core.state.peers(instance.key.job_id)
        try:
            planning = await self._planner.explain(instance.key.job_id, instance.spec, peers, instance.node_id)
            response.planning.CopyFrom(planning)
        except ClusterError:
            planning = None
        hold = self._core.leases.hold_of(instance.node_id)
        now_ms, owing = self._core.now_ms(), self._owing(instance)
        response.summary = summary(instance, self._node_name, planning, now_ms, hold, owing)
        return response

    def _owing(self, instance: Instance) -> list[str]:
        state = self._core.state
        nodes = (
            [state.nodes[item.node_id] for item in state.owes(instance.key)] if instance.key in state.instances else []
        )
        return [f"node {node.name} ({node.state})" for node in nodes]

    def _node_name(self, node_id: str) -> str:
        node = self._core.state.nodes.get(node_id)
        return node.name if node else node_id

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        """A page of the history, newest first."""
        return self._reader.events(request)

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """The history as it happens."""
        async for entries in self._core.history.follow(request.after_id):
            kept = [entry for entry in entries if request.job_id in ("", entry.job_id)]
            if kept:
                yield pb.WatchEventsResponse(events=event_message(kept))

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Context) -> AsyncIterator[pb.StreamLogsResponse]:
        """The output of an instance from its worker."""
        instance = self._reader.find_instance(request.key)
        node = self._logs_node(instance)
        if node.registration.dialect is not Dialect.WORKER:
            yield pb.StreamLogsResponse(data=told_output(node, instance, self._core.usages.get(instance.key)))
            return
        address = worker_client.host_port(node.registration.ip, node.registration.port)
        pieces = worker_client.stream_logs(
            address,
            request.key.job_id,
            request.key.number,
            is_following=request.is_following,
            tail_lines=request.tail_lines,
        )
        async for piece in pieces:
            for start in range(0, len(piece), LOG_PIECE_BYTES):
                yield pb.StreamLogsResponse(data=piece[start : start + LOG_PIECE_BYTES])

    def _logs_node(self, instance: Instance) -> Node:
        """The node that holds, or last held, the instance."""
        node_id = instance.node_id or (instance.ended[-1].node_id if instance.ended else "")
        node = self._core.state.nodes.get(node_id)
        if node is None:
            raise NotFoundError(f"{instance.key} is {instance.state} and was on no node yet: it has no output")
        return node

    async def ListQuarantined(self, request: pb.ListQuarantinedRequest, context: Context) -> pb.ListQuarantinedResponse:
        """The saved records that cannot be read."""
        found = sorted(self._core.quarantined.items())
        return pb.ListQuarantinedResponse(records=[quarantined_to_proto(item) for _, item in found])

    async def ReleaseQuarantined(
        self, request: pb.ReleaseQuarantinedRequest, context: Context
    ) -> pb.ReleaseQuarantinedResponse:
        """Drop one of them for good."""
        await self._core.release_quarantined(request.kind, request.id)
        return pb.ReleaseQuarantinedResponse()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """How the cluster stands."""
        return self._reader.status(self._parts(), self._cluster_name)


def _noted(steps: Iterable[Instance], changed: list[Instance], keys: list[InstanceKey]) -> Iterator[Instance]:
    for instance in steps:
        changed.append(instance)
        keys.append(instance.key)
        yield instance


def add(servicer: ManagerServicer) -> Callable[[grpc.aio.Server], None]:
    """What adds the servicer to a server."""
    return lambda server: manager_pb2_grpc.add_ManagerServiceServicer_to_server(servicer, server)


SERVICE: Final = manager_pb2.DESCRIPTOR.services_by_name["ManagerService"].full_name
