"""The worker's own HTTP server, on a real socket."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.errors import ConflictError
from worker.local_api import Request, Response, listen, not_found


async def lines() -> AsyncIterator[bytes]:
    """A stream of two pieces."""
    yield b"one\n"
    yield b"two\n"


async def endless() -> AsyncIterator[bytes]:
    """A stream that goes on until it is closed."""
    try:
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.01)
    finally:
        CLOSED.set()


CLOSED = asyncio.Event()


async def answer(request: Request) -> Response:
    """A handler with one route of each kind."""
    match request.path:
        case ("echo",):
            return Response(body=request.body)
        case ("lines",):
            return Response(stream=lines())
        case ("endless",):
            CLOSED.clear()
            return Response(stream=endless())
        case ("conflict",):
            raise ConflictError("not now", field="id")
    raise not_found(request)


@pytest.fixture(name="port")
async def _port() -> AsyncIterator[int]:
    server = await listen("127.0.0.1", 0, answer)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def ask(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    found = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return found


async def test_a_body_comes_and_goes(port: int) -> None:
    """Content-Length on both sides."""
    found = await ask(port, b"POST /echo HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody")
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 4\r\n" in found
    assert found.endswith(b"\r\n\r\nbody")


async def test_streams_are_chunked(port: int) -> None:
    """Each piece as it comes, then the end."""
    found = await ask(port, b"GET /lines HTTP/1.1\r\n\r\n")
    assert found.endswith(b"4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (b"GET /conflict HTTP/1.1\r\n\r\n", b"409", b'"conflict"'),
        (b"GET /none HTTP/1.1\r\n\r\n", b"404", b'"not_found"'),
        (b"nonsense\r\n\r\n", b"400", b'"invalid_input"'),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413", b'"too_large"'),
        (b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"413", b'"too_large"'),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"413", b'"too_large"'),
    ],
)
async def test_errors_are_problems(port: int, text: bytes, status: bytes, reason: bytes) -> None:
    """Whatever is wrong is said as application/problem+json with a stable reason."""
    found = await ask(port, text)
    assert found.split(b" ", 2)[1] == status
    assert b"application/problem+json" in found
    assert b'"reason":' + reason in found


async def test_a_caller_that_hangs_up_ends_the_stream(port: int) -> None:
    """A follower of logs costs nothing once it is gone."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /endless HTTP/1.1\r\n\r\n")
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(CLOSED.wait(), 5)
