"""The calls that take in, or end, what runs on a node and is not known here."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc

from cluster.convert import spec_from_proto
from cluster.documents import parse_job
from cluster.errors import ClusterError, ConflictError, InvalidInputError, NotFoundError
from cluster.jobs import JobSpec
from cluster.nodes import Dialect
from cluster.payloads import ResourceEntry
from cluster.process import LOG
from cluster.v1 import manager_pb2 as pb
from cluster.v1 import manager_pb2_grpc
from manager import worker_client
from manager.core import Core
from manager.domain import orphans
from manager.domain.model import Instance, InstanceKey, Node, NodeState
from manager.rpc.checks import checked_job_id, checked_spec
from manager.rpc.reading import Reader

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OrphanServicer(manager_pb2_grpc.ManagerServiceServicer):
    """The orphans' part of ManagerService."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = Reader(core)

    async def AdoptOrphans(self, request: pb.AdoptOrphansRequest, context: Context) -> pb.AdoptOrphansResponse:
        """Make copies that run on a node unknown instances of this cluster, without restarting them."""
        given = checked_spec(spec_from_proto(request.spec), "spec") if request.HasField("spec") else None
        node, number = self._ready_node(request.node), _number(request)
        found = self._find(node, request.job_name, number)
        if not found:
            known = orphans.already_adopted(self._core.state, node, request.job_name, number)
            return pb.AdoptOrphansResponse(instances=self._shown(known or _no_orphan(node, request.job_name, number)))
        told = await self._specifications(node, found, given)
        self._core.require_store()
        adopted = self._adopt(node, self._find(node, request.job_name, number), request, told)
        await self._core.saved()
        self._forget(node, found)
        LOG.info("orphans adopted", node_id=node.id, instances=[str(item.key) for item in adopted])
        return pb.AdoptOrphansResponse(instances=self._shown(adopted))

    async def DeleteOrphans(self, request: pb.DeleteOrphansRequest, context: Context) -> pb.DeleteOrphansResponse:
        """End copies that run on a node unknown; the order is repeated until the node confirms it."""
        state, number = self._core.state, _number(request)
        node = state.get_node(request.node)
        self._core.require_store()
        found = self._find(node, request.job_name, number)
        if not found:
            known = orphans.already_ended(state, node, request.job_name, number)
            return pb.DeleteOrphansResponse(instances=self._shown(known or _no_orphan(node, request.job_name, number)))
        for entry in found:
            orphans.check_free(state, orphans.ending_key(node, entry))
        actor = request.actor or "operator"
        ended = [orphans.end(state, node, entry, actor, self._core.now_ms()) for entry in found]
        await self._core.saved()
        self._forget(node, found)
        LOG.info("orphans are being deleted", node_id=node.id, instances=[str(item.key) for item in ended])
        return pb.DeleteOrphansResponse(instances=self._shown(ended))

    def _ready_node(self, reference: str) -> Node:
        node = self._core.state.get_node(reference)
        if node.state is not NodeState.READY:
            raise ConflictError(
                f"node {node.name} is {node.state}: what runs there is not known now; wait until it is heard again",
                field="node",
            )
        return node

    def _find(self, node: Node, job_name: str, number: int | None) -> list[ResourceEntry]:
        held = self._core.orphans.get(node.id, {})
        return [held[name] for name in sorted(held) if name[0] == job_name and number in (None, name[1])]

    def _forget(self, node: Node, found: Iterable[ResourceEntry]) -> None:
        held = self._core.orphans.get(node.id, {})
        for entry in found:
            held.pop((entry.job_name, entry.number), None)

    def _shown(self, instances: Iterable[Instance]) -> list[Any]:
        state = self._core.state
        return [self._reader.instance(state.instances.get(item.key, item)) for item in instances]

    async def _specifications(
        self, node: Node, found: Iterable[ResourceEntry], given: JobSpec | None
    ) -> dict[int, JobSpec]:
        """What was given, else what the worker says that it runs, by number; a worker that is away is asked once."""
        if given is not None:
            return {entry.number: given for entry in found}
        told: dict[int, JobSpec] = {}
        if node.registration.dialect is not Dialect.WORKER:
            return told
        address = worker_client.host_port(node.registration.ip, node.registration.port)
        try:
            for entry in found:
                document, generation = await worker_client.fetch_job(address, entry.job_id, entry.number)
                if generation == entry.generation:
                    told[entry.number] = parse_job(document)
        except ClusterError as error:
            LOG.info("worker does not tell what it runs", node_id=node.id, reason=error.detail)
        return told

    def _adopt(
        self,
        node: Node,
        found: Iterable[ResourceEntry],
        request: pb.AdoptOrphansRequest,
        told: dict[int, JobSpec],
    ) -> list[Instance]:
        """All or none: whatever stands in the way of one is said before anything is changed."""
        state, fresh_id = self._core.state, secrets.token_hex(12)
        wanted = [(entry, *self._job_of(entry, request.job_id, told.get(entry.number), fresh_id)) for entry in found]
        for entry, job_id, spec in wanted:
            orphans.check_fits(entry, spec)
            orphans.check_free(state, InstanceKey(job_id, entry.number))
        actor = request.actor or "operator"
        return [
            orphans.adopt(state, node, entry, InstanceKey(job_id, entry.number), spec, actor, self._core.now_ms())
            for entry, job_id, spec in wanted
        ]

    def _job_of(self, entry: ResourceEntry, job_id: str, told: JobSpec | None, fresh_id: str) -> tuple[str, JobSpec]:
        """The job that it is an instance of, and its specification. Raises InvalidInputError or NotFoundError."""
        if job_id and checked_job_id(job_id) and entry.job_id not in ("", job_id):
            raise InvalidInputError(
                f"{entry.job_name}/{entry.number} belongs to job {entry.job_id}, not to {job_id}", field="job_id"
            )
        wanted_id = entry.job_id or job_id or self._living_job(entry.job_name) or fresh_id
        job = self._core.state.jobs.get(wanted_id)
        spec = told or (job.spec if job else None)
        if spec is None:
            raise NotFoundError(
                f"this cluster knows no job {entry.job_id or entry.job_name!r}: give the document of what runs there",
                field="spec",
            )
        return wanted_id, spec

    def _living_job(self, name: str) -> str:
        try:
            job = self._core.state.find_job(name)
        except NotFoundError:
            return ""
        return job.id if self._core.state.is_living(job.id) else ""


def _number(request: pb.AdoptOrphansRequest | pb.DeleteOrphansRequest) -> int | None:
    if not request.job_name:
        raise InvalidInputError("name the orphan as its node does", field="job_name")
    return request.instance_number if request.HasField("instance_number") else None


def _no_orphan(node: Node, job_name: str, number: int | None) -> list[Instance]:
    name = job_name if number is None else f"{job_name}/{number}"
    raise NotFoundError(f"node {node.name} runs no orphan {name}: see its list of orphans", field="job_name")
