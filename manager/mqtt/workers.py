"""What a command looks like in each dialect. Pure."""

from __future__ import annotations

from cluster.jobs import OnDisconnect
from cluster.payloads import Command, write_command
from cluster.topics import Channel
from manager.domain.effects import Effect, Verb
from manager.domain.model import Node
from manager.mqtt.engines import engine_message


def command_message(node: Node, effect: Effect, cluster_id: str, *, runs_job: bool, beat: str) -> tuple[Channel, bytes]:
    """The channel and payload that tell a node to carry out an effect, in its dialect.

    A further instance of a job that the node already runs (`runs_job`) is a `replicate` of it. `beat` is the node's
    newest heartbeat. Raises WithheldError for what would crash an engine.
    """
    if node.registration.dialect.is_engine:
        return engine_message(node, effect)
    command = Command(
        command="replicate" if effect.is_replica and runs_job and effect.verb is Verb.DEPLOY else effect.verb.value,
        job_id=effect.key.job_id,
        number=effect.key.number,
        generation=effect.generation,
        spec=effect.spec,
        cluster=cluster_id,
        worker=effect.target_id,
        incoming=effect.incoming,
        beat=beat if effect.spec.on_disconnect is OnDisconnect.STOP_AFTER else "",
    )
    return Channel.CONTROLS, write_command(command)
