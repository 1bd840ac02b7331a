"""A root's database: what survives its restart, and what is gone when it is lost."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

ELEVEN = frozenset(
    {
        *("instance_number", "status", "status_detail", "publicip", "disk", "worker_id", "host_ip", "host_port"),
        "last_modified_timestamp",
    }
)
R3_ENUM = frozenset(
    {
        *("REQUESTED", "CLUSTER_SCHEDULED", "NODE_SCHEDULED", "CREATING", "CREATED", "RUNNING", "FAILED", "DEAD"),
        *("COMPLETED", "UNDEPLOYED", "NO_WORKER_CAPACITY", "NO_QUALIFIED_WORKER_FOUND", "NO_NODE_FOUND", "0", "1"),
        *("TargetClusterNotFound", "TargetClusterNotActive", "TargetClusterNoCapacity", "NoActiveClusterWithCapacity"),
    }
)
R1_ENUM = R3_ENUM | {"ACTIVE"}


def object_id() -> str:
    """24 hex digits."""
    return secrets.token_hex(12)


@dataclass
class Cluster:
    """A cluster as the root knows it."""

    id: str
    name: str
    location: str = ""
    user_name: str = ""
    pairing_key: str = ""
    is_paired: bool = False
    ip: str = ""
    port: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    is_ghost: bool = False


@dataclass
class Service:
    """A service: its document, and what is believed of each instance by its number."""

    id: str
    document: dict[str, Any]
    status: str = ""
    instances: dict[int, dict[str, Any]] = field(default_factory=dict)
    next_number: int = 0


@dataclass
class Database:
    """Clusters by id, services by id; `faults` is whatever a real root would have suffered from."""

    clusters: dict[str, Cluster] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def wipe(self) -> None:
        """Lose everything."""
        with self.lock:
            self.clusters.clear()
            self.services.clear()

    def by_name(self, name: str, user_name: str | None = None) -> Cluster | None:
        """The first cluster of a name."""
        for cluster in self.clusters.values():
            if cluster.name == name and user_name in (None, cluster.user_name):
                return cluster
        return None

    def add_service(self, name: str, image: str, virtualization: str = "docker", **fields: Any) -> Service:
        """What a user creates."""
        service_id = object_id()
        document = {
            "_id": service_id,
            "job_name": f"app.test.{name}.test",
            "microserviceID": service_id,
            "microservice_name": name,
            "microservice_namespace": "test",
            "virtualization": virtualization,
            "image": image,
            "code": image,
            "unknown_key": {"kept": True},
            **fields,
        }
        service = self.services[service_id] = Service(service_id, document)
        return service
