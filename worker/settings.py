"""The worker's settings, from the environment and `.env`."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from cluster.documents import NAME
from cluster.jobs import TECHNOLOGIES
from cluster.process import ProcessSettings


class WorkerSettings(ProcessSettings):
    """Each field is read from the variable of its name in capitals, e.g. GATEWAY_URL."""

    gateway_url: str = Field(default="http://127.0.0.1:10100", description="where the cluster's gateway answers")
    worker_name: str = Field(default_factory=socket.gethostname, description="name of this node; default: the host's")
    worker_ip: str = Field(default="", description="address of this node; default: the local one towards the gateway")
    worker_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=10200, description="local HTTP port; 0: any free one"
    )
    bind: str = Field(default="127.0.0.1", description="address that the local HTTP API listens on")
    worker_data_dir: Path = Field(default=Path("data/worker"), description="folder for state, logs and cached images")
    worker_adopt: bool = Field(default=False, description="wait for `clusterctl node adopt` instead of registering")
    worker_technologies: str = Field(
        default="", description="announce only these, e.g. docker,wasm; default: all that are there"
    )
    worker_stop_workloads_on_exit: bool = Field(default=False, description="end workloads with the worker, for good")
    mqtt_broker_host: str = Field(default="", description="default: the gateway's host")
    mqtt_broker_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="default: as registration answers"
    )
    telemetry_interval_s: Annotated[float, Field(ge=0.1, le=60)] = Field(
        default=2.0, description="seconds between samples"
    )
    inventory_interval_s: Annotated[float, Field(ge=0.1, le=600)] = Field(
        default=5.0, description="seconds between inventories"
    )
    docker_host: str = Field(default="unix:///var/run/docker.sock", description="the container engine's socket")
    qemu_binary: str = Field(default="", description="default: qemu-system-<architecture> on the path")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("worker_name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("a node name has letters, digits, '.', '_' and '-', at most 253")
        return value

    @field_validator("worker_ip")
    @classmethod
    def _ip(cls, value: str) -> str:
        return str(ipaddress.ip_address(value)) if value else ""

    @field_validator("worker_technologies")
    @classmethod
    def _technologies(cls, value: str) -> str:
        unknown = set(value.replace(",", " ").split()) - set(TECHNOLOGIES)
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; use some of {', '.join(TECHNOLOGIES)}")
        return value

    @property
    def technologies(self) -> tuple[str, ...]:
        """The technologies that may be announced."""
        return tuple(self.worker_technologies.replace(",", " ").split()) or TECHNOLOGIES

    @property
    def gateway_host(self) -> str:
        """The host in the gateway's URL."""
        return urlsplit(self.gateway_url).hostname or "127.0.0.1"


def address_towards(host: str) -> str:
    """The local address that packets to `host` leave from; loopback where there is no route or no such name."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
