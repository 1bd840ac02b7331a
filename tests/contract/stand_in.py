# ruff: noqa: N802, D102 - the names are those of the RPCs
"""A small real gRPC ManagerService and SchedulerService: in memory, without workers, recording what they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from cluster.convert import timestamp
from cluster.errors import ClusterError, ConflictError, NotFoundError
from cluster.rpc import serving
from cluster.v1 import (
    event_pb2,
    instance_pb2,
    job_pb2,
    manager_pb2,
    manager_pb2_grpc,
    node_pb2,
    scheduler_pb2,
    scheduler_pb2_grpc,
)

CLUSTER_ID = "c" * 24
NOW = timestamp(1_767_225_600_123)


class StandInManager(manager_pb2_grpc.ManagerServiceServicer):
    """Accepts every command, but no job of `refused_jobs`.

    `failures` maps a method to the error that it raises, `delays_s` to how long it takes.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.failures: dict[str, ClusterError] = {}
        self.delays_s: dict[str, float] = {}
        self.unready_parts: set[str] = set()
        self.refused_jobs: set[str] = set()
        self.nodes: dict[str, node_pb2.Node] = {}
        self.instances: dict[tuple[str, int], instance_pb2.Instance] = {}
        self.output = [b"hello\n", b"\xff\xfe\n"]

    async def _record(self, method: str, request: Any) -> None:
        self.requests.append(request)
        await asyncio.sleep(self.delays_s.get(method, 0.0))
        if method in self.failures:
            raise self.failures[method]

    async def RegisterNode(self, request: manager_pb2.RegisterNodeRequest, context: Any) -> Any:
        await self._record("RegisterNode", request)
        known = {node.registration.name: node_id for node_id, node in self.nodes.items()}
        node_id = known.get(request.registration.name) or f"{len(self.nodes) + 1:024x}"
        self.nodes[node_id] = node_pb2.Node(
            id=node_id,
            registration=request.registration,
            state=node_pb2.NODE_STATE_READY,
            registered_at=NOW,
            topic_id=node_id,
        )
        return manager_pb2.RegisterNodeResponse(node_id=node_id, mqtt_broker_port=10003, cluster_id=CLUSTER_ID)

    async def ListNodes(self, request: manager_pb2.ListNodesRequest, context: Any) -> Any:
        await self._record("ListNodes", request)
        nodes = [
            node
            for node in self.nodes.values()
            if (not request.states or node.state in request.states) and request.name in ("", node.registration.name)
        ]
        page, token = _page(nodes, request)
        return manager_pb2.ListNodesResponse(nodes=page, next_page_token=token)

    async def GetNode(self, request: manager_pb2.GetNodeRequest, context: Any) -> Any:
        await self._record("GetNode", request)
        for node in self.nodes.values():
            if request.node in (node.id, node.registration.name):
                return manager_pb2.GetNodeResponse(node=node, events=[_event(1, node_id=node.id)])
        raise NotFoundError(f"no node {request.node!r}", field="node")

    async def DeployInstances(self, request: manager_pb2.DeployInstancesRequest, context: Any) -> Any:
        await self._record("DeployInstances", request)
        refused = [d.key.job_id for d in request.deployments if d.key.job_id in self.refused_jobs]
        if refused:
            raise ConflictError(f"job {refused[0]} is refused", field="job_id")
        saved = []
        for deployment in request.deployments:
            spec = request.specs[deployment.spec_index]
            key = (deployment.key.job_id, deployment.key.number)
            self.instances[key] = instance_pb2.Instance(
                key=deployment.key,
                job_name=spec.name,
                state=instance_pb2.INSTANCE_STATE_PENDING,
                refusals=[instance_pb2.Refusal(reason="memory", node_count=1, detail="too little")],
                is_desired=True,
                technology=spec.technology,
                image=spec.image,
                created_at=NOW,
                updated_at=NOW,
                spec=spec,
            )
            saved.append(self.instances[key])
        return manager_pb2.DeployInstancesResponse(instances=saved)

    async def DeleteInstances(self, request: manager_pb2.DeleteInstancesRequest, context: Any) -> Any:
        await self._record("DeleteInstances", request)
        gone = [
            key
            for key in self.instances
            if any(key[0] == named.job_id and named.number in (-1, key[1]) for named in request.keys)
        ]
        return manager_pb2.DeleteInstancesResponse(instances=[self.instances.pop(key) for key in gone])

    async def MoveInstance(self, request: manager_pb2.MoveInstanceRequest, context: Any) -> Any:
        await self._record("MoveInstance", request)
        return manager_pb2.MoveInstanceResponse(instance=self._of_job(request.job_id)[0])

    async def ReplicateJob(self, request: manager_pb2.ReplicateJobRequest, context: Any) -> Any:
        await self._record("ReplicateJob", request)
        return manager_pb2.ReplicateJobResponse(instances=self._of_job(request.job_id))

    async def ListJobs(self, request: manager_pb2.ListJobsRequest, context: Any) -> Any:
        await self._record("ListJobs", request)
        jobs = [self._job(job_id) for job_id in sorted({job_id for job_id, _ in self.instances})]
        page, token = _page([job for job in jobs if request.name in ("", job.spec.name)], request)
        return manager_pb2.ListJobsResponse(jobs=page, next_page_token=token)

    async def GetJob(self, request: manager_pb2.GetJobRequest, context: Any) -> Any:
        await self._record("GetJob", request)
        return manager_pb2.GetJobResponse(job=self._job(request.job), instances=self._of_job(request.job))

    async def ListInstances(self, request: manager_pb2.ListInstancesRequest, context: Any) -> Any:
        await self._record("ListInstances", request)
        instances = [
            instance
            for _, instance in sorted(self.instances.items())
            if request.job_id in ("", instance.key.job_id) and (not request.states or instance.state in request.states)
        ]
        page, token = _page(instances, request)
        return manager_pb2.ListInstancesResponse(instances=page, next_page_token=token)

    async def GetInstance(self, request: manager_pb2.GetInstanceRequest, context: Any) -> Any:
        await self._record("GetInstance", request)
        return manager_pb2.GetInstanceResponse(instance=self._instance(request.key))

    async def ExplainInstance(self, request: manager_pb2.ExplainInstanceRequest, context: Any) -> Any:
        await self._record("ExplainInstance", request)
        return manager_pb2.ExplainInstanceResponse(
            instance=self._instance(request.key),
            summary="no node has enough memory",
            planning=scheduler_pb2.ExplainResponse(node_count=1, smallest_change="10 MB less"),
        )

    async def ListEvents(self, request: manager_pb2.ListEventsRequest, context: Any) -> Any:
        await self._record("ListEvents", request)
        events = [
            _event(number, job_id=key[0], instance_number=key[1])
            for number, key in enumerate(self.instances, 1)
            if request.job_id in ("", key[0])
        ]
        page, token = _page(events[::-1], request)
        return manager_pb2.ListEventsResponse(events=page, next_page_token=token)

    async def StreamLogs(self, request: manager_pb2.StreamLogsRequest, context: Any) -> AsyncIterator[Any]:
        self._instance(request.key)
        for data in self.output:
            yield manager_pb2.StreamLogsResponse(data=data)
        await self._record("StreamLogs", request)

    async def GetStatus(self, request: manager_pb2.GetStatusRequest, context: Any) -> Any:
        await self._record("GetStatus", request)
        return manager_pb2.GetStatusResponse(
            cluster_id=CLUSTER_ID,
            cluster_name="cluster-1",
            parts=[
                manager_pb2.PartStatus(name=name, is_ready=name not in self.unready_parts, detail="it sleeps")
                for name in ("store", "broker", "scheduler", "root")
            ],
            node_counts={"READY": len(self.nodes)},
            version="0.1.0",
        )

    def _of_job(self, job_id: str) -> list[instance_pb2.Instance]:
        found = [instance for key, instance in sorted(self.instances.items()) if key[0] == job_id]
        if not found:
            raise NotFoundError(f"no job {job_id!r}", field="job")
        return found

    def _job(self, job_id: str) -> job_pb2.Job:
        instances = self._of_job(job_id)
        return job_pb2.Job(
            id=job_id, spec=instances[0].spec, instance_count=len(instances), created_at=NOW, state="PENDING"
        )

    def _instance(self, key: instance_pb2.InstanceKey) -> instance_pb2.Instance:
        instance = self.instances.get((key.job_id, key.number))
        if instance is None:
            raise NotFoundError(f"no instance {key.job_id}/{key.number}", field="instance_number")
        return instance


class StandInScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Gives each item the next of `node_ids`; items beyond them are refused for memory."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.node_ids = ["a" * 24]

    async def Plan(self, request: scheduler_pb2.PlanRequest, context: Any) -> scheduler_pb2.PlanResponse:
        self.requests.append(request)
        refusal = instance_pb2.Refusal(reason="memory", node_count=len(self.node_ids), detail="too little memory")
        chosen = [scheduler_pb2.PlanResult(node_id=node_id) for node_id in self.node_ids[: len(request.items)]]
        refused = [scheduler_pb2.PlanResult(refusals=[refusal])] * (len(request.items) - len(chosen))
        return scheduler_pb2.PlanResponse(results=[*chosen, *refused])

    async def Explain(self, request: scheduler_pb2.ExplainRequest, context: Any) -> scheduler_pb2.ExplainResponse:
        self.requests.append(request)
        return scheduler_pb2.ExplainResponse()


class Server:
    """A servicer on a port, in a thread with its own loop; it can be stopped and started again."""

    def __init__(self, name: str, add: Any, port: int) -> None:
        self.port = port
        self._services = {name: add}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Serve; returns once it listens."""
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def stop(self) -> None:
        """Refuse calls; returns once the port is free."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(10)
            self._thread = None

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        async with serving(f"127.0.0.1:{self.port}", self._services, drain_s=0.1):
            started.set()
            await self._ended.wait()


@contextlib.contextmanager
def manager_server(manager: StandInManager, port: int) -> Iterator[Server]:
    """The manager on a port for the time of the block."""
    server = Server(
        "cluster.v1.ManagerService",
        lambda grpc_server: manager_pb2_grpc.add_ManagerServiceServicer_to_server(manager, grpc_server),
        port,
    )
    with _running(server):
        yield server


@contextlib.contextmanager
def scheduler_server(scheduler: StandInScheduler, port: int) -> Iterator[Server]:
    """The scheduler on a port for the time of the block."""
    server = Server(
        "cluster.v1.SchedulerService",
        lambda grpc_server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, grpc_server),
        port,
    )
    with _running(server):
        yield server


@contextlib.contextmanager
def _running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


def _page(items: list[Any], request: Any) -> tuple[list[Any], str]:
    start = int(request.page_token or 0)
    end = start + (request.page_size or 100)
    return items[start:end], str(end) if end < len(items) else ""


def _event(number: int, **facts: Any) -> event_pb2.Event:
    return event_pb2.Event(
        id=number, at=NOW, actor="root", subject="cluster", kind="requested", cause="asked for", **facts
    )
