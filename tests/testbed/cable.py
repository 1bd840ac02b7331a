"""A cable between a client and a server of this machine that can be pulled: nothing comes through, nobody is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from testbed.ports import free_port

HOST = "127.0.0.1"


class Cable:
    """Forwards `port` to `target_port`. Pulled, connections stay open and silent, and new ones are taken and wait."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._is_plugged = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"cable {self.port}", daemon=True)
        self._thread.start()
        self._call(self._listen())

    def pull(self) -> None:
        """From now on nothing comes through."""
        self._loop.call_soon_threadsafe(self._is_plugged.clear)

    def plug(self) -> None:
        """What was sent meanwhile arrives, as TCP would have it."""
        self._loop.call_soon_threadsafe(self._is_plugged.set)

    def close(self) -> None:
        """Break every connection."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, step: object) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result()  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._is_plugged.set()
        self._server = await asyncio.start_server(self._forward, HOST, self.port)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._is_plugged.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far_writer))
                tasks.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass
        finally:
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(65_536)
            await self._is_plugged.wait()
            if not data:
                raise ConnectionResetError("the other end hung up")
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def cable(target_port: int) -> Iterator[Cable]:
    """A cable for the time of the block."""
    made = Cable(target_port)
    try:
        yield made
    finally:
        made.close()
