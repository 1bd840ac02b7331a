"""The manager as commands see it: calls with time-outs, all pages of a list, and errors in an operator's words."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc

from cluster.v1.manager_pb2_grpc import ManagerServiceStub
from clusterctl.exits import CommandError, ExitCode, UnreachableError

ACTOR: Final = "operator"
PAGE_SIZE: Final = 1000
_SAVED_ONLY: Final = "x-saved-only"
_CALL_TIMEOUT_S: Final = 30.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.enable_http_proxy", 0),
)
_EXITS: Final = {"INVALID_ARGUMENT": ExitCode.USAGE, "OUT_OF_RANGE": ExitCode.USAGE, "NOT_FOUND": ExitCode.NOT_FOUND}
Request = TypeVar("Request")
Response = TypeVar("Response")


class Manager:
    """An open channel to a manager; `api` is its stub."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._is_noted = False
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self.api: ManagerServiceStub = ManagerServiceStub(self._channel)

    def call(self, rpc: Callable[..., Response], request: object, timeout_s: float = _CALL_TIMEOUT_S) -> Response:
        """One call. Raises CommandError, UnreachableError where nothing answers."""
        try:
            response, call = rpc.with_call(request, timeout=timeout_s)  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            raise self._explained(error) from None
        self._note(call.trailing_metadata())
        return response  # type: ignore[no-any-return]

    def _note(self, metadata: Any) -> None:
        """Say once that the manager could only tell what was saved last."""
        why = next((value for key, value in metadata or () if key == _SAVED_ONLY), "")
        if why and not self._is_noted:
            self._is_noted = True
            print(f"note: the manager's database is away ({why}); this is what was saved last", file=sys.stderr)

    def stream(self, rpc: Callable[..., Iterator[Response]], request: object) -> Iterator[Response]:
        """The responses of a stream as they come. Raises as `call`."""
        try:
            yield from rpc(request)
        except grpc.RpcError as error:
            raise self._explained(error) from None

    def pages(self, rpc: Callable[..., Response], request: Any) -> Iterator[Response]:
        """Every page of a list; `request` is used up."""
        request.page_size = PAGE_SIZE
        while True:
            response: Any = self.call(rpc, request)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _explained(self, error: grpc.RpcError) -> CommandError:
        from cluster.rpc_errors import from_rpc_error

        code = error.code().name
        if code == "UNIMPLEMENTED":
            return CommandError(f"the manager at {self.address} does not offer this yet: {error.details()}")
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and not _was_answered(error):
            return UnreachableError(self._unreachable(code))
        return CommandError(from_rpc_error(error).detail, _EXITS.get(code, ExitCode.FAILED))

    def _unreachable(self, code: str) -> str:
        if code == "DEADLINE_EXCEEDED":
            return f"{self.address} takes connections but did not answer in time"
        return (
            f"nothing listens at {self.address} — start a cluster with: clusterctl up\n"
            "(or name another manager with --manager HOST:PORT or CLUSTERCTL_MANAGER)"
        )


def _was_answered(error: Any) -> bool:
    return any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())


@contextmanager
def connected(address: str) -> Iterator[Manager]:
    """A manager for the time of the block."""
    manager = Manager(address)
    try:
        yield manager
    finally:
        manager.close()


def request_id() -> str:
    """A fresh id, by which the manager's log finds a command again."""
    return uuid.uuid4().hex
