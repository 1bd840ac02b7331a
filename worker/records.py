"""The worker's frozen records: instances, the events that happen to them, and the instructions that follow.

Times are seconds of the boot clock, which goes on while the machine sleeps and never jumps; they are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from cluster.jobs import JobSpec, Probe


@dataclass(frozen=True, order=True)
class Ref:
    """One numbered copy of a job in one generation."""

    job_id: str
    number: int
    generation: int

    @property
    def slot(self) -> tuple[str, int]:
        """What at most one generation occupies at a time."""
        return (self.job_id, self.number)

    def __str__(self) -> str:
        return f"{self.job_id}.{self.number}.{self.generation}"


class Status(StrEnum):
    """The words of a state message."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class Phase(StrEnum):
    """What the worker is doing with an instance."""

    WAITING = "waiting"  # for its predecessor to end, its back-off to pass, or a lease
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Cause(StrEnum):
    """Why an instance is being stopped."""

    NONE = ""
    DELETED = "deleted"
    REPLACED = "replaced"
    UNHEALTHY = "unhealthy"
    CUT_OFF = "cut off"
    WORKER_ENDED = "worker ended"
    HANDED_OVER = "handed over"


class Check(StrEnum):
    """The two kinds of probe."""

    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(frozen=True, kw_only=True)
class ProbeState:
    """A probe's next time and its failures in a row; `due_at` None while one is under way."""

    due_at: float | None
    failures: int = 0


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance as the worker knows it; the fields after `leased_at` are not kept over a restart of the worker.

    `failures` counts ends in a row, `restarts` how often this generation was started again; `leased_at` is the deploy's
    own time, from which `stop_after` counts at first; `wake_at` ends a back-off or a grace period. Of live moves:
    `is_live` makes the next start wait for a running guest, `incoming` is where it waits, and `handing_over_to` the
    node to which the own guest is on its way.
    """

    ref: Ref
    spec: JobSpec
    phase: Phase = Phase.WAITING
    status: Status = Status.STARTING
    detail: str = ""
    exit_code: int | None = None
    failures: int = 0
    restarts: int = 0
    has_run: bool = False
    cause: Cause = Cause.NONE
    leased_at: float | None = None
    wake_at: float | None = None
    running_since: float | None = None
    is_ready: bool = False
    liveness: ProbeState | None = None
    readiness: ProbeState | None = None
    is_live: bool = False
    incoming: str = ""
    handing_over_to: str = ""

    @property
    def is_ended(self) -> bool:
        """Nothing of it runs and nothing will."""
        return self.phase is Phase.ENDED

    def probe(self, check: Check) -> Probe | None:
        """The specification's probe of a kind."""
        return self.spec.liveness if check is Check.LIVENESS else self.spec.readiness

    def probe_state(self, check: Check) -> ProbeState | None:
        """The present state of a probe."""
        return self.liveness if check is Check.LIVENESS else self.readiness


@dataclass(frozen=True, kw_only=True)
class Exit:
    """The end of a workload. `code` None: it did not end by itself or nobody knows; `reason` in words.

    `is_moved`: its guest goes on running on another node.
    """

    code: int | None = None
    reason: str = ""
    is_outcome_known: bool = True
    is_moved: bool = False


# -- events: what happened ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeployAsked:
    """The manager wants this generation to run (`deploy` and `replicate`); `is_live`: its guest runs elsewhere.

    `leased_at` is when the heartbeat was sent that the command echoes (with `stop_after` only), on the clock of `now`.
    """

    ref: Ref
    spec: JobSpec
    is_live: bool = False
    leased_at: float | None = None


@dataclass(frozen=True)
class DeleteAsked:
    """The manager wants every generation up to this one gone."""

    ref: Ref
    spec: JobSpec


@dataclass(frozen=True)
class MoveAnnounced:
    """A successor is being made on another node; `incoming` is where it waits for the running guest, if it does."""

    ref: Ref
    target: str
    incoming: str = ""


@dataclass(frozen=True)
class Progressed:
    """A pull or a boot advanced."""

    ref: Ref
    detail: str


@dataclass(frozen=True)
class GuestAwaited:
    """The runtime waits at `incoming` for a guest that runs elsewhere."""

    ref: Ref
    incoming: str


@dataclass(frozen=True)
class GuestMissed:
    """No guest came, or it did not arrive whole; the image is booted afresh next."""

    ref: Ref
    reason: str


@dataclass(frozen=True)
class HandOverFailed:
    """The guest could not be sent to its target and runs on here."""

    ref: Ref
    reason: str


@dataclass(frozen=True)
class Started:
    """The runtime runs it; `detail` tells what was special about the start."""

    ref: Ref
    detail: str = ""


@dataclass(frozen=True)
class StartFailed:
    """The runtime could not start it. `is_final`: no further try on this node can succeed."""

    ref: Ref
    reason: str
    is_final: bool = False


@dataclass(frozen=True)
class Exited:
    """Nothing of it runs any more."""

    ref: Ref
    exit: Exit


@dataclass(frozen=True)
class Vanished:
    """After a restart of worker or machine: it does not run, and nobody knows how it ended."""

    ref: Ref
    reason: str


@dataclass(frozen=True)
class Probed:
    """A probe answered."""

    ref: Ref
    check: Check
    is_passed: bool
    detail: str = ""


@dataclass(frozen=True)
class LeaseAcknowledged:
    """The manager acknowledged a heartbeat that was sent at `at`."""

    at: float


@dataclass(frozen=True)
class StateAcknowledged:
    """The broker has this instance's state; `sequence` is that of the message, which need not be kept any more."""

    ref: Ref
    status: Status
    sequence: int = 0


@dataclass(frozen=True)
class WorkerEnded:
    """The worker ends and has ended these workloads with it: nothing of them runs."""

    refs: frozenset[Ref]


@dataclass(frozen=True)
class Ticked:
    """Time passed."""


Event: TypeAlias = (
    DeployAsked
    | DeleteAsked
    | MoveAnnounced
    | Progressed
    | GuestAwaited
    | GuestMissed
    | HandOverFailed
    | Started
    | StartFailed
    | Exited
    | Vanished
    | Probed
    | LeaseAcknowledged
    | StateAcknowledged
    | WorkerEnded
    | Ticked
)


# -- instructions: what to do; saving comes before everything else ----------------------------------------------------


@dataclass(frozen=True)
class Save:
    """Write the instance to disk."""

    instance: Instance


@dataclass(frozen=True)
class Publish:
    """Put a state message into the outbox."""

    ref: Ref
    job_name: str
    status: Status
    detail: str = ""
    exit_code: int | None = None
    incoming: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Fence:
    """Remember that generations up to this one have ended for good."""

    ref: Ref


@dataclass(frozen=True)
class Forget:
    """Remove every trace of the instance."""

    ref: Ref
    spec: JobSpec


@dataclass(frozen=True)
class Start:
    """Prepare and start it; answers Progressed, then Started or StartFailed, then Exited.

    With `is_live` it waits for a guest first; answers GuestAwaited, and GuestMissed where none came.
    """

    ref: Ref
    spec: JobSpec
    is_live: bool = False


@dataclass(frozen=True)
class HandOver:
    """Send the running guest to `incoming` on the node `target`; answers Exited with `is_moved`, or HandOverFailed."""

    ref: Ref
    spec: JobSpec
    target: str
    incoming: str


@dataclass(frozen=True)
class Stop:
    """Ask it to end, a start under way included; Exited follows."""

    ref: Ref
    spec: JobSpec


@dataclass(frozen=True)
class Kill:
    """End it at once; Exited follows."""

    ref: Ref
    spec: JobSpec


@dataclass(frozen=True)
class RunProbe:
    """Run one check; answers Probed."""

    ref: Ref
    check: Check
    probe: Probe = field(default_factory=Probe)


Instruction: TypeAlias = Save | Publish | Fence | Forget | Start | HandOver | Stop | Kill | RunProbe
