"""Errors over gRPC: `google.rpc.Status` with `ErrorInfo` on the way out, the same error tree on the way in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from cluster.errors import KINDS, ClusterError, kind_of

DOMAIN: Final = "cluster.v1"
_BY_CODE: Final = {grpc.StatusCode[kind.code]: kind for kind in KINDS.values()}


def to_status(error: ClusterError) -> status_pb2.Status:
    """`google.rpc.Status` with an `ErrorInfo` (reason, domain, metadata `field`)."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={"field": error.field} if error.field else {}
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    code = int(grpc.StatusCode[kind_of(error).code].value[0])
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
    for key, value in cast("Iterable[tuple[str, bytes]]", trailing or ()):
        if key == "grpc-status-details-bin":
            return _first_info(status_pb2.Status.FromString(value))
    return None


def _first_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Is(info.DESCRIPTOR) and packed.Unpack(info):
            return info
    return None
