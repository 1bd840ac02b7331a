"""What the demo runs: a wasm module always; a container and a unikernel where this machine has the engines."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from testbed import docker_engine, unikernel  # noqa: E402 - found only now

IMAGE = "local/cluster-demo:1"
GREETING = "hello from a container"
HTTP_PORT = 18_080
_SYSTEM_SOCKET = "unix:///var/run/docker.sock"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class DemoJob:
    """A job document, the text that proves that it runs, and the port on which it answers (0: none)."""

    name: str
    document: dict[str, Any]
    proof: str
    port: int = 0
    environment: dict[str, str] = field(default_factory=dict)


def wasm_job() -> DemoJob:
    """The worker's bundled module: prints a line, then one each second."""
    return DemoJob("hello", {"technology": "wasm", "image": "builtin:hello"}, "hello from wasm")


def unikernel_job(tell: Tell) -> DemoJob | None:
    """A kernel of one C file, compiled here; None where QEMU or gcc is missing."""
    if reason := unikernel.unavailable():
        tell(f"no unikernel in this run ({reason}); `make setup-real` brings what it needs")
        return None
    try:
        image = unikernel.build()
    except (OSError, subprocess.CalledProcessError) as error:
        tell(f"no unikernel in this run: gcc cannot build it ({error})")
        return None
    tell(f"compiled a unikernel of {image.stat().st_size} bytes from {Path(unikernel.__file__).with_suffix('.c').name}")
    document = {"technology": "unikernel", "image": str(image), "memory": 16, "cmd": ["hello-from-a-unikernel"]}
    document["stop_grace_s"] = 1
    return DemoJob("kernel", document, "hello-from-a-unikernel")


@contextlib.contextmanager
def container_job(tell: Tell) -> Iterator[DemoJob | None]:
    """A web server in a container for the time of the block; None where no engine can be had."""
    with contextlib.ExitStack() as stack:
        host = _running_engine()
        if host:
            tell(f"a container engine answers at {host}")
        elif reason := docker_engine.unavailable():
            tell(f"no container in this run ({reason}); `make setup-real` brings what it needs")
            yield None
            return
        else:
            tell("dockerd is installed but does not run: starting a private one for the demo")
            host = stack.enter_context(docker_engine.docker_engine()).url
        if not stack.enter_context(_image(host, tell)):
            yield None
            return
        script = f"mkdir -p /www && echo '{GREETING}' | tee /www/index.html && exec httpd -f -p 80 -h /www"
        document = {"technology": "docker", "image": IMAGE, "cmd": ["sh", "-c", script], "port": f"{HTTP_PORT}:80"}
        yield DemoJob("web", document | {"memory": 32, "stop_grace_s": 1}, GREETING, HTTP_PORT, {"DOCKER_HOST": host})


def _running_engine() -> str:
    host = os.environ.get("DOCKER_HOST") or _SYSTEM_SOCKET
    if not host.startswith("unix://"):
        return host
    with socket.socket(socket.AF_UNIX) as probe:
        return host if probe.connect_ex(host.removeprefix("unix://")) == 0 else ""


@contextlib.contextmanager
def _image(host: str, tell: Tell) -> Iterator[bool]:
    import docker

    if not docker_engine.find("busybox"):
        tell("no container in this run: no busybox to make an image of; `make setup-real` brings it")
        yield False
        return
    client = docker.DockerClient(base_url=host, timeout=60)
    try:
        repository, _, tag = IMAGE.partition(":")
        client.api.import_image_from_data(docker_engine.busybox_root_file_system(), repository=repository, tag=tag)
        yield True
    except docker.errors.DockerException as error:
        tell(f"no container in this run: the engine refuses ({error})")
        yield False
    finally:
        with contextlib.suppress(docker.errors.DockerException):
            client.images.remove(IMAGE, force=True)
        client.close()
