"""The real worker process against a stand-in gateway and a real broker, seen as a manager sees it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from testbed.ports import free_port
from testbed.processes import Process
from testbed.waiting import wait_until

NODE_ID = "5f0000000000000000000001"


class Broker(Protocol):
    """Where a broker listens."""

    @property
    def host(self) -> str:
        """Its address."""

    @property
    def port(self) -> int:
        """Its port."""


class StandInGateway:
    """Answers every registration with NODE_ID and keeps the bodies."""

    def __init__(self, broker_port: int) -> None:
        self.registrations: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.registrations.append(json.loads(self.rfile.read(length)))
                body = json.dumps({"id": NODE_ID, "MQTT_BROKER_PORT": str(broker_port), "cluster_id": "c"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class ManagerSide:
    """An MQTT client that commands one node and keeps what it says."""

    def __init__(self, broker: Broker) -> None:
        self.states: list[dict[str, Any]] = []
        self.inventories: list[dict[str, Any]] = []
        self.telemetry: list[dict[str, Any]] = []
        self.connections: list[bool] = []
        self.farewells: list[dict[str, Any]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="manager-side", clean_session=False)
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe("nodes/+/#", qos=1)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        wait_until(self._client.is_connected, what="the manager's side is connected")

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def command(self, command: str, job_id: str, *, number: int = 0, generation: int = 1, **job: Any) -> None:
        """Send a command; `job` holds the job document's other fields."""
        document = {"name": job_id, "image": "builtin:hello", "technology": "wasm"} | job
        document |= {"id": job_id, "instance_number": number, "generation": generation}
        body = {"command": command, "job": document, "cluster": "c"}
        self.publish("controls", body)

    def publish(self, channel: str, body: dict[str, Any]) -> None:
        """Send anything to the node."""
        self._client.publish(f"nodes/{NODE_ID}/{channel}", json.dumps(body), qos=1).wait_for_publish(10)

    def statuses(self, job_id: str, number: int = 0) -> list[str]:
        """The states of an instance, in order, without repetitions."""
        words = [s["status"] for s in self.states if (s["job_id"], s["instance"]) == (job_id, number)]
        return [word for index, word in enumerate(words) if index == 0 or words[index - 1] != word]

    def last(self, job_id: str, number: int = 0) -> dict[str, Any]:
        """The newest state of an instance; {} before the first."""
        found = [s for s in self.states if (s["job_id"], s["instance"]) == (job_id, number)]
        return found[-1] if found else {}

    def wait_for(self, job_id: str, status: str, *, number: int = 0, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the newest state has this status."""
        wait_until(
            lambda: self.last(job_id, number).get("status") == status,
            timeout,
            what=f"{job_id}/{number} is {status}; states: {self.states[-5:]}",
        )
        return self.last(job_id, number)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        body = json.loads(message.payload)
        match message.topic.split("/", 2)[2]:
            case "job":
                self.states.append(body)
            case "jobs/resources":
                self.inventories.append(body)
            case "information":
                self.telemetry.append(body)
            case "connection":
                self.connections.append(body["online"])
                self.farewells += [body] if "stopped" in body else []


class RealWorker:
    """`python -m worker` in a data folder of its own; restartable."""

    def __init__(self, folder: Path, gateway: StandInGateway, manager: ManagerSide, settings: dict[str, str]) -> None:
        self.folder = folder
        self.gateway = gateway
        self._manager = manager
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "DOCKER_"))}
        environment |= {
            "GATEWAY_URL": gateway.url,
            "WORKER_NAME": "tested",
            "WORKER_IP": "127.0.0.1",
            "WORKER_PORT": str(self.port),
            "WORKER_DATA_DIR": str(folder),
            "WORKER_TECHNOLOGIES": "wasm",
            "TELEMETRY_INTERVAL_S": "0.2",
            "INVENTORY_INTERVAL_S": "0.5",
        }
        self.process = Process([sys.executable, "-m", "worker"], environment | settings, folder / "worker.log")

    def start(self) -> None:
        """Start it and wait until it is connected and subscribed."""
        seen = self._manager.connections.count(True)
        self.process.start()
        wait_until(
            lambda: self._manager.connections.count(True) > seen,
            what=f"the worker is connected; its log: {self.process.output()}",
        )

    def get(self, path: str) -> bytes:
        """A GET on its local HTTP."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            body: bytes = answer.read()
            return body


def runner_of(folder: Path, job_id: str) -> int:
    """The process that runs a wasm workload of the worker in `folder`, no shell between; 0 where none does."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_of_job = (process / "cwd").readlink().name.startswith(f"{job_id}.")
            is_below = (process / "cwd").readlink().is_relative_to(folder)
            command = (process / "cmdline").read_bytes()
            if is_below and is_of_job and b"wasm_runner\0order.json\0" in command and b"-c\0" not in command:
                return int(process.name)
    return 0


@contextlib.contextmanager
def manager_side(broker: Broker) -> Iterator[ManagerSide]:
    """The manager's side for the time of the block."""
    side = ManagerSide(broker)
    try:
        yield side
    finally:
        side.close()


@contextlib.contextmanager
def real_worker(
    folder: Path, broker: Broker, manager: ManagerSide, *, is_awaited: bool = True, **settings: str
) -> Iterator[RealWorker]:
    """A started worker; at the end it stops all its workloads."""
    gateway = StandInGateway(broker.port)
    folder.mkdir(parents=True, exist_ok=True)
    worker = RealWorker(folder, gateway, manager, settings)
    try:
        if is_awaited:
            worker.start()
        else:
            worker.process.start()
        yield worker
    finally:
        worker.process.stop()
        worker.process.env["WORKER_STOP_WORKLOADS_ON_EXIT"] = "true"
        seen = worker.process.output().count("worker serving")
        worker.process.start()
        wait_until(lambda: worker.process.output().count("worker serving") > seen, what="the worker, for tidying up")
        worker.process.stop(timeout=15)
        gateway.close()
