"""The routes of the worker's local HTTP, on its agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson

from cluster.errors import ConflictError, InvalidInputError, NotFoundError
from worker.agent import Agent
from worker.gateway import parse_membership
from worker.local_api import Request, Response, not_found
from worker.records import Instance
from worker.runtime.base import Runtime


class Routes:
    """Answers one request at a time; holds no state."""

    def __init__(self, agent: Agent, runtimes: Mapping[str, Runtime]) -> None:
        self._agent = agent
        self._runtimes = runtimes

    async def handle(self, request: Request) -> Response:
        """The answer. Raises ClusterError."""
        match request.method, request.path:
            case "GET", ("healthz",):
                return self._health()
            case "GET", ("api", "node", "register"):
                return Response(body=self._agent.registrar.body())
            case "POST", ("api", "node", "register"):
                return self._adopt(request)
            case "GET", ("api", "instances", job_id, number):
                return self._instance(job_id, number)
            case "GET", ("api", "instances", job_id, number, "logs"):
                return self._logs(request, job_id, number)
        raise not_found(request)

    def _health(self) -> Response:
        membership = self._agent.registrar.membership
        body = {
            "status": "ok",
            "node_id": membership.node_id if membership else "",
            "is_connected": self._agent.is_connected,
            "instances": len(self._agent.machine.instances),
        }
        return Response(body=orjson.dumps(body))

    def _adopt(self, request: Request) -> Response:
        """Take what a registration is answered with; the broker is at the caller's address unless it says otherwise."""
        try:
            answer = parse_membership(request.body)
        except ValueError as error:
            raise InvalidInputError(str(error), field="body") from None
        now = self._agent.registrar.membership
        if now and now.node_id != answer.node_id and self._agent.is_connected:
            raise ConflictError(f"this worker is node {now.node_id} of a cluster and connected to it", field="id")
        self._agent.registrar.take(replace(answer, broker_host=answer.broker_host or request.peer))
        return Response(body=b'{"status":"ok"}')

    def _known(self, job_id: str, number: str) -> list[Instance]:
        """The known generations of an instance, oldest first. Raises NotFoundError where there is none."""
        known = self._agent.machine.by_slot((job_id, int(number))) if number.isascii() and number.isdigit() else []
        if not known:
            raise NotFoundError(f"no instance {number} of job {job_id} is on this node", field="instance")
        return known

    def _instance(self, job_id: str, number: str) -> Response:
        """What the newest generation of an instance is, so that a cluster that lost its store can take it in."""
        newest = self._known(job_id, number)[-1]
        body = {
            "generation": newest.ref.generation,
            "status": newest.status,
            "job": orjson.loads(newest.spec.document),
        }
        return Response(body=orjson.dumps(body))

    def _logs(self, request: Request, job_id: str, number: str) -> Response:
        known = self._known(job_id, number)
        tail = request.query.get("tail", "0")
        if not tail.isascii() or not tail.isdigit() or len(tail) > 6:
            raise InvalidInputError("tail is a number of lines from 0 to 999999; 0 means all", field="tail")
        runtime = self._runtimes.get(known[-1].spec.technology)
        if runtime is None:
            raise NotFoundError(f"{known[-1].spec.technology} is not available on this node", field="instance")
        is_followed = request.query.get("follow", "false").lower() in ("1", "true")
        stream = runtime.logs(known[-1].ref, follow=is_followed, tail=int(tail) or None)
        return Response(content_type="text/plain; charset=utf-8", stream=stream)
