"""What must be sent follows from what is saved: the commands that an instance's open placements call for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.jobs import JobSpec
from cluster.payloads import ANY_SOURCE
from manager.domain.model import Instance, InstanceKey, InstanceState


class Verb(StrEnum):
    """What a node is told to do."""

    DEPLOY = "deploy"
    DELETE = "delete"
    MOVE = "move"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A command that is due until the node confirms it; `target_id` is where a move goes (advice to the source).

    `incoming` belongs to live moves, as in `cluster.payloads.Command`.
    """

    verb: Verb
    key: InstanceKey
    node_id: str
    generation: int
    spec: JobSpec
    is_replica: bool = False
    target_id: str = ""
    incoming: str = ""

    @property
    def identity(self) -> tuple[Verb, InstanceKey, int]:
        """What makes two of them the same command."""
        return (self.verb, self.key, self.generation)


def effects_of(instance: Instance) -> list[Effect]:
    """Deploy what no node has confirmed yet, delete what is being stopped."""
    verbs = {InstanceState.SCHEDULED: Verb.DEPLOY, InstanceState.STOPPING: Verb.DELETE}
    return [
        Effect(
            verb=verb,
            key=instance.key,
            node_id=p.node_id,
            generation=p.generation,
            spec=p.spec,
            is_replica=instance.is_replica,
            incoming=ANY_SOURCE if p.is_live else "",
        )
        for _, p in instance.placements()
        if (verb := verbs.get(p.state)) is not None
    ]
