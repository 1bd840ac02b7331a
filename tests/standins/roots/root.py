"""A stand-in root: a process of threads with one event loop, to be stopped, started again and to lose its database.

The database outlives it; the signing key, as in the real R1, is made anew at each start. `reports_answer` is its answer
to every report, `next_answers` to the next ones, whatever they hold; `refuse` names the status for a report that it
stumbles over (0: none); `list_answer` stands in for its list of clusters.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from standins.roots.data import Cluster, Database, Service, object_id
from testbed.ports import free_port, is_listening
from testbed.waiting import wait_until

CALL_S = 10.0


class Root:
    """What all generations share; subclasses add the registration and the routes of the cluster that they call."""

    deploy_route = ""
    delete_route = ""
    delete_method = ""
    host = "127.0.0.1"

    def __init__(self) -> None:
        self.data = Database()
        self.port = free_port()
        self.signing_key = ""
        self.calls: list[tuple[str, str, int]] = []
        self.reports_answer: int | None = None
        self.next_answers: deque[Response] = deque()
        self.refuse: Callable[[Any], int] = lambda _body: 0
        self.list_answer: Response | None = None
        self.reports_delay_s = 0.0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What a cluster needs to find it."""
        return {"SYSTEM_MANAGER_URL": f"{self.host}:{self.port}"}

    # Its process

    def start(self) -> Root:
        """Serve in a thread of its own."""
        self.signing_key = secrets.token_hex(32)
        configuration = uvicorn.Config(
            self.application(), host=self.host, port=self.port, log_level="error", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(configuration)
        self._thread = threading.Thread(target=self._server.run, name="stand-in root", daemon=True)
        self._thread.start()
        wait_until(lambda: self._server and self._server.started, what="the stand-in root serves")
        return self

    def stop(self) -> None:
        """End it; the database stays."""
        if self._server and self._thread:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
            wait_until(lambda: not is_listening(self.port, self.host), what="the stand-in root is gone")

    def restart(self) -> None:
        """A new process on the same database."""
        self.stop()
        self.start()

    def application(self) -> Any:
        """The HTTP API."""
        routes = [
            Route("/api/clusters/", self._clusters),
            Route("/api/information/{cluster_id}", self._information, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    # What clusters ask

    def entry(self, cluster: Cluster) -> dict[str, Any]:
        """A cluster in the list of clusters."""
        raise NotImplementedError

    def take(self, cluster_id: str, body: Any) -> tuple[int, list[str]]:
        """A report."""
        raise NotImplementedError

    async def _clusters(self, request: Request) -> Response:
        if self.list_answer:
            return self.list_answer
        with self.data.lock:
            entries = [self.entry(cluster) for cluster in self.data.clusters.values()]
        return Response(json.dumps(entries), media_type="text/html")

    async def _information(self, request: Request) -> Response:
        """The root calls the cluster back within the report, and answers only then."""
        if self.reports_answer:
            return PlainTextResponse("no", self.reports_answer)
        if self.next_answers:
            return self.next_answers.popleft()
        await asyncio.sleep(self.reports_delay_s)
        try:
            body = json.loads(await request.body())
        except ValueError:
            return PlainTextResponse("no JSON", 400)
        if status := self.refuse(body):
            return PlainTextResponse("no", status)
        with self.data.lock:
            status, unknown = self.take(request.path_params["cluster_id"], body)
        cluster = next((item for item in self.data.clusters.values() if item.port), None)
        for job_id in unknown:
            await asyncio.to_thread(self.call, cluster, self.delete_method, self.delete_route.format(job_id, -1))
        return PlainTextResponse("ok" if status == 200 else "error", status)

    # What users do

    def call(self, cluster: Cluster | None, method: str, path: str, body: Any = None) -> int:
        """Call the cluster back where it registered from; 0 where nothing answers. Never repeated."""
        status = 0
        if cluster is not None:
            try:
                url = f"http://{cluster.ip}:{cluster.port}{path}"
                status = httpx.request(method, url, json=body, timeout=CALL_S, trust_env=False).status_code
            except httpx.HTTPError:
                status = 0
        self.calls.append((method, path, status))
        return status

    def deploy(self, service: Service) -> int:
        """Allocate the next instance and order it; answers its number."""
        with self.data.lock:
            cluster = next(item for item in self.data.clusters.values() if item.port)
            number, service.next_number = service.next_number, service.next_number + 1
            service.instances[number] = {"instance_number": number, "status": "CLUSTER_SCHEDULED"}
            entry = {"instance_number": number, "cluster_id": cluster.id, "cluster_location": cluster.location}
            document = {**service.document, "instance_list": [entry]}
        assert self.call(cluster, "POST", self.deploy_route.format(service.id, number), document) == 200
        return number

    def undeploy(self, service: Service, number: int) -> int:
        """Order one instance deleted."""
        with self.data.lock:
            cluster = next(item for item in self.data.clusters.values() if item.port)
            service.instances.pop(number, None)
        return self.call(cluster, self.delete_method, self.delete_route.format(service.id, number))

    def status_of(self, service: Service, number: int = 0) -> str:
        """What the root believes of an instance."""
        with self.data.lock:
            return str(service.instances.get(number, {}).get("status", ""))

    def wait_for_status(self, service: Service, word: str, number: int = 0, timeout: float = 40.0) -> None:
        """Wait until the root believes this."""
        wait_until(
            lambda: self.status_of(service, number) == word,
            timeout,
            what=f"the root believes {service.id}/{number} {word}; it believes {self.status_of(service, number)!r}",
        )

    def wait_for_reports(self, count: int = 1, timeout: float = 40.0) -> None:
        """Wait for so many more reports."""
        wanted = len(self.data.reports) + count
        wait_until(lambda: len(self.data.reports) >= wanted, timeout, interval=0.05, what=f"{count} more reports")

    def registered(self, name: str) -> Cluster | None:
        """The cluster of a name, once it registered."""
        with self.data.lock:
            cluster = self.data.by_name(name)
        return cluster if cluster and cluster.port else None

    def wait_until_registered(self, name: str = "cluster-1", timeout: float = 40.0) -> Cluster:
        """Wait for a registration and a first report."""
        wait_until(lambda: self.registered(name), timeout, what=f"{name} has registered")
        wait_until(lambda: (found := self.registered(name)) and found.numbers, timeout, what=f"{name} has reported")
        found = self.registered(name)
        assert found
        return found


def fresh(name: str, **facts: Any) -> Cluster:
    """A cluster that was not known."""
    return Cluster(object_id(), name, **facts)
