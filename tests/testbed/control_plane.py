"""Broker, manager and scheduler as real processes, controlled over gRPC; no gateway."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from cluster.convert import spec_to_proto
from cluster.jobs import JobSpec
from cluster.nodes import parse_registration
from cluster.v1 import instance_pb2, manager_pb2, manager_pb2_grpc, node_pb2
from testbed.cluster import HOST, Answer, Cluster
from testbed.waiting import wait_until

CALL_S = 15.0


class ControlPlane(Cluster):
    """A cluster without its gateway. `call` asks the manager; nodes of `scripted_node` register through `http`."""

    def __init__(self, folder: Path, settings: Mapping[str, str], broker_configuration: str = "") -> None:
        super().__init__(folder, broker_configuration=broker_configuration, settings=settings)
        del self.parts["gateway"]
        self.http = _Registrar(self)  # type: ignore[assignment]
        self._channel = grpc.insecure_channel(
            f"{HOST}:{self.ports['manager']}", options=[("grpc.max_reconnect_backoff_ms", 500)]
        )
        self.stub: Any = manager_pb2_grpc.ManagerServiceStub(self._channel)

    def start(self) -> "ControlPlane":
        """Start all parts and wait until all are ready."""
        for part in self.parts.values():
            part.start()
        wait_until(self.is_ready, timeout=60.0, what="store, broker and scheduler are ready")
        return self

    def close(self) -> None:
        """End everything."""
        self._channel.close()
        super().close()

    def call(self, method: str, request: Any) -> Any:
        """One call; raises grpc.RpcError."""
        return getattr(self.stub, method)(request, timeout=CALL_S)

    def insist(self, method: str, request: Any) -> Any:
        """Ask until the manager is there."""

        def attempt() -> Any:
            try:
                return self.call(method, request)
            except grpc.RpcError as error:
                if _code(error) is grpc.StatusCode.UNAVAILABLE:
                    return None
                raise

        return wait_until(attempt, timeout=60.0, what=f"{method} is answered")

    def status(self) -> Any:
        """How the cluster stands."""
        return self.insist("GetStatus", manager_pb2.GetStatusRequest())

    def is_ready(self) -> bool:
        """Whether store, broker and scheduler work."""
        return all(part.is_ready for part in self.status().parts if part.name != "root")

    def register(self, document: Mapping[str, Any]) -> Any:
        """Register a node by its message."""
        known = parse_registration(document)
        registration = node_pb2.NodeRegistration(
            name=known.name,
            given_id=known.given_id,
            ip=known.ip,
            port=known.port,
            dialect=node_pb2.NodeDialect.Value(f"NODE_DIALECT_{known.dialect.upper()}"),
            technologies=known.technologies,
        )
        if known.capacity.cpu_millicores is not None:
            registration.capacity.cpu_millicores = known.capacity.cpu_millicores
        return self.insist("RegisterNode", manager_pb2.RegisterNodeRequest(registration=registration))

    def node(self, name: str) -> dict[str, Any]:
        """A node's id and state; {} where it is unknown."""
        nodes = self.insist("ListNodes", manager_pb2.ListNodesRequest(name=name)).nodes
        states = node_pb2.NodeState
        return {"id": nodes[0].id, "state": states.Name(nodes[0].state).removeprefix("NODE_STATE_")} if nodes else {}

    def deploy(self, job_id: str, count: int = 1, **facts: Any) -> None:
        """Deploy instances 0 to `count` - 1 of a job, durably."""
        spec = JobSpec(**{"name": job_id, "image": "image", "technology": "docker", **facts})
        request = manager_pb2.DeployInstancesRequest(specs=[spec_to_proto(spec)])
        for number in range(count):
            request.deployments.add(key=_key(job_id, number))
        self.insist("DeployInstances", request)

    def delete(self, job_id: str, number: int = -1) -> None:
        """Delete instances, durably."""
        self.insist("DeleteInstances", manager_pb2.DeleteInstancesRequest(keys=[_key(job_id, number)]))

    def instance(self, job_id: str, number: int = 0) -> Any:
        """One instance with its history."""
        return self.insist("GetInstance", manager_pb2.GetInstanceRequest(key=_key(job_id, number))).instance

    def state(self, job_id: str, number: int = 0) -> str:
        """Where an instance stands."""
        value = self.instance(job_id, number).state
        return instance_pb2.InstanceState.Name(value).removeprefix("INSTANCE_STATE_")

    def wait_for(self, job_id: str, state: str, number: int = 0) -> Any:
        """Wait until an instance is in a state."""
        wait_until(lambda: self.state(job_id, number) == state, 60.0, what=f"{job_id}/{number} is {state}")
        return self.instance(job_id, number)

    def counter(self, name: str) -> int:
        """A total of the manager."""
        return int(self.status().counters[name])


class _Registrar:
    """Stands where a gateway would: a node's message in, the documented answer out."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def insist(self, method: str, path: str, body: Any) -> Answer:
        """Register."""
        known = self._plane.register(body)
        answer = {"id": known.node_id, "MQTT_BROKER_PORT": str(known.mqtt_broker_port)}
        return Answer(200, answer)


def _key(job_id: str, number: int) -> instance_pb2.InstanceKey:
    return instance_pb2.InstanceKey(job_id=job_id, number=number)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


@contextlib.contextmanager
def control_plane(**settings: str) -> Iterator[ControlPlane]:
    """A ready control plane for the time of the block; `settings` are environment variables of all parts."""
    with tempfile.TemporaryDirectory(prefix="plane-") as folder:
        plane = ControlPlane(Path(folder), {"LEASE_S": "2", "GRACE_S": "1", **settings})
        try:
            yield plane.start()
        finally:
            plane.close()
