"""A private dockerd with its own containerd, bridge and folder; nothing of it is left when it closes."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker

from testbed import leftovers
from testbed.bridges import free_bridge
from testbed.commands import find, lacking
from testbed.processes import Process
from testbed.waiting import wait_until

BUSYBOX = "local/busybox:1"
_CONTAINERD = """\
version = 2
root = "{folder}/containerd-root"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""


def unavailable() -> str:
    """Why a private engine cannot be started here; empty when it can."""
    if os.geteuid() != 0:
        return "starting dockerd needs root"
    return lacking("dockerd", "containerd", "runc", "ip", "busybox")


class DockerEngine:
    """dockerd and containerd in `folder`; containers outlive a `kill` of dockerd (live restore).

    It leaves the host's packet filter alone: ports are published by Docker's proxy, containers reach each other and
    the host, but not the outside world; a build that needs it uses the host's network.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.bridge = free_bridge()
        (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder))
        containerd = [find("containerd") or "containerd", "--config", str(folder / "containerd.toml")]
        self.containerd = Process(containerd, os.environ, folder / "containerd.log")
        self.dockerd = Process(self._dockerd(), os.environ, folder / "dockerd.log")

    @property
    def url(self) -> str:
        """Value for DOCKER_HOST."""
        return f"unix://{self.socket}"

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """A docker-py client of this engine for the time of the block."""
        client = docker.DockerClient(base_url=self.url, timeout=60)
        try:
            yield client
        finally:
            client.close()

    def start(self) -> "DockerEngine":
        """Start containerd and dockerd and wait until the engine answers."""
        self.bridge.create()
        self.containerd.start()
        wait_until((self.folder / "containerd.sock").exists, what="containerd's socket")
        (self.folder / "docker.pid").unlink(missing_ok=True)
        self.dockerd.start()
        wait_until(self._answers, timeout=60.0, what="dockerd answers")
        return self

    def kill(self) -> None:
        """`kill -9` of dockerd; containerd and the containers go on."""
        self.dockerd.kill()

    def restart(self) -> "DockerEngine":
        """`kill -9` of dockerd and a new start on the same folder."""
        self.kill()
        return self.start()

    def close(self) -> None:
        """Remove all containers and networks, end both daemons, unmount and delete everything."""
        try:
            self._remove_objects()
            self.dockerd.stop()
        finally:
            self.dockerd.reap()
            self.containerd.reap()
            leftovers.kill_processes_mentioning(str(self.folder))
            leftovers.unmount_below(self.folder)
            self.bridge.delete()
            shutil.rmtree(self.folder, ignore_errors=True)

    def import_busybox(self, tag: str = BUSYBOX) -> str:
        """Make the image `tag` from the host's static busybox; returns the tag."""
        repository, _, version = tag.partition(":")
        with self.client() as client:
            client.api.import_image_from_data(busybox_root_file_system(), repository=repository, tag=version)
        return tag

    def _dockerd(self) -> list[str]:
        folder = self.folder
        return [
            find("dockerd") or "dockerd",
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-p", f"{folder}/docker.pid"),
            *("-H", self.url, "--containerd", f"{folder}/containerd.sock", "--live-restore"),
            *("--bridge", self.bridge.name, "--iptables=false", "--ip-masq=false", "--ip-forward=false"),
        ]

    def _answers(self) -> bool:
        if not self.dockerd.is_running:
            raise RuntimeError(f"dockerd ended: {self.dockerd.output()[-4000:]}")
        with socket.socket(socket.AF_UNIX) as probe:  # docker-py would leak its own socket when refused
            if probe.connect_ex(str(self.socket)) != 0:
                return False
        with self.client() as client:
            return bool(client.ping())

    def _remove_objects(self) -> None:
        self.start()
        with self.client() as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                with contextlib.suppress(docker.errors.NotFound):
                    container.remove(force=True, v=True)
            client.networks.prune()
            client.volumes.prune()


def busybox_root_file_system() -> bytes:
    """A tar archive with the host's static busybox and a link for each of its applets."""
    busybox = find("busybox") or "busybox"
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for name in ("tmp", "etc", "proc", "sys", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if applet != "busybox":
                tar.addfile(link)
    return archive.getvalue()


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """A running engine that has `local/busybox:1`."""
    engine = DockerEngine(Path(tempfile.mkdtemp(prefix="engine-")))
    try:
        engine.start()
        engine.import_busybox()
        yield engine
    finally:
        engine.close()
