"""gRPC between simulated processes: real stubs and servicers, real protos and statuses, and no sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from cluster.errors import ClusterError
from cluster.rpc_errors import to_status
from simulation.loop import Process

LATENCY_S = (0.0005, 0.01)


class Server:
    """What generated code adds a servicer to; it lives as long as its process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The registered ones are enough."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The methods of a service."""
        self.handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})


class SimChannel:
    """A channel to a server that may be away (None), or cut off so that calls take until their timeout."""

    def __init__(self, find: Callable[[], Server | None], rng: random.Random) -> None:
        self._find = find
        self._rng = rng
        self.is_cut = False

    def unary_unary(
        self, method: str, request_serializer: Any, response_deserializer: Any, **_options: Any
    ) -> Callable[..., Any]:
        """A method with one answer."""

        async def call(request: Any, timeout: float | None = None) -> Any:
            data = request_serializer(request)
            try:
                async with asyncio.timeout(timeout):
                    return response_deserializer(await self._ask(method, data))
            except TimeoutError:
                raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None

        return call

    def unary_stream(
        self, method: str, request_serializer: Any, response_deserializer: Any, **_options: Any
    ) -> Callable[..., Any]:
        """A method with many answers."""

        async def call(request: Any) -> AsyncIterator[Any]:
            async for data in self._follow(method, request_serializer(request)):
                yield response_deserializer(data)

        return call

    async def _ask(self, method: str, data: bytes) -> bytes:
        server = await self._reach()
        handler = server.handlers[method]
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        work = server.process.spawn(_answered(handler.unary_unary, handler.request_deserializer(data)), method)
        work.add_done_callback(lambda done: _pass_on(done, answer, server))
        response = await answer
        await self._travel()
        return bytes(handler.response_serializer(response))

    async def _follow(self, method: str, data: bytes) -> AsyncIterator[bytes]:
        server = await self._reach()
        handler = server.handlers[method]
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def pump() -> None:
            try:
                async for response in handler.unary_stream(handler.request_deserializer(data), None):
                    queue.put_nowait(response)
            finally:
                queue.put_nowait(None)

        work = server.process.spawn(pump(), method)
        try:
            while (response := await queue.get()) is not None and server.process.is_alive:
                await self._travel()
                yield bytes(handler.response_serializer(response))
            raise failure(grpc.StatusCode.UNAVAILABLE, "the server went away")
        finally:
            work.cancel()

    async def _reach(self) -> Server:
        await self._travel()
        server = self._find()
        if server is None or not server.process.is_alive:
            raise failure(grpc.StatusCode.UNAVAILABLE, "nobody listens there")
        return server

    async def _travel(self) -> None:
        while self.is_cut:
            await asyncio.sleep(0.5)
        await asyncio.sleep(self._rng.uniform(*LATENCY_S))


async def _answered(method: Any, request: Any) -> Any:
    return await method(request, None)


def _pass_on(done: asyncio.Task[Any], answer: asyncio.Future[Any], server: Server) -> None:
    if answer.done():
        return
    if done.cancelled() or not server.process.is_alive:
        answer.set_exception(failure(grpc.StatusCode.UNAVAILABLE, "the server went away"))
    elif isinstance(error := done.exception(), ClusterError):
        answer.set_exception(failure_of(error))
    elif error is not None:
        server.process.failures.append(error)
        answer.set_exception(failure(grpc.StatusCode.INTERNAL, repr(error)))
    else:
        answer.set_result(done.result())


def failure(code: grpc.StatusCode, details: str) -> AioRpcError:
    """A call that failed without the server's word."""
    return AioRpcError(code, Metadata(), Metadata(), details=details)


def failure_of(error: ClusterError) -> AioRpcError:
    """The status that the server's interceptor makes of an error."""
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return AioRpcError(code, Metadata(), trailing, details=error.detail)
