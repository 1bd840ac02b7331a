"""The outermost layer: a request id on each request, its log lines and its answer; the last net for exceptions.

An answer read while the manager's store does not work says so in the header `x-saved-only`.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.errors import InvalidInputError
from cluster.process import LOG
from cluster.rpc import SAVED_ONLY
from gateway.peers import saved_only
from gateway.problems import MEDIA_TYPE, problem_body

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}\Z")


def request_id(request: Request) -> str:
    """The id of this request."""
    identifier: str = request.scope["state"]["request_id"]
    return identifier


def given_request_id(request: Request) -> str:
    """The id that the caller gave this request. Raises InvalidInputError where it gave none that can be taken."""
    identifier: str = request.scope["state"]["given_request_id"]
    if not identifier:
        raise InvalidInputError(
            "give the request an id of 1 to 128 printable characters in the header X-Request-Id: "
            "repeated with the same one it starts nothing",
            field="X-Request-Id",
        )
    return identifier


class RequestTracing:
    """Takes `x-request-id` from the request or makes one, answers it, and turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _given(scope)
        identifier = given or uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=identifier, given_request_id=given)
        structlog.contextvars.bind_contextvars(request_id=identifier)
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            scope["path"] = path[:-1]  # roots send /api/move/; a redirect would lose their body
        is_started = False
        saved_only.set("")

        async def send_with_id(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = [*message["headers"], (b"x-request-id", identifier.encode("ascii"))]
                if why := saved_only.get():
                    message["headers"].append((SAVED_ONLY.encode("ascii"), why.encode("ascii", "replace")))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            LOG.info("client went away", method=scope["method"], path=path)
        except Exception:  # noqa: BLE001 - the boundary of a request
            LOG.exception("request failed", method=scope["method"], path=path)
            if not is_started:
                await _failure(identifier)(scope, receive, send_with_id)


def _given(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return str(value, "ascii")
    return ""


def _failure(identifier: str) -> Response:
    detail = f"the gateway failed; its log tells more under request id {identifier}"
    body = problem_body(500, "internal", "Internal error", detail)
    return Response(body, status_code=500, media_type=MEDIA_TYPE)
