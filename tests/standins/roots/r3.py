"""Roots R2 and R3 (since 2024): registration over gRPC, as trusting and as fragile as the real one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from cluster.v1.registration.cluster_registration_pb2 import CS1Message, CS2Message, SC1Message, SC2Message
from cluster.v1.registration.cluster_registration_pb2_grpc import (
    add_register_clusterServicer_to_server,
    register_clusterServicer,
)
from standins.roots.data import Cluster
from standins.roots.reports import take_r1, take_r3
from standins.roots.root import Root, fresh
from testbed.ports import free_port


class R3(Root, register_clusterServicer):
    """The generation since 2025."""

    deploy_route = "/api/service/{}/{}"
    delete_route = "/api/service/{}/{}"
    delete_method = "DELETE"

    def __init__(self) -> None:
        super().__init__()
        self.grpc_port = free_port()
        self.registrations: list[CS2Message] = []
        self.refusals = 0
        self._grpc: grpc.Server | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What a cluster needs to find it."""
        return {**super().settings, "SYSTEM_MANAGER_GRPC_PORT": str(self.grpc_port)}

    def start(self) -> Root:
        """Serve gRPC beside HTTP."""
        self._grpc = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        add_register_clusterServicer_to_server(self, self._grpc)
        self._grpc.add_insecure_port(f"{self.host}:{self.grpc_port}")
        self._grpc.start()
        return super().start()

    def stop(self) -> None:
        """End both."""
        if self._grpc:
            self._grpc.stop(0).wait()
        super().stop()

    def handle_init_greeting(self, request: CS1Message, context: Any) -> SC1Message:
        """A courtesy."""
        return SC1Message(hello_cluster_manager="please send your cluster info")

    def handle_init_final(self, request: CS2Message, context: Any) -> SC2Message:
        """Upsert by name; a member that is zero or empty is missing, and kills the call."""
        for member in ("cluster_info", "manager_port", "cluster_location", "cluster_name"):
            if not getattr(request, member):
                self.refusals += 1
                context.abort(grpc.StatusCode.UNKNOWN, f"Exception calling application: '{member}'")
        self.registrations.append(request)
        with self.data.lock:
            cluster = self.data.by_name(request.cluster_name)
            if cluster is None:
                cluster = fresh(request.cluster_name)
                self.data.clusters[cluster.id] = cluster
            cluster.ip = context.peer().partition(":")[2].rpartition(":")[0]
            cluster.port = str(request.manager_port)
            cluster.location = request.cluster_location
        return SC2Message(id=cluster.id)

    def entry(self, cluster: Cluster) -> dict[str, Any]:
        """As the real one writes it."""
        return {
            "_id": cluster.id,
            "active": bool(cluster.numbers),
            "candidate_location": cluster.location,
            "candidate_name": cluster.name,
            "ip": cluster.ip,
            "port": cluster.port,
            "cluster_name": cluster.name,
            "cluster_location": cluster.location,
            **cluster.numbers,
        }

    def take(self, cluster_id: str, body: Any) -> tuple[int, list[str]]:
        """A report."""
        return take_r3(self.data, cluster_id, body)


class R2(R3):
    """The generation of 2024: registers as R3, calls and lists as R1."""

    deploy_route = "/api/deploy/{}/{}"
    delete_route = "/api/delete/{}/{}"
    delete_method = "GET"

    def entry(self, cluster: Cluster) -> dict[str, Any]:
        """As R1 writes it."""
        return {"_id": {"$oid": cluster.id}, "cluster_name": cluster.name, "cluster_location": cluster.location}

    def take(self, cluster_id: str, body: Any) -> tuple[int, list[str]]:
        """A report."""
        return take_r1(self.data, cluster_id, body)
