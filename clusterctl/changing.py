"""Requests that change the cluster, one call for each command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.convert import spec_to_proto
from cluster.v1 import instance_pb2, job_pb2, manager_pb2
from clusterctl.client import ACTOR, Manager, request_id
from clusterctl.jobfile import WantedJob
from clusterctl.names import find_job, parse_name

_BATCH_TIMEOUT_S = 120.0
Instances = list[instance_pb2.Instance]


def deploy(manager: Manager, jobs: Sequence[WantedJob]) -> Instances:
    """All instances of all jobs in one call."""
    request = manager_pb2.DeployInstancesRequest(request_id=request_id(), actor=ACTOR)
    for index, job in enumerate(jobs):
        request.specs.append(spec_to_proto(job.spec))
        for number in range(job.replicas):
            request.deployments.add(key={"job_id": job.job_id, "number": number}, spec_index=index)
    return list(manager.call(manager.api.DeployInstances, request, _BATCH_TIMEOUT_S).instances)


def delete(manager: Manager, names: Iterable[str]) -> Instances:
    """The instances that are being stopped; JOB means all of the job, JOB/NUMBER one."""
    keys = []
    for text in names:
        name = parse_name(text)
        job_id = find_job(manager, name.job).job.id
        keys.append(instance_pb2.InstanceKey(job_id=job_id, number=-1 if name.number is None else name.number))
    request = manager_pb2.DeleteInstancesRequest(request_id=request_id(), actor=ACTOR, keys=keys)
    return list(manager.call(manager.api.DeleteInstances, request, _BATCH_TIMEOUT_S).instances)


def move(manager: Manager, key: instance_pb2.InstanceKey, source: str, target: str) -> instance_pb2.Instance:
    """The instance with its successor."""
    request = manager_pb2.MoveInstanceRequest(
        request_id=request_id(),
        actor=ACTOR,
        job_id=key.job_id,
        instance_number=key.number,
        source_node=source,
        target_node=target,
    )
    return manager.call(manager.api.MoveInstance, request).instance


def scale(manager: Manager, job: str, count: int) -> Instances:
    """The instances that the job should have now."""
    request = manager_pb2.ReplicateJobRequest(
        request_id=request_id(), actor=ACTOR, job_id=find_job(manager, job).job.id, instance_count=count
    )
    return list(manager.call(manager.api.ReplicateJob, request, _BATCH_TIMEOUT_S).instances)


def update(manager: Manager, job: str, wanted: WantedJob, strategy: job_pb2.UpdateStrategy) -> job_pb2.Job:
    """The job with the rolling update that was begun."""
    request = manager_pb2.UpdateJobRequest(
        request_id=request_id(),
        actor=ACTOR,
        job_id=find_job(manager, job).job.id,
        spec=spec_to_proto(wanted.spec),
        strategy=strategy,
    )
    return manager.call(manager.api.UpdateJob, request).job


def control_update(manager: Manager, job: str, control: manager_pb2.UpdateControl.ValueType) -> job_pb2.Job:
    """The job whose update was paused, resumed or rolled back."""
    request = manager_pb2.ControlUpdateRequest(
        request_id=request_id(), actor=ACTOR, job_id=find_job(manager, job).job.id, control=control
    )
    return manager.call(manager.api.ControlUpdate, request).job
