"""The demo's cluster: `clusterctl up` in a folder of its own, its HTTP API, and an ear on its MQTT broker."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).resolve().parents[1]
PORTS = {"broker": 10003, "gateway": 10100, "manager": 10101}
_ALL_PORTS = (10001, 10003, 10100, 10101, 10105, 10106, 10200, 10201)
_OFFSETS = range(0, 40_000, 1000)
_HEARD_S = 20.0
T = TypeVar("T")


class DemoError(Exception):
    """Something that should have been seen was not."""


def until(look: Callable[[], T], timeout_s: float, what: str) -> T:
    """Look again and again until there is something to see. Raises DemoError."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise DemoError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)
    return seen


class Cluster:
    """Broker, manager, scheduler, gateway and two workers on free ports of this machine."""

    def __init__(self, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
        cache = ROOT / ".cache"
        cache.mkdir(exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="demo-", dir=cache))
        self.offset = _free_offset()
        self._environment = {**os.environ, **environment}
        self._tell = tell
        self._process: subprocess.Popen[str] | None = None
        self.messages: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo", protocol=mqtt.MQTTv311)

    def address(self, part: str) -> str:
        """HOST:PORT of a part."""
        return f"127.0.0.1:{PORTS[part] + self.offset}"

    def start(self) -> None:
        """Start everything; what it says is passed on."""
        command = [sys.executable, "-m", "clusterctl", "up", "--workers", "2", "--data-dir", str(self.folder)]
        self._process = subprocess.Popen(
            [*command, "--port-offset", str(self.offset)],
            cwd=ROOT,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._pass_on, daemon=True).start()

    def is_ready(self) -> bool:
        """Whether GET /status is 200. Raises DemoError where the cluster has ended."""
        if self._process is None or self._process.poll() is not None:
            raise DemoError("the cluster did not start")
        return self.http("GET", "/status")[0] == 200

    def http(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of a request to the gateway; status 0 where nothing answers."""
        request = urllib.request.Request(f"http://{self.address('gateway')}{path}", method=method)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, data, timeout=10) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, None

    def ctl(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output and errors of a `clusterctl` command."""
        command = [sys.executable, "-m", "clusterctl", "--manager", self.address("manager"), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr.strip()

    def listen(self) -> None:
        """Hear the commands to nodes and what nodes answer."""
        heard = threading.Event()
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: heard.set()
        host, _, port = self.address("broker").partition(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        self._client.subscribe([("nodes/+/controls", 1), ("nodes/+/job", 1)])
        if not heard.wait(10):
            raise DemoError("the broker did not take a subscription")

    def heard(self, command: str, job_id: str, where: str = "") -> tuple[str, dict[str, Any]]:
        """The next command of that kind for a job, and its topic (`where`: only that one). Raises DemoError."""
        deadline = time.monotonic() + _HEARD_S
        while time.monotonic() < deadline:
            try:
                topic, payload = self.messages.get(timeout=0.1)
            except queue.Empty:
                continue
            is_it = payload.get("command") == command and payload["job"]["id"] == job_id
            if is_it and where in ("", topic):
                return topic, payload
        raise DemoError(f"no {command} command for job {job_id} was heard on nodes/+/controls")

    def stop(self) -> None:
        """Ctrl-C, then wait until all of it is gone."""
        self._client.disconnect()
        self._client.loop_stop()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def leftovers(self) -> list[str]:
        """Processes that still mention the cluster's folder, ports that still listen."""
        left = [f"port {port + self.offset}" for port in _ALL_PORTS if not _is_free(port + self.offset)]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.folder).encode() in entry.read_bytes():
                    left.append(f"process {entry.parent.name}")
            except OSError:
                continue
        return left

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def last_logs(self) -> str:
        """The last lines of each part's log."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-8:]) for log in logs)

    def _pass_on(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._tell(line.rstrip())

    def _on_message(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            self.messages.put((message.topic, json.loads(message.payload)))
        except ValueError:
            return


def _free_offset() -> int:
    for offset in _OFFSETS:
        if all(_is_free(port + offset) for port in _ALL_PORTS):
            return offset
    raise DemoError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
