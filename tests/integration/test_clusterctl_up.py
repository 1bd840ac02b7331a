"""`clusterctl up` with the real parts of the cluster, and what it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterctl.layout import Layout
from testbed.leftovers import kill_processes_mentioning, processes_mentioning
from testbed.ports import free_offset, is_listening
from testbed.processes import Process
from testbed.waiting import wait_until

UP = [sys.executable, "-m", "clusterctl", "up"]
HELLO = ["--name", "hello", "--technology", "wasm", "--image", "builtin:hello"]


class Up:
    """A cluster of one worker in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout = Layout(folder=folder / "data", port_offset=free_offset(Layout(folder=Path()).ports.values()))
        arguments = ["--data-dir", str(self.layout.folder), "--port-offset", str(self.layout.port_offset)]
        self.process = Process([*UP, *arguments], os.environ, folder / "up.log")

    def start(self) -> Process:
        """Start it and wait until it says that it is ready."""
        before = self.process.output().count("ready after")
        self.process.start()
        wait_until(self._is_ready(before), timeout=60, what="it says that it is ready")
        return self.process

    def _is_ready(self, before: int) -> Callable[[], bool]:
        def is_ready() -> bool:
            assert self.process.is_running, self.process.output()
            return self.process.output().count("ready after") > before

        return is_ready

    def ctl(self, *arguments: str) -> str:
        """Output of a command; it must succeed."""
        command = [sys.executable, "-m", "clusterctl", "--manager", self.layout.address("manager"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout


@pytest.fixture(name="up")
def _up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    if up.process.is_running:
        up.process.stop()
    up.process.reap()
    kill_processes_mentioning(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_cluster(up: Up, number: int) -> None:
    """Neither its processes nor its workloads, after Ctrl-C as after `kill -9`."""
    process = up.start()
    up.ctl("deploy", *HELLO, "--wait")
    assert processes_mentioning("worker.runtime.wasm_runner")
    process.signal(number)
    process.wait()
    wait_until(lambda: not processes_mentioning(str(up.folder)), what="its processes are gone")
    wait_until(lambda: not any(map(_runs_in(up.folder), processes_mentioning("wasm_runner"))), what="its workloads too")
    assert not any(map(is_listening, up.layout.ports.values()))


def test_the_cluster_is_kept_over_a_restart(up: Up) -> None:
    """What was deployed runs again, without being asked for."""
    up.start()
    up.ctl("deploy", *HELLO, "--wait")
    up.process.signal(signal.SIGTERM)
    assert up.process.wait() == 0
    up.start()

    def states() -> list[str]:
        return [item["state"] for item in json.loads(up.ctl("get", "instances", "-o", "json"))["instances"]]

    wait_until(lambda: states() == ["RUNNING"], timeout=60)


def test_every_part_comes_back_after_a_kill(up: Up) -> None:
    """GET /status is 200 again, and the job goes on."""
    up.start()
    up.ctl("deploy", *HELLO, "--wait")
    for module in ("gateway", "scheduler", "manager", "worker"):
        for pid in map(int, _children(up.process.pid)):
            if f"-m\0{module}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        up.process.wait_for_output(f"{module} was ended by SIGKILL")
    wait_until(lambda: _status(up) == 200, timeout=60)
    assert "hello from wasm" in up.ctl("logs", "hello")


def test_a_second_cluster_in_the_same_folder_is_refused(up: Up) -> None:
    """The message names the process that has it."""
    process = up.start()
    second = subprocess.run(up.process.argv, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"process {process.pid}" in second.stderr


def test_a_taken_port_is_named(up: Up) -> None:
    """With its part, its owner, and the way out."""
    with socket.create_server(("127.0.0.1", up.layout.ports["manager"])):
        refused = subprocess.run(up.process.argv, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"{up.layout.ports['manager']} (manager): process {os.getpid()}" in refused.stderr
    assert "--port-offset" in refused.stderr


def _runs_in(folder: Path) -> Callable[[int], bool]:
    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").resolve().is_relative_to(folder)
        except OSError:
            return False

    return runs


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _status(up: Up) -> int:
    try:
        with urllib.request.urlopen(f"http://{up.layout.address('gateway')}/status", timeout=5) as response:
            return int(response.status)
    except OSError:
        return 0
