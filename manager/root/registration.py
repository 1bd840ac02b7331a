"""Registration with roots R2 and R3: two calls over gRPC, on a channel of its own each time.

Source: sections 3.2 and 12.2 of the contract of the deployed ecosystem. The root reads several members without
defaults and fails with UNKNOWN where one is zero or empty; the greeting is a courtesy.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import grpc

from cluster.v1.registration.cluster_registration_pb2 import CS1Message, CS2Message, KeyValue, SC2Message
from cluster.v1.registration.cluster_registration_pb2_grpc import register_clusterStub
from manager.root.errors import RootAwayError, RootRefusedError
from manager.root.settings import RootSettings
from manager.root.socketio import Admission

if TYPE_CHECKING:
    from cluster.v1.registration.cluster_registration_pb2_grpc import register_clusterAsyncStub

PROBE_S: Final = 3.0
FINAL_S: Final = 30.0  # the root tells its network plug-in and its database before it answers
MAX_WORDS: Final = 500
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def cs1_of(settings: RootSettings) -> CS1Message:
    """The greeting, in the words of the ecosystem's own manager."""
    facts = {"cluster_name": settings.cluster_name, "location": settings.location}
    return CS1Message(hello_service_manager=json.dumps(facts))


def cs2_of(settings: RootSettings) -> CS2Message:
    """What a cluster says of itself."""
    return CS2Message(
        manager_port=settings.gateway_port,
        network_component_port=settings.cluster_service_manager_port,
        cluster_name=settings.cluster_name,
        cluster_info=[KeyValue()],
        cluster_location=settings.location,
    )


async def is_spoken(settings: RootSettings) -> bool:
    """Whether something at the root's gRPC address knows the registration."""
    async with grpc.aio.insecure_channel(settings.grpc_address, options=_OPTIONS) as channel:
        try:
            await _stub(channel).handle_init_greeting(cs1_of(settings), timeout=PROBE_S)
        except grpc.aio.AioRpcError as error:
            return error.code() not in (*_AWAY, grpc.StatusCode.UNIMPLEMENTED)
        return True


async def register(settings: RootSettings) -> Admission:
    """One registration, tried twice where the root was just restarted. Raises RootRefusedError or RootAwayError."""
    async with grpc.aio.insecure_channel(settings.grpc_address, options=_OPTIONS) as channel:
        stub = _stub(channel)
        try:
            answer = await _final(stub, settings)
        except RootAwayError:
            answer = await _final(stub, settings)
    if not answer.id:
        raise RootAwayError("the root admitted this cluster without an id")
    return Admission(cluster_id=answer.id)


def _stub(channel: grpc.aio.Channel) -> register_clusterAsyncStub:
    return register_clusterStub(channel)


async def _final(stub: register_clusterAsyncStub, settings: RootSettings) -> SC2Message:
    try:
        return await stub.handle_init_final(cs2_of(settings), timeout=FINAL_S)
    except grpc.aio.AioRpcError as error:
        raise _explained(settings, error) from None


def _explained(settings: RootSettings, error: grpc.aio.AioRpcError) -> RootAwayError | RootRefusedError:
    words = f"{error.code().name}: {error.details()}"[:MAX_WORDS]
    if error.code() in (*_AWAY, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return RootAwayError(f"{settings.grpc_address} does not answer: {words}")
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return RootRefusedError(f"the root wants a credential that this cluster has not: {words}")
    return RootRefusedError(f"the root did not admit this cluster: {words}")
