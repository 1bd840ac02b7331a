"""What a command looks like in each dialect. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

from cluster.documents import job_document
from cluster.payloads import Command, write_command
from cluster.topics import Channel
from manager.domain.effects import Effect, Verb
from manager.domain.model import Node

_ENGINE_INTEGERS: Final = ("vcpus", "memory", "storage", "vgpus", "vtpus")


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
