"""Which real parts this machine has, what stands in for the others, and what would bring them."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DOCKER_SOCKET: Final = "unix:///var/run/docker.sock"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part, whether it is the real one, and a line about it."""

    name: str
    is_real: bool
    detail: str


def find_mosquitto() -> str:
    """Path of mosquitto; "" where it is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    return shutil.which("mosquitto", path=path) or ""


def find_parts(mosquitto: str, *, has_worker: bool) -> Iterator[Part]:
    """What a cluster on this machine would use."""
    yield _part("broker", mosquitto, "embedded amqtt; `apt-get install mosquitto` brings the real one")
    store = os.environ.get("STORE_URL", "")
    is_mongo = store.startswith("mongodb")
    yield _part(
        "database", "MongoDB of STORE_URL" if is_mongo else "", "embedded SQLite; STORE_URL=mongodb://… uses MongoDB"
    )
    if has_worker:
        yield _part("docker", _docker(), "no engine answers, so no containers; `apt-get install docker.io` brings one")
        yield _part("unikernel", _qemu(), "no QEMU, so no unikernels; `apt-get install qemu-system-x86` brings it")
        yield _part("wasm", _wasm(), "no wasmtime, so no wasm modules; `pip install wasmtime` brings it")


def _part(name: str, found: str, otherwise: str) -> Part:
    return Part(name=name, is_real=bool(found), detail=found or otherwise)


def _docker() -> str:
    host = os.environ.get("DOCKER_HOST") or _DOCKER_SOCKET
    if not host.startswith("unix://"):
        return f"engine at {host} (DOCKER_HOST)"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(Path(host.removeprefix("unix://"))))
        except OSError:
            return ""
    return f"engine at {host}"


def _qemu() -> str:
    return os.environ.get("QEMU_BINARY") or shutil.which(f"qemu-system-{platform.machine()}") or ""


def _wasm() -> str:
    return "wasmtime" if importlib.util.find_spec("wasmtime") else ""
