"""A whole real cluster: every part a process of its own on a free port, to be killed and started again on its data."""

import contextlib
import http.client
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from testbed import leftovers
from testbed.mosquitto import Mosquitto
from testbed.ports import free_port
from testbed.processes import Process
from testbed.requirement import available
from testbed.waiting import wait_until

PARTS: Final = ("broker", "manager", "scheduler", "gateway")
HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """Status, parsed JSON (None where there is none) and the exact body of an HTTP answer; status 0: no answer."""

    status: int
    json: Any = None
    text: str = ""


class Http:
    """Requests to the gateway, each on a connection of its own, so that any thread may ask at any time."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(
        self, method: str, path: str, body: object = None, timeout: float = 15.0, request_id: str = ""
    ) -> Answer:
        """Ask once; a refused, broken or late connection answers status 0."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"} | ({"X-Request-Id": request_id} if request_id else {})
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException):
            return Answer(0)
        finally:
            connection.close()
        is_json = "json" in response.headers.get("Content-Type", "")
        return Answer(response.status, json.loads(text) if is_json else None, text)

    def get(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        answer = self.request("GET", path)
        assert answer.status == 200, f"GET {path}: {answer}"
        return answer.json

    def insist(self, method: str, path: str, body: object = None) -> Answer:
        """Ask until there is an answer other than 503, as a client may that must know whether its order was taken."""
        return wait_until(
            lambda: answer if (answer := self.request(method, path, body)).status not in (0, 503) else None,
            timeout=60.0,
            what=f"{method} {path} is answered",
        )

    def instances(self, query: str = "") -> list[dict[str, Any]]:
        """Every instance, over all pages."""
        return self._all("instances", query)

    def _all(self, what: str, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.get(f"/api/{what}?page_size=1000&page_token={token}{query}")
            found += page[what]
            token = page["next_page_token"]
            if not token:
                return found


class Cluster:
    """Broker, manager, scheduler and gateway in `folder`; workers are added by `add_worker`."""

    def __init__(
        self,
        folder: Path,
        *,
        is_embedded: bool = False,
        broker_configuration: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.ports = {part: free_port() for part in (*PARTS, "metrics")}
        self.is_embedded = is_embedded or not available("mosquitto")
        self.http = Http(self.ports["gateway"])
        self.parts: dict[str, Process] = {}
        self._environment = {**os.environ, **self._addresses(), **(settings or {})}
        self._make_broker(broker_configuration)
        for name in PARTS[1:]:
            self.parts[name] = self._python(name, {})

    def start(self) -> "Cluster":
        """Start all parts and wait until `/status` is 200."""
        for name in PARTS:
            self.parts[name].start()
        return self.wait_until_ready()

    def wait_until_ready(self) -> "Cluster":
        """Wait until `/status` is 200."""
        wait_until(self._is_ready, timeout=60.0, what="the cluster is ready")
        return self

    def kill(self, part: str) -> None:
        """`kill -9` of one part, or of a worker by its name."""
        self.parts[part].kill()

    def start_part(self, part: str) -> None:
        """Start a killed part again, on its port and its data."""
        self.parts[part].start()

    def add_worker(self, name: str, **settings: str) -> Process:
        """Start a real worker on a loopback address of its own; its data survives `kill` and `start_part`."""
        address = f"127.0.0.{len(self.parts) - len(PARTS) + 2}"
        own = {
            "WORKER_NAME": name,
            "WORKER_IP": address,
            "WORKER_PORT": str(free_port()),
            "WORKER_DATA_DIR": str(self.folder / name),
            "BIND": address,
            "TELEMETRY_INTERVAL_S": "0.5",
            "INVENTORY_INTERVAL_S": "1",
            "WORKER_STOP_WORKLOADS_ON_EXIT": "true",
        }
        self.parts[name] = self._python("worker", {**own, **settings}, name)
        return self.parts[name].start()

    def node(self, name: str) -> dict[str, Any]:
        """A node by its name, as the listing shows it; {} where it is unknown."""
        return next((node for node in self.http.get("/api/nodes")["nodes"] if node["name"] == name), {})

    def wait_until_node_is(self, name: str, state: str) -> dict[str, Any]:
        """Wait for a node's state."""
        return wait_until(
            lambda: node if (node := self.node(name)).get("state") == state else None, 60.0, what=f"{name} is {state}"
        )

    def story(self) -> str:
        """The end of each part's output, for messages of failed tests."""
        return "\n".join(f"--- {name}\n{part.output()[-2000:]}" for name, part in self.parts.items())

    def close(self) -> None:
        """End everything, whatever a worker started too."""
        for part in reversed(self.parts.values()):
            part.stop(timeout=10.0)
        for part in self.parts.values():
            if part.returncode is not None:
                part.reap()
        for pid in self.processes_below(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes_below(self, folder: Path) -> list[int]:
        """Processes that work in `folder`, or name it on their command line."""
        return sorted({*_working_below(folder), *leftovers.processes_mentioning(f"{folder}/")})

    def _addresses(self) -> dict[str, str]:
        return {
            "BIND": HOST,
            "GATEWAY_PORT": str(self.ports["gateway"]),
            "MANAGER_PORT": str(self.ports["manager"]),
            "MANAGER_METRICS_PORT": str(self.ports["metrics"]),
            "SCHEDULER_PORT": str(self.ports["scheduler"]),
            "SCHEDULER_METRICS_PORT": "0",
            "MANAGER_ADDRESS": f"{HOST}:{self.ports['manager']}",
            "SCHEDULER_ADDRESS": f"{HOST}:{self.ports['scheduler']}",
            "GATEWAY_URL": f"http://{HOST}:{self.ports['gateway']}",
            "MQTT_BROKER_HOST": HOST,
            "MQTT_BROKER_PORT": str(self.ports["broker"]),
            "STORE_URL": f"sqlite:///{self.folder}/cluster.db",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": "",
        }

    def _make_broker(self, extra_configuration: str) -> None:
        port = self.ports["broker"]
        if self.is_embedded:
            argv = [sys.executable, "-P", "-m", "clusterctl.broker", "--port", str(port)]
            self.parts["broker"] = Process(argv, self._environment, self.folder / "broker.log")
        else:
            (self.folder / "broker").mkdir()
            self.parts["broker"] = Mosquitto(self.folder / "broker", port, extra_configuration).process

    def _python(self, module: str, settings: Mapping[str, str], name: str = "") -> Process:
        argv = [sys.executable, "-P", "-m", module]
        return Process(argv, {**self._environment, **settings}, self.folder / f"{name or module}.log")

    def _is_ready(self) -> bool:
        for name, part in self.parts.items():
            if not part.is_running:
                raise RuntimeError(f"{name} ended with {part.returncode}:\n{part.output()[-4000:]}")
        return self.http.request("GET", "/status").status == 200


def _working_below(folder: Path) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if entry.readlink().is_relative_to(folder):
                yield int(entry.parent.name)


@contextlib.contextmanager
def cluster(*, is_embedded: bool = False, broker_configuration: str = "", **settings: str) -> Iterator[Cluster]:
    """A ready cluster without workers for the time of the block; `settings` are environment variables of all parts."""
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        made = Cluster(
            Path(folder), is_embedded=is_embedded, broker_configuration=broker_configuration, settings=settings
        )
        try:
            yield made.start()
        finally:
            made.close()
