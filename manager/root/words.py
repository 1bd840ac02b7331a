"""Our states in the words of each generation of roots.

Sources: section 6 of the contract of the deployed ecosystem (the words, and what a root does with an unknown one) and
its section 12.2 (R3 refuses a job whose status it does not know).
"""

from __future__ import annotations

from collections.abc import Iterable
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
_COMMON: Final = {
    S.REQUESTED: "CLUSTER_SCHEDULED",
    S.PENDING: NO_CAPACITY,
    S.SCHEDULED: "NODE_SCHEDULED",
    S.RUNNING: "RUNNING",
    S.STOPPING: "UNDEPLOYED",
    S.STOPPED: "UNDEPLOYED",
    S.COMPLETED: "COMPLETED",
    S.FAILED: "FAILED",
    S.LOST: "DEAD",
}
# ACTIVE is unknown to late R2 roots and CREATED to early ones: what both know is one step behind.
_STARTING: Final = {Era.R1: "ACTIVE", Era.R2: "NODE_SCHEDULED", Era.R3: "CREATED"}
# What more or other machines of the same kind would cure.
_CAPACITY: Final = frozenset(
    {"cpu", "memory", "storage", "gpu", "ready", "cordoned", "excluded", "taken", "older_copy"}
)
# The job's word is that of the instance furthest from RUNNING: the first of these that one has.
_FURTHEST: Final = (
    *("FAILED", "DEAD", NO_CAPACITY, NO_QUALIFIED),
    *("CLUSTER_SCHEDULED", "NODE_SCHEDULED", "ACTIVE", "CREATED", "RUNNING"),
)


def status_word(instance: Instance, era: Era) -> str:
    """The word for an instance; a node that is down leaves it at its last good word.

    No root has a word for what ends and is started again: it starts, and its detail says what it ended of.
    """
    state = instance.state
    if state is S.UNKNOWN:
        state = S.RUNNING if instance.current and instance.current.has_run else S.SCHEDULED
    if state in (S.STARTING, S.RESTARTING):
        return _STARTING[era]
    if state is S.PENDING and era is Era.R3 and _is_unqualified(instance):
        return NO_QUALIFIED
    return _COMMON[state]


def _is_unqualified(instance: Instance) -> bool:
    """Whether every node was ruled out by what it is, not by how much it has left."""
    reasons = {refusal.reason for refusal in instance.refusals}
    return bool(reasons) and reasons.isdisjoint(_CAPACITY)


def job_word(words: Iterable[str]) -> str:
    """The word for a job: RUNNING only where all that has not ended runs."""
    found = set(words)
    for word in _FURTHEST:
        if word in found:
            return word
    return "COMPLETED" if "COMPLETED" in found else "UNDEPLOYED"
