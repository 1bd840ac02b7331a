"""What an operator types for an instance, JOB or JOB/NUMBER, resolved to keys.

JOB is an id, or a name: that of the living job, else of the one that had it last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cluster.v1 import instance_pb2, manager_pb2
from clusterctl.client import Manager
from clusterctl.exits import UsageError

_OVER: Final = (instance_pb2.INSTANCE_STATE_STOPPED, instance_pb2.INSTANCE_STATE_COMPLETED)


@dataclass(frozen=True, kw_only=True)
class InstanceName:
    """A job and, where it was given, the number of one of its instances."""

    job: str
    number: int | None = None


def parse_name(text: str) -> InstanceName:
    """Split JOB/NUMBER. Raises UsageError."""
    job, slash, digits = text.partition("/")
    if not job or (slash and not digits.isdecimal()):
        raise UsageError(f"{text!r} is not a JOB or JOB/NUMBER, such as web/0")
    return InstanceName(job=job, number=int(digits) if slash else None)


def find_job(manager: Manager, job: str) -> manager_pb2.GetJobResponse:
    """The job with its instances, by id or by the name of a living job."""
    return manager.call(manager.api.GetJob, manager_pb2.GetJobRequest(job=job))


def find_instance(manager: Manager, text: str) -> instance_pb2.InstanceKey:
    """The instance that is meant; without a number the only one that the job has. Raises UsageError for several."""
    name = parse_name(text)
    found = find_job(manager, name.job)
    if name.number is not None:
        return instance_pb2.InstanceKey(job_id=found.job.id, number=name.number)
    live = [item for item in found.instances if item.state not in _OVER] or list(found.instances)
    if len(live) != 1:
        choices = ", ".join(f"{name.job}/{item.key.number}" for item in live[:10]) or "none"
        raise UsageError(f"{name.job} has {len(live)} instances; name one of them: {choices}")
    return live[0].key
