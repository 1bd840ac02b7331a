"""Every answer from 400 up: `application/problem+json` (RFC 9457) with a stable `reason` and the `field` at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.errors import ClusterError, TooLargeError, kind_of

MEDIA_TYPE: Final = "application/problem+json"
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64 * 1024 * 1024
_REASONS: Final = {404: "unknown_route", 405: "method_not_allowed"}


class BodyTooLargeError(TooLargeError):
    """A body over the limit: the rest of it has not been read."""


class BodyTimeoutError(Exception):
    """A body did not arrive in time."""


def problem_body(
    status: int, reason: str, title: str, detail: str, field: str = "", members: Mapping[str, Any] | None = None
) -> bytes:
    """The JSON of a problem; `members` are further ones."""
    return orjson.dumps(
        {
            "type": f"urn:cluster:problem:{reason}",
            "title": title,
            "status": status,
            "detail": detail,
            "reason": reason,
            "field": field,
            **(members or {}),
        }
    )


def problem(error: ClusterError, members: Mapping[str, Any] | None = None) -> Response:
    """The answer to an error, by the table in `cluster.errors`."""
    kind = kind_of(error)
    body = problem_body(kind.http_status, error.reason, kind.title, error.detail, error.field, members)
    return Response(body, status_code=kind.http_status, media_type=MEDIA_TYPE)


class LingeringProblem(Response):
    """Answers while the client still sends, and reads on for a bounded while, so that the client sees the answer."""

    media_type = MEDIA_TYPE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all but the end of the answer, discard what still comes, then end and close."""
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if (b"expect", b"100-continue") not in scope["headers"]:
            await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


async def on_cluster_error(request: Request, error: Exception) -> Response:
    """Answer an error of the tree."""
    assert isinstance(error, ClusterError)
    answer = problem(error)
    if isinstance(error, BodyTooLargeError):
        return LingeringProblem(answer.body, status_code=answer.status_code)
    return answer


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown route or a method that a route does not take."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    allowed = headers.get("Allow", headers.get("allow", ""))
    detail = {
        404: f"no such route: {request.method} {request.url.path}; /openapi.json lists all",
        405: f"{request.url.path} does not take {request.method}; use {allowed}",
    }.get(error.status_code, str(error.detail))
    reason = _REASONS.get(error.status_code, "invalid_input")
    body = problem_body(error.status_code, reason, HTTPStatus(error.status_code).phrase, detail)
    return Response(body, status_code=error.status_code, headers=headers, media_type=MEDIA_TYPE)


async def on_body_timeout(request: Request, error: Exception) -> Response:
    """Answer a client whose body stopped coming."""
    body = problem_body(
        408, "body_timeout", "Request timeout", "the body did not arrive in time; send it again", "body"
    )
    return Response(body, status_code=408, headers={"connection": "close"}, media_type=MEDIA_TYPE)
