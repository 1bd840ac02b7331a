"""Requests about what runs on a node and is not known to the cluster."""

from __future__ import annotations

from cluster.convert import spec_to_proto
from cluster.v1 import instance_pb2, manager_pb2
from clusterctl.client import ACTOR, Manager, request_id
from clusterctl.exits import UsageError
from clusterctl.jobfile import read_documents, wanted_jobs

Instances = list[instance_pb2.Instance]


def adopt(manager: Manager, node: str, job_name: str, number: int | None, *, file: str, job_id: str) -> Instances:
    """The instances that the orphans have become."""
    request = manager_pb2.AdoptOrphansRequest(
        request_id=request_id(), actor=ACTOR, node=node, job_name=job_name, instance_number=number, job_id=job_id
    )
    if file:
        documents = read_documents(file)
        if len(documents) != 1:
            raise UsageError(f"{file} holds {len(documents)} documents; what runs there has one")
        [wanted] = wanted_jobs(documents, job_id=job_id)
        request.spec.CopyFrom(spec_to_proto(wanted.spec))
        if documents[0].get("_id", "") != "":
            request.job_id = wanted.job_id
    return list(manager.call(manager.api.AdoptOrphans, request).instances)


def delete(manager: Manager, node: str, job_name: str, number: int | None) -> Instances:
    """The instances that are being stopped."""
    request = manager_pb2.DeleteOrphansRequest(
        request_id=request_id(), actor=ACTOR, node=node, job_name=job_name, instance_number=number
    )
    return list(manager.call(manager.api.DeleteOrphans, request).instances)
