"""The gRPC server and channel of every process: health, reflection, request ids, and errors as google.rpc.Status."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from cluster.errors import ClusterError
from cluster.process import LOG
from cluster.rpc_errors import to_status

REQUEST_ID: Final = "x-request-id"
SAVED_ONLY: Final = "x-saved-only"
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # by default a name that was just looked up is believed for half a minute: a container that is made anew moves
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Binds the request id to the log and turns a raised ClusterError into its status; anything else into INTERNAL.

    Where `saved_only` says why nothing can be saved at the moment, answers carry it: they are what was saved last.
    """

    def __init__(self, saved_only: Callable[[], str] = str) -> None:
        self._saved_only = saved_only

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap unary-unary and unary-stream handlers; the API has no others."""
        handler = await continuation(details)
        if handler is None:
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guard_unary(handler.unary_unary, details.method, self._saved_only),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(handler.unary_stream, details.method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler


def _bind(request: Any, method: str) -> None:
    request_id = getattr(request, "request_id", "") or uuid.uuid4().hex
    structlog.contextvars.bind_contextvars(request_id=request_id, rpc=method.rsplit("/", 1)[-1])


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, NotImplementedError):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not know the call")
    if not isinstance(error, ClusterError):
        LOG.exception("call failed")
        error = ClusterError("the server failed; its log holds the request id")
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


def _guard_unary(inner: Callable[..., Any], method: str, saved_only: Callable[[], str]) -> Callable[..., Any]:
    async def guarded(request: Any, context: Context) -> Any:
        _bind(request, method)
        if why := saved_only():
            context.set_trailing_metadata(((SAVED_ONLY, why.encode("ascii", "replace").decode()),))
        try:
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of a call
            return await _abort(context, error)

    return guarded


def _guard_stream(inner: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        _bind(request, method)
        try:
            async for response in inner(request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of a call
            await _abort(context, error)

    return guarded


@asynccontextmanager
async def serving(
    address: str,
    services: dict[str, Callable[[grpc.aio.Server], None]],
    *,
    drain_s: float = 5.0,
    saved_only: Callable[[], str] = str,
) -> AsyncIterator[health.aio.HealthServicer]:
    """A started server: `services` maps full service names to functions that add their servicer to it.

    Yields the health servicer (set each service SERVING when it is). On exit it answers NOT_SERVING, refuses new calls
    and gives running ones `drain_s` seconds. `saved_only`: see ErrorInterceptor. Raises OSError where the address is
    taken.
    """
    server = grpc.aio.server(interceptors=[ErrorInterceptor(saved_only)], options=OPTIONS)
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    for name, add in services.items():
        add(server)
        await healths.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
    await server.start()
    try:
        yield healths
    finally:
        await healths.enter_graceful_shutdown()
        await server.stop(drain_s)


async def set_serving(healths: health.aio.HealthServicer, service: str, is_serving: bool) -> None:
    """Tell health checks whether a service takes calls."""
    status = health_pb2.HealthCheckResponse
    await healths.set(service, status.SERVING if is_serving else status.NOT_SERVING)


def channel(address: str) -> grpc.aio.Channel:
    """A channel to a peer; it belongs to the running loop, and reconnects by itself within 2 s."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)
