"""What is checked of every call before anything changes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sized
from typing import Final

from cluster.documents import JOB_ID, NAME, job_document, parse_job, parse_json
from cluster.errors import ClusterError, InvalidInputError
from cluster.jobs import MIN_STOP_AFTER_S, TECHNOLOGIES, JobSpec, OnDisconnect
from cluster.nodes import Registration
from cluster.v1 import instance_pb2
from manager.domain.model import InstanceKey

MAX_BATCH: Final = 10_000
MAX_NUMBER: Final = 2**31 - 1
MAX_PORT: Final = 65535
MAX_REQUEST_ID: Final = 128


def check_batch(items: Sized, field: str) -> None:
    """Raise InvalidInputError for more than 10,000 elements."""
    if len(items) > MAX_BATCH:
        raise InvalidInputError(f"{len(items)} {field}; at most {MAX_BATCH} in one call", field=field)


def checked_job_id(job_id: str) -> str:
    """The id, where it is one. Raises InvalidInputError."""
    if not JOB_ID.match(job_id):
        raise InvalidInputError(
            "a job id has letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128",
            field="job_id",
        )
    return job_id


def checked_rerun_id(request_id: str) -> str:
    """The id by which a wish for another run is known again. Raises InvalidInputError."""
    if not 1 <= len(request_id) <= MAX_REQUEST_ID:
        raise InvalidInputError(
            f"another run needs a request id of 1 to {MAX_REQUEST_ID} characters: the same one again starts nothing",
            field="request_id",
        )
    return request_id


def checked_key(key: instance_pb2.InstanceKey, *, minimum: int) -> InstanceKey:
    """The key, where its number is `minimum` or more. Raises InvalidInputError."""
    job_id = checked_job_id(key.job_id)
    if not minimum <= key.number <= MAX_NUMBER:
        raise InvalidInputError(f"an instance number is {minimum} to {MAX_NUMBER}", field="instance_number")
    return InstanceKey(job_id, key.number)


def checked_spec(spec: JobSpec, field: str) -> JobSpec:
    """The specification, where it can be run. Raises InvalidInputError that names the part below `field`."""
    if not NAME.match(spec.name):
        raise InvalidInputError("a job name has letters, digits, '.', '_' and '-', at most 253", field=f"{field}.name")
    if not spec.image:
        raise InvalidInputError("a job needs an image", field=f"{field}.image")
    if spec.technology not in TECHNOLOGIES:
        raise InvalidInputError(
            f"unknown technology {spec.technology!r}; use one of {', '.join(TECHNOLOGIES)}", field=f"{field}.technology"
        )
    if any(amount < 0 for amount in vars(spec.demand).values() if amount is not None):
        raise InvalidInputError("amounts must not be negative", field=f"{field}.demand")
    if spec.on_disconnect is OnDisconnect.STOP_AFTER and spec.stop_after_s < MIN_STOP_AFTER_S:
        raise InvalidInputError(
            f"stop_after_s must be at least {MIN_STOP_AFTER_S:g}: leases come too seldom for less",
            field=f"{field}.stop_after",
        )
    for name, probe in (("liveness", spec.liveness), ("readiness", spec.readiness)):
        if probe is not None and probe.command and not probe.command[0]:
            raise InvalidInputError(
                "the first word of an exec probe is its program: it must not be empty", field=f"{field}.{name}.exec"
            )
    _check_documents(spec, field)
    return spec


def _check_documents(spec: JobSpec, field: str) -> None:
    """What is saved must be readable again, and what is sent must be understood by a worker."""
    _check_object(spec.document, f"{field}.document_json")
    for position, constraint in enumerate(spec.constraints):
        _check_object(constraint.document, f"{field}.constraints.{position}.document_json")
    for position, volume in enumerate(spec.volumes):
        _check_object(volume.config, f"{field}.volumes.{position}.config_json")
    try:
        parse_job(job_document(spec))
    except ClusterError as error:
        raise InvalidInputError(error.detail, field=f"{field}.{error.field}") from None


def _check_object(text: str, field: str) -> None:
    try:
        is_object = isinstance(parse_json(text.encode()), dict)
    except ClusterError as error:
        raise InvalidInputError(f"{field} is refused: {error.detail}", field=field) from None
    if not is_object:
        raise InvalidInputError(f"{field} must be a JSON object", field=field)


def checked_registration(registration: Registration) -> Registration:
    """The registration, where it names a node that can be reached. Raises InvalidInputError."""
    field = "registration"
    if not NAME.match(registration.name):
        raise InvalidInputError(
            "a node name has letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 253",
            field=f"{field}.name",
        )
    if registration.given_id and not JOB_ID.match(registration.given_id):
        raise InvalidInputError(
            "a node id has letters, digits, '.', '_' and '-', at most 128", field=f"{field}.given_id"
        )
    if not 1 <= registration.port <= MAX_PORT:
        raise InvalidInputError(f"a port is 1 to {MAX_PORT}", field=f"{field}.port")
    if registration.ip or not registration.dialect.is_engine:
        try:
            ipaddress.ip_address(registration.ip)
        except ValueError:
            raise InvalidInputError(
                f"{registration.ip!r} is not a literal IPv4 or IPv6 address", field=f"{field}.ip"
            ) from None
    if any(amount < 0 for amount in vars(registration.capacity).values() if amount is not None):
        raise InvalidInputError("amounts must not be negative", field=f"{field}.capacity")
    return registration


def spec_at(specs: list[JobSpec], position: int) -> JobSpec:
    """The specification at a position. Raises InvalidInputError."""
    if not 0 <= position < len(specs):
        raise InvalidInputError(f"spec_index {position} names none of {len(specs)} specs", field="spec_index")
    return specs[position]
