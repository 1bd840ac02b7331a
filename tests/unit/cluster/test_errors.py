"""The table of errors, over a real gRPC server."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cluster.errors import KINDS, ClusterError, InvalidInputError
from cluster.rpc import channel, serving
from cluster.rpc_errors import from_rpc_error
from cluster.v1 import scheduler_pb2, scheduler_pb2_grpc
from testbed.ports import free_port

SERVICE = "cluster.v1.SchedulerService"


class Failing(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Raises what a test gives it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def Plan(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise self._error


def _add(error: Exception) -> Callable[[grpc.aio.Server], None]:
    servicer = Failing(error)  # type: ignore[abstract]
    return lambda server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)


async def _failure_of(error: Exception) -> tuple[ClusterError, str]:
    """The error that a caller gets when the server raises this one, and its gRPC code."""
    address = f"127.0.0.1:{free_port()}"
    async with serving(address, {SERVICE: _add(error)}, drain_s=0.0), channel(address) as client:
        stub: Any = scheduler_pb2_grpc.SchedulerServiceStub(client)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Plan(scheduler_pb2.PlanRequest(), timeout=10)
    return from_rpc_error(caught.value), caught.value.code().name


@pytest.mark.parametrize("reason", KINDS)
async def test_every_error_arrives_as_it_was_raised(reason: str) -> None:
    """Class, reason, words and field cross the wire, under the code of the table."""
    kind = KINDS[reason]
    error, code = await _failure_of(kind.error("what was wrong", field="spec.name"))
    assert type(error) is kind.error
    assert (error.reason, error.detail, error.field) == (reason, "what was wrong", "spec.name")
    assert code == kind.code


async def test_a_narrower_reason_is_kept() -> None:
    """A reason may say more than its class; class and code stay."""
    error, code = await _failure_of(InvalidInputError("no such word", reason="unknown_technology"))
    assert (type(error), error.reason, code) == (InvalidInputError, "unknown_technology", "INVALID_ARGUMENT")


async def test_an_unexpected_exception_tells_nothing_of_the_inside() -> None:
    """The caller learns that the server failed; the story stays in its log."""
    error, code = await _failure_of(ValueError("secret"))
    assert (error.reason, code) == ("internal", "INTERNAL")
    assert "secret" not in error.detail


def test_reasons_codes_and_titles_are_distinct() -> None:
    """No client has to parse words to tell two errors apart."""
    assert len({kind.code for kind in KINDS.values()}) == len(KINDS)
    assert len({kind.title for kind in KINDS.values()}) == len(KINDS)
