"""What is known of the root above this cluster, and the guard over workloads that it no longer knows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property


class Era(StrEnum):
    """A generation of roots, by the messages that it speaks; UNDECIDED is R2 or R3, which register alike."""

    R1 = "r1"
    R2 = "r2"
    R3 = "r3"
    UNDECIDED = "undecided"


class Route(StrEnum):
    """The set of routes by which an order of a root came."""

    NONE = ""
    DEPLOY = "deploy"
    SERVICE = "service"


class LinkState(StrEnum):
    """How the cluster stands with its root; STAND_ALONE where none is configured."""

    STAND_ALONE = "stand-alone"
    NEVER = "never"
    HANDSHAKING = "handshaking"
    ATTACHED = "attached"
    LOST = "lost"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The link at one moment. `cluster_id` is the id that the root gave; `detail` says what is the matter."""

    state: LinkState = LinkState.STAND_ALONE
    address: str = ""
    era: Era | None = None
    cluster_id: str = ""
    detail: str = ""
    last_report_at_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Job ids that a root which lost its database does not know.

    `guarded` wait for the operator; of these `held` were ordered deleted; `kept` are the operator's own from now on.
    """

    guarded: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()

    @cached_property
    def unknown_to_root(self) -> frozenset[str]:
        """The jobs that the root showed not to know: it is told nothing of them."""
        return self.held | self.kept

    @cached_property
    def protected(self) -> frozenset[str]:
        """The jobs that an order of the root to delete all of them does not reach."""
        return self.guarded | self.kept

    def armed(self, job_ids: Iterable[str]) -> Guard:
        """The guard after the root was found to have lost what it knew."""
        return replace(self, guarded=self.guarded | frozenset(job_ids), held=frozenset())

    def holding(self, job_id: str) -> Guard:
        """The guard after the root ordered a guarded job deleted."""
        return replace(self, held=self.held | {job_id})

    def without(self, job_ids: Collection[str]) -> Guard:
        """The guard after the root showed that it knows these jobs."""
        known = frozenset(job_ids)
        return Guard(guarded=self.guarded - known, held=self.held - known, kept=self.kept - known)

    def keeping(self) -> Guard:
        """The guard after the operator decided to keep what is guarded."""
        return Guard(kept=self.kept | self.guarded)

    def released(self) -> Guard:
        """The guard after the operator confirmed the deletes."""
        return Guard(kept=self.kept)
