"""What can happen to an instance, in the past tense. `actor` and `cause` go into the history."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.jobs import JobSpec
from manager.domain.model import Refusal


class Seen(StrEnum):
    """What a node says of a placement, whatever its dialect calls it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    DEAD = "dead"
    COMPLETED = "completed"
    FAILED = "failed"
    ABSENT = "absent"

    @property
    def is_end(self) -> bool:
        """Whether the placement no longer holds anything on its node."""
        return self not in (Seen.STARTING, Seen.RUNNING)


@dataclass(frozen=True, kw_only=True)
class DeployRequested:
    """Somebody wants the instance to run this specification.

    `is_rerun`: what has ended is to run again, unless the request `request_id` asked for that before ("": it did not).
    """

    actor: str
    spec: JobSpec
    is_rerun: bool = False
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class DeleteRequested:
    """Somebody wants the instance to be gone."""

    actor: str


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A node was found and re-checked; `deadline_ms` is when its first answer is due (None: whenever)."""

    node_id: str
    generation: int
    deadline_ms: int | None
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class PlanRefused:
    """No node was found; it is looked for again when something changes for the better."""

    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, kw_only=True)
class MovePlanned:
    """A node for the successor was found and re-checked; `is_live` asks for a hand-over of the running guest."""

    actor: str
    node_id: str
    generation: int
    deadline_ms: int | None
    is_live: bool = False


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A node told of a placement; `generation` None from nodes that tell none.

    `has_given_up`: the node itself starts what fails again, and this was the last of its attempts. `is_news`: nothing
    that this worker told was later, so that its words hold now. `restarts` is how often it started this copy again,
    None from nodes that do not count. `is_assumed`: the node did not say so; an end is concluded from its silence.
    """

    node_id: str
    generation: int | None
    seen: Seen
    actor: str
    detail: str = ""
    exit_code: int | None = None
    has_given_up: bool = False
    is_news: bool = False
    restarts: int | None = None
    is_assumed: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeWentDown:
    """A node is lost, as far as is known: whatever its job says for that case happens now."""

    node_id: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class NodeCameBack:
    """A node is heard again; `deadline_ms` is when its word about what is there is due (None: whenever).

    `is_mute`: it tells nothing about what is there. What ran there is then taken to run still, and what never ran, as
    far as is known, is told anew. Of others nothing is placed anew until they have told.
    """

    node_id: str
    deadline_ms: int | None = None
    is_mute: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeWasRemoved:
    """The operator gave a node up for good."""

    node_id: str
    actor: str


@dataclass(frozen=True, kw_only=True)
class DeadlinePassed:
    """The deadline of at least one placement passed."""


InstanceEvent = (
    DeployRequested
    | DeleteRequested
    | Planned
    | PlanRefused
    | MovePlanned
    | Observed
    | NodeWentDown
    | NodeCameBack
    | NodeWasRemoved
    | DeadlinePassed
)
