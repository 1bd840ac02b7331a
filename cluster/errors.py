"""The error tree, and the one table that ties a reason to its gRPC code and its HTTP status.

A reason is a stable word for programs; `detail` is for people and says what was wrong, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "cluster.v1"


class ClusterError(Exception):
    """Something that a caller is told: a stable reason, words, and the field that was wrong."""

    reason = "internal"

    def __init__(self, detail: str, *, field: str = "", reason: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.reason = reason or type(self).reason


class InvalidInputError(ClusterError):
    """A field is missing, of the wrong type or out of range; nothing was changed."""

    reason = "invalid_input"


class TooLargeError(ClusterError):
    """A body or a message is larger or deeper than is taken."""

    reason = "too_large"


class NotFoundError(ClusterError):
    """No such node, job or instance."""

    reason = "not_found"


class AlreadyExistsError(ClusterError):
    """The id belongs to something else that is alive."""

    reason = "already_exists"


class ConflictError(ClusterError):
    """The present state forbids it: it may be asked again once that state has changed."""

    reason = "conflict"


class StaleWriteError(ClusterError):
    """Somebody else changed the record since it was read."""

    reason = "stale_write"


class UnavailableError(ClusterError):
    """A part that is needed does not answer now; the call may be repeated safely."""

    reason = "unavailable"


class DeadlineError(ClusterError):
    """It took longer than the caller allowed; the call may be repeated safely."""

    reason = "deadline"


@dataclass(frozen=True)
class ErrorKind:
    """What a reason is on the wire."""

    error: type[ClusterError]
    code: grpc.StatusCode
    http_status: int
    title: str


KINDS: Final = {
    kind.error.reason: kind
    for kind in (
        ErrorKind(InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT, 400, "Invalid input"),
        ErrorKind(TooLargeError, grpc.StatusCode.OUT_OF_RANGE, 413, "Too large"),
        ErrorKind(NotFoundError, grpc.StatusCode.NOT_FOUND, 404, "Not found"),
        ErrorKind(AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS, 409, "Already exists"),
        ErrorKind(ConflictError, grpc.StatusCode.FAILED_PRECONDITION, 409, "Conflict"),
        ErrorKind(StaleWriteError, grpc.StatusCode.ABORTED, 409, "Stale write"),
        ErrorKind(UnavailableError, grpc.StatusCode.UNAVAILABLE, 503, "Unavailable"),
        ErrorKind(DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED, 504, "Deadline exceeded"),
        ErrorKind(ClusterError, grpc.StatusCode.INTERNAL, 500, "Internal error"),
    )
}
_BY_CODE: Final = {kind.code: kind for kind in KINDS.values()}


def kind_of(error: ClusterError) -> ErrorKind:
    """The row of the table for an error, by its class: a reason may be narrower than its class's."""
    return KINDS[type(error).reason]


def to_status(error: ClusterError) -> status_pb2.Status:
    """`google.rpc.Status` with an `ErrorInfo` (reason, domain, metadata `field`)."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={"field": error.field} if error.field else {}
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    code = int(kind_of(error).code.value[0])
    return status_pb2.Status(code=code, message=error.detail, details=[packed])


def from_rpc_error(error: grpc.RpcError) -> ClusterError:
    """The error that a gRPC call failed with, as the server raised it."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    detail = (error.details() if hasattr(error, "details") else "") or "the call failed"
    kind = _BY_CODE.get(code, KINDS["internal"])
    info = _error_info(error)
    if info is None:
        return kind.error(detail)
    return kind.error(detail, field=info.metadata.get("field", ""), reason=info.reason)


def _error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    trailing = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in trailing or ():
        if key == "grpc-status-details-bin":
            return _first_info(status_pb2.Status.FromString(value))
    return None


def _first_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Is(info.DESCRIPTOR) and packed.Unpack(info):
            return info
    return None


