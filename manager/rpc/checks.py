"""What is checked of every call before anything changes."""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

from cluster.documents import JOB_ID, NAME
from cluster.errors import InvalidInputError
from cluster.jobs import MIN_STOP_AFTER_S, TECHNOLOGIES, JobSpec, OnDisconnect
from cluster.v1 import instance_pb2
from manager.domain.model import InstanceKey

MAX_BATCH: Final = 10_000
MAX_NUMBER: Final = 2**31 - 1
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
    return spec


def spec_at(specs: list[JobSpec], position: int) -> JobSpec:
    """The specification at a position. Raises InvalidInputError."""
    if not 0 <= position < len(specs):
        raise InvalidInputError(f"spec_index {position} names none of {len(specs)} specs", field="spec_index")
    return specs[position]
