"""The registrations that were recorded with a real root R3, played against our side and against the stand-in root."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from unit.root.recordings import load, names

from cluster.v1.registration.cluster_registration_pb2 import CS2Message, SC2Message
from manager.root import registration
from manager.root.errors import RootAwayError, RootRefusedError
from manager.root.settings import RootSettings
from standins.roots.r3 import R3

FINAL = "/clusterRegistration.register_cluster/handle_init_final"
REPLY = "-reply"
RECORDED = [name for name in names("R3/[01]*") if name + REPLY in names("R3/*") and load(name)["path"] == FINAL]
OURS = [name for name in RECORDED if name < "R3/10"]
NOT_OF_THE_MESSAGE = ("R3/07-register-while-resource-abstractor-down",)


class _Replying(grpc.GenericRpcHandler):
    """A root that answers every final with one recording; `received` are the messages as they came."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self.reply = reply
        self.received: list[bytes] = []

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer) if handler_call_details.method == FINAL else None

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.received.append(request)
        status = self.reply["status"]
        if status["code"] != "OK":
            await context.abort(grpc.StatusCode[status["code"]], status["details"])
        return bytes.fromhex(self.reply["raw"])


@contextlib.asynccontextmanager
async def _serving(reply: dict[str, Any]) -> AsyncIterator[tuple[_Replying, int]]:
    root = _Replying(reply)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([root])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield root, port
    finally:
        await server.stop(0)


def _settings(message: dict[str, Any], port: int) -> RootSettings:
    facts = {"cluster_name": message["cluster_name"], "cluster_location": message["cluster_location"]}
    ports = {"gateway_port": message["manager_port"], "cluster_service_manager_port": message["network_component_port"]}
    return RootSettings(**facts, **ports, system_manager_url="127.0.0.1", system_manager_grpc_port=port)


@pytest.mark.parametrize("name", OURS)
async def test_our_registration_is_the_recorded_one(name: str) -> None:
    """Again, after a report, as a second cluster, after a lost database: our bytes are the recorded ones."""
    async with _serving(load(name + REPLY)) as (root, port):
        with contextlib.suppress(RootAwayError):
            await registration.register(_settings(load(name)["body"], port))
    assert set(root.received) == {bytes.fromhex(load(name)["raw"])}


@pytest.mark.parametrize("name", RECORDED)
async def test_every_recorded_reply_is_understood(name: str) -> None:
    """An id, a refusal in the root's own words, or a root that is away and is tried once more at once."""
    reply = load(name + REPLY)
    code, details = reply["status"]["code"], reply["status"].get("details", "")
    async with _serving(reply) as (root, port):
        settings = _settings(load("R3/03-register-again-same-name")["body"], port)
        if code == "OK":
            assert (await registration.register(settings)).cluster_id == reply["body"]["id"]
            return
        kind = RootAwayError if code == "INTERNAL" else RootRefusedError
        with pytest.raises(kind) as caught:
            await registration.register(settings)
    assert f"{code}: {details}" in str(caught.value)
    assert len(root.received) == (2 if kind is RootAwayError else 1)


@pytest.fixture(name="final", scope="module")
def _final() -> Iterator[Any]:
    root = R3()
    root.start()
    with grpc.insecure_channel(f"127.0.0.1:{root.grpc_port}") as channel:
        yield channel.unary_unary(FINAL)
    root.stop()


@pytest.mark.parametrize("name", [name for name in RECORDED if name not in NOT_OF_THE_MESSAGE])
def test_stand_in_root_answers_as_the_recorded_one(final: Any, name: str) -> None:
    """The judge is judged: the recorded bytes are admitted or refused by the stand-in as by the real root."""
    status = load(name + REPLY)["status"]
    message = bytes.fromhex(load(name)["raw"])
    if status["code"] == "OK":
        assert len(SC2Message.FromString(final(message, timeout=10)).id) == 24
        return
    with pytest.raises(grpc.RpcError) as caught:
        final(message, timeout=10)
    assert (caught.value.code().name, caught.value.details()) == (status["code"], status["details"])


def test_no_setting_of_ours_makes_a_message_that_was_refused() -> None:
    """Each member that a refusal names is there in what we send with nothing but the address of a root."""
    ours = registration.cs2_of(RootSettings(system_manager_url="root"))
    refused = [load(name + REPLY)["status"] for name in RECORDED]
    members = {status["details"].split("'")[1] for status in refused if status["code"] == "UNKNOWN"}
    assert members == {"cluster_info", "cluster_location", "cluster_name", "manager_port"}
    assert isinstance(ours, CS2Message)
    assert all(getattr(ours, member) for member in members)
