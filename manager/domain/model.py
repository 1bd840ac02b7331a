"""The manager's records: frozen, keyword-only, no IO. Times are milliseconds since 1970 unless a name says else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Any, Final, NamedTuple

from cluster.jobs import JobSpec, Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import GpuTelemetry, ResourceEntry
from manager.domain.listing import Listing
from manager.domain.tombstones import Ended, buried

KEPT_EVENTS: Final = 50
MAX_EVENTS: Final = 8


class InstanceState(StrEnum):
    """The life cycle of an instance."""

    REQUESTED = "REQUESTED"
    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    UNKNOWN = "UNKNOWN"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    LOST = "LOST"


class Role(StrEnum):
    """The part that a placement plays for its instance."""

    CURRENT = "current"
    SUCCESSOR = "successor"
    RETIRING = "retiring"


class NodeState(StrEnum):
    """What the manager knows of a node."""

    REGISTERED = "REGISTERED"
    READY = "READY"
    SUSPECT = "SUSPECT"
    DOWN = "DOWN"


class NodeKind(StrEnum):
    """What decides, beside what it has, whether a node can be placed on."""

    WORKER = "worker"
    SEED = "seed"
    MUTE = "mute"
    ENGINE_A = "engine_a"
    ENGINE_C = "engine_c"


class InstanceKey(NamedTuple):
    """Names an instance."""

    job_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.job_id}/{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One entry of the history: who (`actor`), what (`kind`, past tense), after it (`state`), why (`cause`), when.

    A record holds its last MAX_EVENTS, and their number ever as `event_count`; the store's log KEPT_EVENTS of each.
    """

    at_ms: int
    actor: str
    kind: str
    state: str
    cause: str
    node_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """An event on its way to the log: the `number`-th (from 1) of its subject, "KIND:ID" of a record or "cluster"."""

    subject: str
    number: int
    event: Event


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """How many nodes one reason ruled out."""

    reason: str
    node_count: int
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """An instance on a node: reserves `spec.demand` there until it is closed.

    `state` is SCHEDULED, STARTING, RUNNING, RESTARTING, UNKNOWN or STOPPING. `deadline_ms` bounds how long it may stay
    in it. `has_run` tells whether it was ever seen RUNNING, `is_live` whether it waits for its predecessor's running
    guest. `restarts` is how often its worker started it again.
    """

    node_id: str
    generation: int
    spec: JobSpec
    state: InstanceState
    since_ms: int
    deadline_ms: int | None = None
    has_run: bool = False
    is_live: bool = False
    restarts: int = 0


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A numbered copy of a job. `version` is that of the store's compare-and-set; the aggregate counts it up.

    `failure` is the first thing that went wrong since it last ran, `replaced_count` how often it was placed anew after
    one. `rerun_id` is the id of the last request that asked for another run.
    """

    key: InstanceKey
    spec: JobSpec
    is_desired: bool
    state: InstanceState
    detail: str = ""
    current: Placement | None = None
    successor: Placement | None = None
    retiring: Placement | None = None
    refusals: tuple[Refusal, ...] = ()
    generation: int = 0
    ended: tuple[Ended, ...] = ()
    attempts: int = 0
    failure: str = ""
    replaced_count: int = 0
    rerun_id: str = ""
    retry_at_ms: int | None = None
    exit_code: int | None = None
    is_replica: bool = False
    created_at_ms: int = 0
    updated_at_ms: int = 0
    version: int = 0
    events: tuple[Event, ...] = ()
    event_count: int = 0

    @property
    def job_name(self) -> str:
        """The job's name, which nodes call it by."""
        return self.spec.name

    @property
    def node_id(self) -> str:
        """The node of the current placement; "" without one."""
        return self.current.node_id if self.current else ""

    @property
    def restarts(self) -> int:
        """How often its worker started the present copy again, and how often it was placed anew after a failure."""
        return self.replaced_count + (self.current.restarts if self.current else 0)

    def placements(self) -> Iterator[tuple[Role, Placement]]:
        """The open placements."""
        for role, placement in (
            (Role.CURRENT, self.current),
            (Role.SUCCESSOR, self.successor),
            (Role.RETIRING, self.retiring),
        ):
            if placement is not None:
                yield role, placement

    def find(self, node_id: str, generation: int | None) -> tuple[Role, Placement] | None:
        """The open placement on a node; the newest one there where the node tells no generation."""
        found = [
            item
            for item in self.placements()
            if item[1].node_id == node_id and generation in (None, item[1].generation)
        ]
        return max(found, key=lambda item: item[1].generation) if found else None

    def with_placement(self, role: Role, placement: Placement | None) -> Instance:
        """The instance with one placement replaced or closed."""
        if role is Role.CURRENT:
            return replace(self, current=placement)
        if role is Role.SUCCESSOR:
            return replace(self, successor=placement)
        return replace(self, retiring=placement)

    def closed(self, role: Role, now_ms: int, *, is_confirmed: bool = False) -> Instance:
        """The instance with one placement closed and remembered as ended.

        `is_confirmed`: by its node's own word. Closed in any other way, its node owes that word.
        """
        placement = dict(self.placements())[role]
        ended = Ended(
            node_id=placement.node_id, generation=placement.generation, at_ms=now_ms, is_confirmed=is_confirmed
        )
        return replace(self.with_placement(role, None), ended=buried(self.ended, ended))

    def recorded(self, event: Event) -> Instance:
        """The instance with one more entry of history; of the oldest only the store's log knows."""
        return replace(self, **with_event(self, event), updated_at_ms=event.at_ms)


def with_event(record: Instance | Job | Node, event: Event) -> dict[str, Any]:
    """The fields of a record that one more event changes."""
    return {"events": (*record.events, event)[-MAX_EVENTS:], "event_count": record.event_count + 1}


class UpdatePhase(StrEnum):
    """Where a rolling update stands."""

    ROLLING = "rolling"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Update:
    """A rolling change of a job's specification from `old` to the job's own; rolling back, the other way.

    `began` holds since when each instance in progress is not healthy, by its number. Crashes before `since_ms`, when
    the update was begun or last resumed, do not count. Once it is rolled back (FAILED, `is_rolled_back`), `old` is the
    specification that was given up.
    """

    old: JobSpec
    phase: UpdatePhase
    began: tuple[tuple[int, int], ...] = ()
    since_ms: int = 0
    batch_size: int = 1
    health_deadline_ms: int = 300_000
    rollback_on_failure: bool = True
    is_rolled_back: bool = False
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Groups the instances that came with one job id; `spec` is the newest specification, `owner` who made it first.

    `is_kept`: it was scaled to no instances and lives on until it is deleted.
    """

    id: str
    spec: JobSpec
    created_at_ms: int
    owner: str = "operator"
    update: Update | None = None
    is_kept: bool = False
    version: int = 0
    events: tuple[Event, ...] = ()
    event_count: int = 0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster: what is saved of it. What it measures and when it was heard lives in `NodeLive`.

    `topic_id` is the id under which its telemetry arrives, and so where commands go; `aliases` are the given ids that
    are not ours. `sequence` counts the batches that placed something here: the fence between two leaders.
    """

    id: str
    registration: Registration
    registered_at_ms: int
    aliases: tuple[str, ...] = ()
    topic_id: str = ""
    state: NodeState = NodeState.REGISTERED
    detail: str = ""
    is_cordoned: bool = False
    has_reported: bool = False
    sequence: int = 0
    version: int = 0
    events: tuple[Event, ...] = ()
    event_count: int = 0

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.registration.name

    @property
    def kind(self) -> NodeKind:
        """Its dialect; MUTE where it is the documented one and the node never reported a state."""
        if self.registration.dialect is Dialect.SEED and not self.has_reported:
            return NodeKind.MUTE
        return NodeKind(self.registration.dialect.value)

    @property
    def capacity(self) -> Resources:
        """What it has."""
        return self.registration.capacity


@dataclass(slots=True)
class Usage:
    """What a node last measured of an instance, and its last words there.

    Changed in place: a new object for each instance of each list would keep the garbage collector busy.
    """

    cpu_percent: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    logs: str | None = None
    generation: int | None = None

    def take(self, entry: ResourceEntry) -> None:
        """A newer list has come; last words that it does not tell again are as they were, of the same copy."""
        self.cpu_percent, self.memory_bytes, self.disk_bytes = entry.cpu_percent, entry.memory_bytes, entry.disk_bytes
        if entry.logs is not None or entry.generation != self.generation:
            self.logs, self.generation = entry.logs, entry.generation


@dataclass
class NodeLive:
    """What a node last measured, and how it is judged at the moment; never saved.

    `is_suspect`: its lease ran out, or its session ended; `trouble` says why. `will_mono_s` is when a last will
    arrived, `has_left` that its worker was stopped in order. `back_mono_s` is when it was READY again after it was not,
    `told_mono_s` the last return after which it was told again what it may have missed. `late_inventories` counts those
    in a row that seem to be older than `last_sequence`. `told` is what its last inventory said (`told_by`) of instances
    that it did not change.
    """

    heartbeat_at_ms: int | None = None
    is_suspect: bool = False
    trouble: str = ""
    cpu_percent: float | None = None
    memory_percent: float | None = None
    memory_free_bytes: int | None = None
    gpus: GpuTelemetry | None = None
    beat: str = ""
    will_mono_s: float | None = None
    has_left: bool = False
    back_mono_s: float = -inf
    told_mono_s: float = -inf
    last_sequence: int = field(default=-1)
    late_inventories: int = 0
    told: dict[InstanceKey, tuple[Instance, tuple[object, ...]]] = field(default_factory=dict)
    listing: Listing = field(default_factory=Listing)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A named value that the manager keeps: the cluster's id, the root's secret key."""

    name: str
    value: str
    version: int = 0


Record = Node | Job | Instance | Setting
