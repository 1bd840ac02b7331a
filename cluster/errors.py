"""The error tree, and the one table that ties a reason to its gRPC code and its HTTP status.

A reason is a stable word for programs; `detail` is for people and says what was wrong, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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
    """What a reason is on the wire; `code` is the name of a grpc.StatusCode."""

    error: type[ClusterError]
    code: str
    http_status: int
    title: str


KINDS: Final = {
    kind.error.reason: kind
    for kind in (
        ErrorKind(InvalidInputError, "INVALID_ARGUMENT", 400, "Invalid input"),
        ErrorKind(TooLargeError, "OUT_OF_RANGE", 413, "Too large"),
        ErrorKind(NotFoundError, "NOT_FOUND", 404, "Not found"),
        ErrorKind(AlreadyExistsError, "ALREADY_EXISTS", 409, "Already exists"),
        ErrorKind(ConflictError, "FAILED_PRECONDITION", 409, "Conflict"),
        ErrorKind(StaleWriteError, "ABORTED", 409, "Stale write"),
        ErrorKind(UnavailableError, "UNAVAILABLE", 503, "Unavailable"),
        ErrorKind(DeadlineError, "DEADLINE_EXCEEDED", 504, "Deadline exceeded"),
        ErrorKind(ClusterError, "INTERNAL", 500, "Internal error"),
    )
}


def kind_of(error: ClusterError) -> ErrorKind:
    """The row of the table for an error, by its class: a reason may be narrower than its class's."""
    return KINDS[type(error).reason]
