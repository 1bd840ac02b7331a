"""Our states in the words of each generation of roots.

Sources: section 6 of the contract of the deployed ecosystem (the words, and what a root does with an unknown one) and
its section 12.2 (R3 refuses a job whose status it does not know).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manager.domain.model import Instance, InstanceState
from manager.domain.roots import Era

S = InstanceState
NO_CAPACITY: Final = "NO_WORKER_CAPACITY"
NO_QUALIFIED: Final = "NO_QUALIFIED_WORKER_FOUND"
R3_WORDS: Final = frozenset(
    {
        *("REQUESTED", "CLUSTER_SCHEDULED", "NODE_SCHEDULED", "CREATING", "CREATED", "RUNNING", "0", "1"),
        *("FAILED", "DEAD", "COMPLETED", "UNDEPLOYED", NO_CAPACITY, NO_QUALIFIED, "NO_NODE_FOUND"),
        *("TargetClusterNotFound", "TargetClusterNotActive", "TargetClusterNoCapacity", "NoActiveClusterWithCapacity"),
    }
)
R1_WORDS: Final = R3_WORDS | {"ACTIVE"}


@dataclass(frozen=True, kw_only=True)
class Words:
    """One state in the words of each era."""

    r1: str
    r2: str
    r3: str

    def of(self, era: Era) -> str:
        """The word of an era; one that is not decided yet is R2 or R3, and R2's words are known to both."""
        return {Era.R1: self.r1, Era.R3: self.r3}.get(era, self.r2)


def _same(word: str) -> Words:
    return Words(r1=word, r2=word, r3=word)


# One line for each state: a new state needs one here, and where its words are new, a place in _FURTHEST.
WORDS: Final[dict[InstanceState, Words]] = {
    S.REQUESTED: _same("CLUSTER_SCHEDULED"),
    S.PENDING: _same(NO_CAPACITY),
    S.SCHEDULED: _same("NODE_SCHEDULED"),
    # ACTIVE is unknown to late R2 roots and CREATED to early ones: what both know is one step behind.
    S.STARTING: Words(r1="ACTIVE", r2="NODE_SCHEDULED", r3="CREATED"),
    # No root has a word for what ended and is started again: its detail says what it ended of.
    S.RESTARTING: Words(r1="ACTIVE", r2="NODE_SCHEDULED", r3="CREATED"),
    S.RUNNING: _same("RUNNING"),
    S.UNKNOWN: _same("NODE_SCHEDULED"),
    S.STOPPING: _same("UNDEPLOYED"),
    S.STOPPED: _same("UNDEPLOYED"),
    S.COMPLETED: _same("COMPLETED"),
    S.FAILED: _same("FAILED"),
    S.LOST: _same("DEAD"),
}
# What more or other machines of the same kind would cure.
_CAPACITY: Final = frozenset(
    {"cpu", "memory", "storage", "gpu", "ready", "cordoned", "excluded", "taken", "older_copy"}
)
# The job's word is that of the instance furthest from RUNNING: the first of these that one has.
_FURTHEST: Final = (
    *("FAILED", "DEAD", NO_CAPACITY, NO_QUALIFIED),
    *("CLUSTER_SCHEDULED", "NODE_SCHEDULED", "ACTIVE", "CREATED", "RUNNING", "COMPLETED"),
)
NOTHING_LEFT: Final = "UNDEPLOYED"
RANKED: Final = frozenset({*_FURTHEST, NOTHING_LEFT})


def status_word(instance: Instance, era: Era) -> str:
    """The word for an instance; a node that is down leaves it at its last good word."""
    state = instance.state
    if state is S.UNKNOWN and instance.current and instance.current.has_run:
        state = S.RUNNING
    if state is S.PENDING and era is Era.R3 and _is_unqualified(instance):
        return NO_QUALIFIED
    return WORDS[state].of(era)


def _is_unqualified(instance: Instance) -> bool:
    """Whether every node was ruled out by what it is, not by how much it has left."""
    reasons = {refusal.reason for refusal in instance.refusals}
    return bool(reasons) and reasons.isdisjoint(_CAPACITY)


def job_word(words: Iterable[str]) -> str:
    """The word for a job: RUNNING only where all that has not ended runs."""
    found = set(words)
    return next((word for word in _FURTHEST if word in found), NOTHING_LEFT)
