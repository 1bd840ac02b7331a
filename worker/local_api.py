"""The worker's own HTTP: health, the adoption handshake and logs, in the smallest server that does.

`GET /healthz` · `GET|POST /api/node/register` · `GET /api/instances/{job_id}/{number}` and below it
`logs?follow=&tail=`.
One request per connection; bodies up to 64 KiB; errors are `application/problem+json`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
import structlog

from cluster.errors import ClusterError, InvalidInputError, NotFoundError, TooLargeError, kind_of

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 64 * 1024
REQUEST_TIMEOUT_S: Final = 10.0
_PHRASES: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; `peer` is the caller's address."""

    method: str
    path: tuple[str, ...]
    query: dict[str, str]
    body: bytes
    peer: str


@dataclass(frozen=True, kw_only=True)
class Response:
    """A JSON object, or a stream of text."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    stream: AsyncIterator[bytes] | None = field(default=None, compare=False)


Handler = Callable[[Request], Awaitable[Response]]


async def listen(bind: str, port: int, handle: Handler) -> asyncio.Server:
    """A listening server; port 0 is any free one. Raises OSError where the address is taken."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await _serve(reader, writer, handle)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    return await asyncio.start_server(serve, bind, port, limit=MAX_HEAD_BYTES)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            request = await _read(reader, str((writer.get_extra_info("peername") or ("",))[0]))
        response = await handle(request)
    except ClusterError as error:
        response = _problem(error)
    except TimeoutError:
        return
    except asyncio.LimitOverrunError:
        response = _problem(TooLargeError(f"the request's head is over {MAX_HEAD_BYTES} bytes"))
    if response.stream is None:
        _write_head(writer, response, f"Content-Length: {len(response.body)}")
        writer.write(response.body)
        await writer.drain()
    else:
        await _stream(reader, writer, response)


async def _read(reader: asyncio.StreamReader, peer: str) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    words = head[0].split(" ")
    if len(words) != 3:
        raise InvalidInputError("not an HTTP request")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:9]) > MAX_BODY_BYTES:
        raise TooLargeError(f"send a Content-Length of at most {MAX_BODY_BYTES}", field="body")
    url = urlsplit(words[1])
    return Request(
        method=words[0],
        path=tuple(unquote(part) for part in url.path.strip("/").split("/")),
        query={name: values[-1] for name, values in parse_qs(url.query).items()},
        body=await reader.readexactly(int(length)),
        peer=peer,
    )


def _write_head(writer: asyncio.StreamWriter, response: Response, *more: str) -> None:
    phrase = _PHRASES.get(response.status, "Error")
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Content-Type: {response.content_type}", "Connection: close"]
    writer.write("\r\n".join((*lines, *more, "", "")).encode("latin-1"))


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: Response) -> None:
    """Send pieces as they come, until the stream ends or the caller hangs up."""
    assert response.stream is not None
    _write_head(writer, response, "Transfer-Encoding: chunked")
    hung_up = asyncio.ensure_future(reader.read(1))
    pieces = aiter(response.stream)
    try:
        while True:
            piece = asyncio.ensure_future(anext(pieces, b""))
            await asyncio.wait((piece, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():
                piece.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await piece
                return
            data = piece.result()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
            if not data:
                return
    finally:
        hung_up.cancel()
        close = getattr(pieces, "aclose", None)
        if close:
            await close()


def _problem(error: ClusterError) -> Response:
    kind = kind_of(error)
    body = {
        "type": "about:blank",
        "title": kind.title,
        "status": kind.http_status,
        "detail": error.detail,
        "reason": error.reason,
        "field": error.field,
    }
    return Response(status=kind.http_status, body=orjson.dumps(body), content_type="application/problem+json")


def not_found(request: Request) -> NotFoundError:
    """The error for a route that is not there."""
    return NotFoundError(f"no route {request.method} /{'/'.join(request.path)}; see docs/worker-protocol.md")
