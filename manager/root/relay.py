"""Hands on to the gateway what a root calls at the manager's own address.

A root calls back the address from which this cluster registered, at the gateway's port. Where manager and gateway have
an address each, as containers of one network do, a root beside them calls the manager, which takes no HTTP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from cluster.process import LOG

CONNECTIONS: Final = 64
CONNECT_S: Final = 5.0
# longer than the gateway keeps a connection that nobody uses, so that it is the gateway that decides
IDLE_S: Final = 90.0
LISTEN_AGAIN_S: Final = 5.0
_CHUNK_BYTES: Final = 64 * 1024

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Listens at `bind`:`port` and joins each caller to the gateway, byte by byte; nothing else waits for it."""

    def __init__(self, bind: str, port: int, gateway: tuple[str, int], counters: Counter[str]) -> None:
        self._address = (bind, port)
        self._gateway = gateway
        self._counters = counters
        self._connections = 0
        self._log = LOG.bind(address=f"{bind}:{port}", gateway=f"{gateway[0]}:{gateway[1]}")
        self._is_listening = True
        self._is_full = False
        self._is_away = False

    async def run(self) -> None:
        """Relay until cancelled. Where the port is taken, say so and go on trying."""
        async with asyncio.TaskGroup() as calls:
            server = await self._listen(partial(self._accept, calls))
            try:
                await asyncio.Event().wait()
            finally:
                self._is_listening = False
                server.close()

    async def _listen(self, accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]) -> asyncio.Server:
        is_told = False
        while True:
            try:
                server = await asyncio.start_server(accept, *self._address)
            except OSError as error:
                if not is_told:
                    self._log.warning("cannot listen for the root's calls, trying again", why=str(error))
                is_told = True
                await asyncio.sleep(LISTEN_AGAIN_S)
            else:
                self._log.info("listening for the root's calls")
                return server

    def _accept(self, calls: asyncio.TaskGroup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections < CONNECTIONS and self._is_listening:
            self._connections += 1
            self._counters["root_calls_relayed"] += 1
            calls.create_task(self._hand_on((reader, writer)), name="root-call")
            return
        writer.transport.abort()
        self._counters["root_calls_refused"] += 1
        if not self._is_full:
            self._is_full = True
            self._log.warning("too many connections of the root, refusing more", connections=CONNECTIONS)

    async def _hand_on(self, root: Stream) -> None:
        try:
            gateway = await self._connect()
            if gateway is not None:
                await _join(root, gateway)
        except Exception:  # noqa: BLE001 - whatever a caller makes us stumble over, the cluster goes on
            self._log.exception("a root's call stumbled")
        finally:
            root[1].transport.abort()
            self._connections -= 1
            self._is_full = self._is_full and self._connections > 0

    async def _connect(self) -> Stream | None:
        """A connection to the gateway, looked up by its name each time; None where there is none."""
        try:
            async with asyncio.timeout(CONNECT_S):
                stream = await asyncio.open_connection(*self._gateway)
        except OSError as error:
            self._counters["root_calls_refused"] += 1
            self._note(is_away=True, why=str(error) or "it does not answer")
            return None
        self._note(is_away=False)
        return stream

    def _note(self, *, is_away: bool, why: str = "") -> None:
        if is_away == self._is_away:
            return
        self._is_away = is_away
        if is_away:
            self._log.warning("the gateway does not take the root's calls", why=why)
        else:
            self._log.info("the gateway takes the root's calls again")


async def _join(root: Stream, gateway: Stream) -> None:
    """Pass on what either says until both have finished, one broke off, or neither says anything for long."""
    try:
        async with asyncio.timeout(IDLE_S) as idle:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pass_on(root[0], gateway[1], idle), name="root-asks")
                ways.create_task(_pass_on(gateway[0], root[1], idle), name="root-hears")
            for _, writer in (gateway, root):
                writer.close()
                await writer.wait_closed()
    except* OSError:
        LOG.debug("a root's call broke off")
    finally:
        gateway[1].transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout) -> None:
    """Pass on until the reader's end, and then that end. Raises OSError."""
    loop = asyncio.get_running_loop()
    while chunk := await reader.read(_CHUNK_BYTES):
        idle.reschedule(loop.time() + IDLE_S)
        writer.write(chunk)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()
