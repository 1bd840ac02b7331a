"""What differs between the generations A to D: keys, units, words, and how a delete goes."""

import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

from standins.engines.engine import Engine
from standins.engines.service import NEWER, OLDER, Service
from testbed.processes import REPOSITORY

VECTORS = REPOSITORY / "tests" / "vectors" / "engines"
_STALE = "Container is starting up"
_GPU = {"gpu_driver": "-", "gpu_usage": 0, "gpu_cores": 0, "gpu_temp": 0, "gpu_mem_used": 0, "gpu_tot_mem": 0}


def recorded(generation: str, name: str) -> Any:
    """A recording of the real engine, which is not to be changed."""
    return _read(VECTORS / generation / f"{name}.json")


@cache
def _read(path: Path) -> Any:
    return json.loads(path.read_text())


class EngineA(Engine):
    """v0.4.2xx: a 5-minute load average, slow deletes in a row, exit codes in the details of DEAD."""

    generation = "A"
    fields: ClassVar[dict[str, str]] = OLDER
    started = "ACTIVE"
    already = "Service already deployed"
    max_name = 64
    lost_detail = "Container exited with status: 255"

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self._busy: list[tuple[str, bytes]] | None = None

    def registration(self) -> dict[str, Any]:
        """As recorded, under its own host name."""
        return {**recorded("A", "register")["payload"], "host": self.host}

    def information(self) -> dict[str, Any]:
        """As recorded."""
        return dict(recorded("A", "information")["sequence"][0]["payload"])

    def lists(self) -> list[list[dict[str, Any]]]:
        """One list: memory in bytes, cpu in percent of one core, all numbers as text."""
        with self.containerd.lock:
            services = [item.service for item in self.containerd.containers.values()]
        return [[self.entry(service) for service in services]]

    def entry(self, service: Service) -> dict[str, Any]:
        """One service of a list."""
        amounts = {"cpu": "100.500000", "memory": "1294336.000000", "disk": "24576"}
        return {**amounts, "job_name": service.name, "virtualization": "docker", "instance": service.number}

    def reset(self) -> None:
        """A fresh process is not busy."""
        self._busy = None
        super().reset()

    def on_command(self, verb: str, payload: bytes) -> None:
        """While a delete waits, everything else waits behind it."""
        if self._busy is not None:
            self._busy.append((verb, payload))
        else:
            super().on_command(verb, payload)

    def delete(self, service: Service) -> None:
        """DEAD at once, UNDEPLOYED after the wait."""
        del self.known[service.container]
        self.containerd.remove(service.container)
        self._busy = []
        self.say(service, "DEAD")
        self.later(self.timing.delete_s, lambda: self._deleted(service))

    def _deleted(self, service: Service) -> None:
        self.say(service, "UNDEPLOYED")
        waiting, self._busy = self._busy or [], None
        for verb, payload in waiting:
            self.on_command(verb, payload)

    def on_exit(self, service: Service, code: int) -> None:
        """DEAD with the exit code in its detail, whatever it is."""
        self.say(service, "DEAD", f"Container exited with status: {code}")


class EngineB(EngineA):
    """v0.4.300 to v0.4.403: A with GPU keys, an architecture, add-ons and, at last, CREATED."""

    generation = "B"
    fields: ClassVar[dict[str, str]] = NEWER
    started = "CREATED"

    def registration(self) -> dict[str, Any]:
        """A's with what is new."""
        return {**super().registration(), **_GPU, "architecture": "amd64", "supported_addons": []}

    def information(self) -> dict[str, Any]:
        """Its cpu is a real percentage; the new static keys are there and empty."""
        return {**super().information(), **_GPU, "cpu": 12.5, "architecture": "", "supported_addons": None}

    def entry(self, service: Service) -> dict[str, Any]:
        """With the last words."""
        return {**super().entry(service), "logs": "hello\n"}


class EngineC(Engine):
    """v0.4.410: percentages and MB, quick deletes in any order, no exit codes, one list per runtime."""

    generation = "C"
    fields: ClassVar[dict[str, str]] = NEWER
    started = "CREATED"
    already = "task already deployed"
    stopped_detail = _STALE
    lost_detail = _STALE

    def registration(self) -> dict[str, Any]:
        """As recorded with docker only, under its own host name."""
        return {**recorded("C", "register-docker-only")["payload"], "host": self.host}

    def information(self) -> dict[str, Any]:
        """As recorded."""
        return dict(recorded("C", "information")["sequence"][0]["payload"])

    def lists(self) -> list[list[dict[str, Any]]]:
        """Extra containerd runtimes repeat the list of docker; unikernels have one of their own."""
        with self.containerd.lock:
            services = [item.service for item in self.containerd.containers.values()]
        containers = [self.entry(service, "docker") for service in services if service.runtime != "unikernel"]
        unikernels = [self.entry(service, "unikernel") for service in services if service.runtime == "unikernel"]
        return [unikernels if runtime == "unikernel" else containers for runtime in self.runtimes]

    def entry(self, service: Service, runtime: str) -> dict[str, Any]:
        """One service of a list; its logs are cut in mid-character and hold what they please."""
        amounts = {"cpu_percent": "0.500000", "memory_percent": "0.000038", "disk": "24576"}
        name = {"job_name": service.name, "virtualization": runtime, "instance": service.number}
        return {**amounts, "logs": "\ufffdz\u00e4\0\x1b[31m", **name}

    def delete(self, service: Service) -> None:
        """UNDEPLOYED first, mostly; unikernels go as slowly as in A, but let others pass."""
        del self.known[service.container]
        self.containerd.remove(service.container)
        if service.runtime == "unikernel":
            self.say(service, "DEAD")
            self.later(self.timing.delete_s, lambda: self.say(service, "UNDEPLOYED"))
            return
        states = [("UNDEPLOYED", ""), ("DEAD", _STALE)]
        if self.random.random() < 0.2:
            states.reverse()
        for status, detail in states:
            self.say(service, status, detail)

    def on_exit(self, service: Service, code: int) -> None:
        """COMPLETED for a one-shot that ended well, DEAD for all else, with a stale detail."""
        self.say(service, "COMPLETED" if service.is_one_shot and code == 0 else "DEAD", _STALE)


class EngineD(EngineC):
    """After v0.4.411: INSTANTIATION as soon as a deploy is accepted, and a status in every entry of a list."""

    generation = "D"

    def on_accepted(self, service: Service) -> None:
        """Said at once."""
        self.say(service, "INSTANTIATION")

    def entry(self, service: Service, runtime: str) -> dict[str, Any]:
        """With its status."""
        status = "INSTANTIATION" if service.container in self.starting else "CREATED"
        return {**super().entry(service, runtime), "status": status}

    def lists(self) -> list[list[dict[str, Any]]]:
        """What is being started is listed as well."""
        [first, *rest] = super().lists()
        return [[*first, *(self.entry(service, "docker") for service in list(self.starting.values()))], *rest]


GENERATIONS: Final[dict[str, type[Engine]]] = {"A": EngineA, "B": EngineB, "C": EngineC, "D": EngineD}
