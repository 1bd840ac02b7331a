"""Where the parts of a cluster on one machine listen, and the programs that they are."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from clusterctl.child import Program

_PORTS: Final = {
    "broker": 10003,
    "manager metrics": 10001,
    "gateway": 10100,
    "manager": 10101,
    "scheduler": 10105,
    "scheduler metrics": 10106,
}
_WORKER_PORT: Final = 10200
_WORKER_GRACE_S: Final = 20.0
_MOSQUITTO: Final = """\
listener {port} {bind}
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location {folder}/
autosave_interval 5
max_queued_messages 100000
max_inflight_messages 1000
log_dest stderr
"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A cluster on this machine; `mosquitto` is the path of that broker, "" stands for the embedded one."""

    folder: Path
    bind: str = "127.0.0.1"
    port_offset: int = 0
    worker_count: int = 1
    mosquitto: str = ""

    @cached_property
    def ports(self) -> dict[str, int]:
        """The TCP port of each part."""
        workers = {worker_name(index): _WORKER_PORT + index for index in range(self.worker_count)}
        return {name: port + self.port_offset for name, port in (_PORTS | workers).items()}

    @property
    def is_exposed(self) -> bool:
        """Whether others than this machine can connect."""
        return not ipaddress.ip_address(self.bind).is_loopback

    @cached_property
    def host(self) -> str:
        """The address by which the parts reach each other."""
        return "127.0.0.1" if self.bind == "0.0.0.0" else self.bind

    def address(self, part: str) -> str:
        """HOST:PORT of a part."""
        return f"{self.host}:{self.ports[part]}"

    def worker_ip(self, index: int) -> str:
        """Each worker has an address of its own, so that ports which their jobs publish do not collide."""
        if index == 0 and self.is_exposed:
            return _outward_address() if self.bind == "0.0.0.0" else self.bind
        return f"127.0.0.{index + 1}"

    def core(self) -> list[Program]:
        """Broker, manager, scheduler and gateway, in the order in which they are started."""
        manager = {"STORE_URL": os.environ.get("STORE_URL") or f"sqlite:///{self.folder / 'cluster.db'}"}
        return [self._broker(), *(self._python(name, manager) for name in ("manager", "scheduler", "gateway"))]

    def workers(self) -> list[Program]:
        """The workers."""
        return [self._worker(index) for index in range(self.worker_count)]

    def _python(self, module: str, more: Mapping[str, str]) -> Program:
        return self._program(module, [sys.executable, "-P", "-m", module], more)

    def _program(self, name: str, argv: list[str], more: Mapping[str, str], stop_grace_s: float = 5.0) -> Program:
        log_path = self.folder / "logs" / f"{name}.log"
        environment = {**self._environment(), **more}
        return Program(name=name, argv=argv, environment=environment, log_path=log_path, stop_grace_s=stop_grace_s)

    def _environment(self) -> dict[str, str]:
        return {
            "BIND": self.bind,
            "GATEWAY_PORT": str(self.ports["gateway"]),
            "MANAGER_PORT": str(self.ports["manager"]),
            "MANAGER_METRICS_PORT": str(self.ports["manager metrics"]),
            "SCHEDULER_PORT": str(self.ports["scheduler"]),
            "SCHEDULER_METRICS_PORT": str(self.ports["scheduler metrics"]),
            "MANAGER_ADDRESS": self.address("manager"),
            "SCHEDULER_ADDRESS": self.address("scheduler"),
            "GATEWAY_URL": f"http://{self.address('gateway')}",
            "MQTT_BROKER_HOST": self.host,
            "MQTT_BROKER_PORT": str(self.ports["broker"]),
            "PYTHONUNBUFFERED": "1",
        }

    def _broker(self) -> Program:
        if not self.mosquitto:
            arguments = ["--bind", self.bind, "--port", str(self.ports["broker"])]
            return self._program("broker", [sys.executable, "-P", "-m", "clusterctl.broker", *arguments], {})
        folder = self.folder / "broker"
        folder.mkdir(exist_ok=True)
        configuration = _MOSQUITTO.format(port=self.ports["broker"], bind=self.bind, folder=folder)
        if os.geteuid() == 0:
            configuration += "user root\n"  # else it becomes `mosquitto`, who may not write here
        (folder / "mosquitto.conf").write_text(configuration)
        return self._program("broker", [self.mosquitto, "-c", str(folder / "mosquitto.conf")], {})

    def _worker(self, index: int) -> Program:
        name = worker_name(index)
        more = {
            "WORKER_NAME": f"{socket.gethostname()}{f'-{index + 1}' if index else ''}",
            "WORKER_IP": self.worker_ip(index),
            "WORKER_PORT": str(self.ports[name]),
            "WORKER_DATA_DIR": str(self.folder / name),
            "WORKER_STOP_WORKLOADS_ON_EXIT": "true",
            "BIND": "0.0.0.0" if self.bind == "0.0.0.0" else self.worker_ip(index),
        }
        return self._program(name, [sys.executable, "-P", "-m", "worker"], more, _WORKER_GRACE_S)


def worker_name(index: int) -> str:
    """What a worker is called in logs and messages: worker, worker-2 and so on."""
    return f"worker-{index + 1}" if index else "worker"


def _outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the route (RFC 5737 address)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
