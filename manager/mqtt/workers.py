"""Between the life cycle's words and each dialect's: what a node's report means, what a command looks like. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

from cluster.documents import job_document
from cluster.errors import InvalidInputError
from cluster.payloads import Command, ResourceEntry, StateReport, write_command
from cluster.topics import Channel
from manager.domain.effects import Effect, Verb
from manager.domain.events import Observed, Seen
from manager.domain.model import Node

_SEEN: Final = {
    "INSTANTIATION": Seen.STARTING,
    "CREATING": Seen.STARTING,
    "STARTING": Seen.STARTING,
    "CREATED": Seen.RUNNING,
    "ACTIVE": Seen.RUNNING,
    "RUNNING": Seen.RUNNING,
    "STOPPED": Seen.STOPPED,
    "UNDEPLOYED": Seen.STOPPED,
    "DEAD": Seen.DEAD,
    "COMPLETED": Seen.COMPLETED,
    "FAILED": Seen.FAILED,
}
_ENGINE_INTEGERS: Final = ("vcpus", "memory", "storage", "vgpus", "vtpus")


def seen_of(status: str) -> Seen:
    """The meaning of a node's status word. Raises InvalidInputError for one that nobody uses."""
    seen = _SEEN.get(status)
    if seen is None:
        raise InvalidInputError(f"unknown status {status[:40]!r}", field="status")
    return seen


def observed(node: Node, report: StateReport | ResourceEntry) -> Observed:
    """A report as an event of the life cycle. An entry of a list without a status means that it runs."""
    return Observed(
        node_id=node.id,
        generation=report.generation,
        seen=seen_of(report.status or "RUNNING"),
        actor=f"worker:{node.name}",
        detail=report.detail,
        exit_code=report.exit_code,
    )


def command_message(node: Node, effect: Effect, cluster_id: str, *, runs_job: bool) -> tuple[Channel, bytes]:
    """The channel and payload that tell a node to carry out an effect, in its dialect.

    A further instance of a job that the node already runs (`runs_job`) is a `replicate` of it.
    """
    if node.registration.dialect.is_engine:
        return _engine_message(effect)
    command = Command(
        command="replicate" if effect.is_replica and runs_job and effect.verb is Verb.DEPLOY else effect.verb.value,
        job_id=effect.key.job_id,
        number=effect.key.number,
        generation=effect.generation,
        spec=effect.spec,
        cluster=cluster_id,
        worker=effect.target_id,
    )
    return Channel.CONTROLS, write_command(command)


def _engine_message(effect: Effect) -> tuple[Channel, bytes]:
    spec, number = effect.spec, effect.key.number
    if effect.verb is Verb.DELETE:
        body: dict[str, Any] = {
            "job_name": spec.name,
            "virtualization": spec.technology,
            "instance_number": number,
        }
        return Channel.CONTROL_DELETE, orjson.dumps(body)
    body = job_document(spec)
    body.update({key: -int(-body[key] // 1) for key in _ENGINE_INTEGERS if isinstance(body.get(key), int | float)})
    body.update(_id=effect.key.job_id, job_name=spec.name, virtualization=spec.technology, instance_number=number)
    return Channel.CONTROL_DEPLOY, orjson.dumps(body)
