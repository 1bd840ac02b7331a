"""The outermost layer: what nobody caught becomes a problem, once in the log."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.tracing import RequestTracing

START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def _failing(error: Exception, *, is_started: bool = False) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if is_started:
            await send(START)
        raise error

    return app


async def _ask(app: ASGIApp, path: str = "/x", headers: tuple[tuple[bytes, bytes], ...] = ()) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}
    await RequestTracing(app)(scope, receive, send)
    structlog.contextvars.clear_contextvars()
    return sent


async def test_an_unexpected_exception_is_a_problem_and_one_log_line() -> None:
    """The client gets a 500 with the request id, the log the exception."""
    with capture_logs() as logs:
        start, body = await _ask(_failing(ValueError("secret")), headers=((b"x-request-id", b"mine"),))
    assert start["status"] == 500
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
    assert b"mine" in body["body"]
    assert b"secret" not in body["body"]
    assert [line["event"] for line in logs] == ["request failed"]


async def test_nothing_is_added_to_an_answer_that_has_begun() -> None:
    """A failure after the status line ends the answer there."""
    with capture_logs() as logs:
        assert [message["type"] for message in await _ask(_failing(ValueError(), is_started=True))] == [START["type"]]
    assert len(logs) == 1


async def test_a_client_that_leaves_is_no_failure() -> None:
    """Nobody is answered, and the log says so without an exception."""
    with capture_logs() as logs:
        assert await _ask(_failing(ClientDisconnect())) == []
    assert [(line["event"], line["log_level"]) for line in logs] == [("client went away", "info")]


@pytest.mark.parametrize(("path", "seen"), [("/a/", "/a"), ("/", "/"), ("/a", "/a"), ("/a//", "/a/")])
async def test_one_trailing_slash_is_dropped(path: str, seen: str) -> None:
    """Roots send some paths with a slash at the end."""
    paths = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])

    await _ask(app, path)
    assert paths == [seen]
