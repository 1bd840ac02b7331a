"""The root's HTTP API against a server that misbehaves on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from manager.root import web as module
from manager.root.errors import ReportRefusedError, RootAwayError, RootBusyError
from manager.root.web import RootWeb

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]
CLUSTER_ID = "6b03249dd8ac74488c0dbc47"


class _Server:
    """Reads one request a connection, and then does what it was made for."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.requests: list[bytes] = []
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            await self._behave(writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def _serving(behave: Behaviour, answer_s: float = 5.0) -> AsyncIterator[tuple[RootWeb, _Server]]:
    root = _Server(behave)
    server = await asyncio.start_server(root, "127.0.0.1", 0)
    web = RootWeb(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", answer_s)
    try:
        yield web, root
    finally:
        await web.close()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*filter(None, root.tasks))


def _answering(raw: bytes) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return behave


def _whole(content: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[{}",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x01\x02\r\n\r\n",
        _whole(b"not gzip", headers="Content-Encoding: gzip\r\n"),
        _whole(b"<html>log in</html>"),
        _whole(b"{}"),
        _whole(b"[" * 5000),
        _whole(b"\xff\xfe"),
        _whole(b"", "404 Not Found"),
    ],
)
async def test_list_that_is_none_is_a_root_that_is_away(raw: bytes) -> None:
    """Closed before or amid the answer, garbled, or something else altogether: one kind of error, nothing else."""
    async with _serving(_answering(raw)) as (web, _):
        with pytest.raises(RootAwayError):
            await web.clusters()


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", RootAwayError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nok", RootAwayError),
        (_whole(b"<html>log in</html>"), RootAwayError),
        (_whole(b"", "302 Found", "Location: http://elsewhere/\r\n"), RootBusyError),
        (_whole(b"", "503 Service Unavailable", "Retry-After: 3\r\n"), RootBusyError),
        (_whole(b"Traceback", "500 Internal Server Error"), ReportRefusedError),
    ],
)
async def test_report_that_was_not_taken_is_told_apart(raw: bytes, kind: type[Exception]) -> None:
    """No answer, later, and no are different things."""
    async with _serving(_answering(raw)) as (web, _):
        with pytest.raises(kind) as caught:
            await web.report(CLUSTER_ID, {"jobs": []})
    assert type(caught.value) is kind


async def test_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no answer: the whole of it is waited for only so long."""
    monkeypatch.setattr(module, "REPORT_S", 0.3)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with _serving(drip, answer_s=0.3) as (web, _):
        with pytest.raises(RootAwayError, match=r"within 0\.3 s"):
            await web.clusters()
        with pytest.raises(RootAwayError, match=r"within 0\.3 s"):
            await web.report(CLUSTER_ID, {"jobs": []})


async def test_answer_of_a_hundred_megabytes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than any list is dropped while it comes."""
    monkeypatch.setattr(module, "MAX_LIST_BYTES", 1024 * 1024)
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(100):
            writer.write(b" " * 1024 * 1024)
            await writer.drain()
            sent += 1

    async with _serving(flood) as (web, _):
        with pytest.raises(RootAwayError, match="more than"):
            await web.clusters()
    assert sent < 50


async def test_packed_answer_is_not_unpacked() -> None:
    """A root is asked for plain answers; one that packs a hundred megabytes into a few gets no list out of it."""
    packed = gzip.compress(b"[" + b" " * 100 * 1024 * 1024 + b"]", 1)
    async with _serving(_answering(_whole(packed, headers="Content-Encoding: gzip\r\n"))) as (web, root):
        with pytest.raises(RootAwayError, match="packs"):
            await web.clusters()
    assert b"accept-encoding: identity" in root.requests[0].lower()


async def test_root_that_closes_its_connections_is_not_away() -> None:
    """Each question has a connection of its own: one that the root just closed is never used."""
    async with _serving(_answering(_whole(b"[]"))) as (web, root):
        for _ in range(5):
            assert await web.clusters() == []
    assert len(root.requests) == 5


async def test_id_that_is_no_path_stays_in_its_place() -> None:
    """Whatever a root gives for an id, the report goes to the reports' address."""
    async with _serving(_answering(_whole(b"ok"))) as (web, root):
        await web.report("../clusters/?x=1#\r\n", {"jobs": []})
    assert root.requests[0].startswith(b"POST /api/information/..%2Fclusters%2F%3Fx%3D1%23%0D%0A HTTP/1.1\r\n")
