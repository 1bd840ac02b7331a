"""The manager and the scheduler over gRPC: one channel each, every call bounded, a restarting peer waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc

from cluster.errors import DeadlineError, UnavailableError
from cluster.process import LOG
from cluster.rpc import SAVED_ONLY, channel
from cluster.rpc_errors import from_rpc_error
from cluster.v1 import manager_pb2_grpc, scheduler_pb2_grpc

if TYPE_CHECKING:
    from gateway.settings import Settings

Request = TypeVar("Request")
Response = TypeVar("Response")
saved_only: ContextVar[str] = ContextVar("saved_only", default="")
DETAILS_KEY: Final = "grpc-status-details-bin"
_RETRY_S: Final = 0.05
_LAST_CALL_S: Final = 2.0
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def note_saved_only(metadata: grpc.aio.Metadata | None) -> None:
    """Remember for this request's answer that the manager could only tell what was saved last."""
    for key, value in metadata or ():
        if key == SAVED_ONLY:
            saved_only.set(str(value))


class Peer:
    """A process that is called; `name` and `address` are for messages."""

    def __init__(self, name: str, address: str, call_timeout_s: float) -> None:
        self.channel = channel(address)
        self._name = name
        self._address = address
        self._call_timeout_s = call_timeout_s
        self._is_away = False

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        wait_s: float,
        timeout_s: float | None = None,
    ) -> Response:
        """Call, and while the peer cannot be reached wait up to `wait_s` seconds for it; only for what may be repeated.

        `timeout_s` bounds the call in place of the setting. Raises the ClusterError that the peer raised,
        UnavailableError or DeadlineError.
        """
        began = time.monotonic()
        bound_s = left_s = timeout_s or self._call_timeout_s
        while True:
            try:
                call = method(request, timeout=left_s)
                response = await call
            except grpc.aio.AioRpcError as error:
                waited_s = time.monotonic() - began
                if not _is_away(error) or waited_s >= wait_s:
                    self._fail(error, bound_s)
                await self._until_reachable(wait_s - waited_s)
                left_s = max(bound_s - (time.monotonic() - began), min(bound_s, _LAST_CALL_S))
            else:
                self._note(is_away=False)
                note_saved_only(await call.trailing_metadata())
                return response

    async def stream(self, call: grpc.aio.UnaryStreamCall[Any, Response]) -> AsyncGenerator[Response]:
        """The messages of a started call, which is cancelled when the reader stops. Raises as `call` does."""
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            self._fail(error, self._call_timeout_s)
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()

    async def _until_reachable(self, left_s: float) -> None:
        await asyncio.sleep(min(_RETRY_S, left_s))
        try:
            async with asyncio.timeout(left_s):
                await self.channel.channel_ready()
        except TimeoutError:
            return

    def _fail(self, error: grpc.aio.AioRpcError, bound_s: float) -> NoReturn:
        if _is_away(error):
            self._note(is_away=True)
            raise UnavailableError(
                f"the {self._name} does not answer: is the {self._name} running at {self._address}?"
            ) from None
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise UnavailableError(f"the {self._name} at {self._address} does not know this call: update it") from None
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not _is_told(error):
            raise DeadlineError(f"the {self._name} did not answer within {bound_s:g} s; repeat the request") from None
        raise from_rpc_error(error) from None

    def _note(self, *, is_away: bool) -> None:
        if is_away == self._is_away:
            return
        self._is_away = is_away
        if is_away:
            LOG.warning("peer does not answer", peer=self._name, address=self._address)
        else:
            LOG.info("peer answers again", peer=self._name, address=self._address)


def _is_told(error: grpc.aio.AioRpcError) -> bool:
    return any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())


def _is_away(error: grpc.aio.AioRpcError) -> bool:
    return error.code() in _AWAY and not _is_told(error)


class Peers:
    """What the routes call; made in the lifespan, because a channel belongs to its loop."""

    def __init__(self, settings: Settings) -> None:
        self.manager = Peer("manager", settings.manager_address, settings.call_timeout_s)
        self.scheduler = Peer("scheduler", settings.scheduler_address, settings.call_timeout_s)
        self.manager_stub = manager_pb2_grpc.ManagerServiceStub(self.manager.channel)
        self.scheduler_stub = scheduler_pb2_grpc.SchedulerServiceStub(self.scheduler.channel)
        self._read_wait_s = settings.read_wait_s
        self._command_wait_s = settings.command_wait_s

    async def read(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Ask the manager."""
        return await self.manager.call(method, request, self._read_wait_s)

    async def command(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Change something through the manager; the API's mutations may all be repeated."""
        return await self.manager.call(method, request, self._command_wait_s)

    async def close(self) -> None:
        """Close both channels."""
        await self.manager.close()
        await self.scheduler.close()
