"""The steps that every part of the life cycle shares: history, stopping, closing, and another try. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cluster.jobs import RestartPolicy
from manager.domain.model import Event, Instance, InstanceState, Placement, Role
from manager.domain.policy import Policy, backoff_ms

S = InstanceState
SYSTEM: Final = "manager"


def note(
    instance: Instance, now_ms: int, actor: str, kind: str, cause: str, node_id: str = "", *, detail: str | None = None
) -> Instance:
    """Append to the history; `detail` (the cause where not given) is what the operator sees beside the state."""
    event = Event(at_ms=now_ms, actor=actor, kind=kind, state=instance.state, cause=cause, node_id=node_id)
    return replace(instance.recorded(event), detail=cause if detail is None else detail)


def stopping(placement: Placement, now_ms: int) -> Placement:
    """The placement on its way out."""
    if placement.state is S.STOPPING:
        return placement
    return replace(placement, state=S.STOPPING, since_ms=now_ms, deadline_ms=None)


def settle(instance: Instance, now_ms: int) -> Instance:
    """An instance that is not wanted is STOPPED as soon as its last placement is closed."""
    if instance.state is S.STOPPING and not instance.is_desired and not any(instance.placements()):
        stopped = replace(instance, state=S.STOPPED)
        return note(stopped, now_ms, SYSTEM, "stopped", "nothing of it is left on any node")
    return instance


def drop_successor(instance: Instance, cause: str, actor: str, now_ms: int, *, is_confirmed: bool = False) -> Instance:
    """The move failed: the current copy was left as it was. `is_confirmed`: by the target's own word."""
    assert instance.successor is not None
    node_id = instance.successor.node_id
    dropped = instance.closed(Role.SUCCESSOR, now_ms, is_confirmed=is_confirmed)
    return note(dropped, now_ms, actor, "move_failed", f"{cause}; the old copy was left untouched", node_id)


def promote(instance: Instance, cause: str, now_ms: int, *, is_confirmed: bool = False) -> Instance:
    """The successor takes over at once where the old copy is gone before the hand-over, by its node's word or not."""
    successor = instance.successor
    assert successor is not None
    closed = instance.closed(Role.CURRENT, now_ms, is_confirmed=is_confirmed)
    promoted = replace(closed, current=successor, successor=None, state=successor.state)
    return note(promoted, now_ms, SYSTEM, "promoted", f"{cause}; the successor takes over", successor.node_id)


def give_up_or_retry(
    instance: Instance,
    placement: Placement,
    state: InstanceState,
    actor: str,
    cause: str,
    now_ms: int,
    policy: Policy,
    *,
    is_attempt: bool = True,
) -> Instance:
    """Try again after a back-off, unless the restart policy, the attempts or an unknown outcome forbid it.

    `is_attempt`: it ended by itself, so that this counts as one of its attempts.
    """
    spec = instance.spec
    has_lasted = placement.state is not S.RESTARTING and now_ms - placement.since_ms >= policy.stable_ms
    attempts = 0 if placement.has_run and has_lasted else instance.attempts
    attempts += is_attempt
    failure = cause if placement.has_run or not instance.failure else instance.failure
    instance = replace(instance, state=state, attempts=attempts, failure=failure, retry_at_ms=None)
    is_outcome_unknown = state is S.LOST or instance.exit_code is None
    if placement.has_run and (spec.restart_policy is RestartPolicy.NEVER or (spec.one_shot and is_outcome_unknown)):
        why = "the outcome is unknown and it is not run again" if is_outcome_unknown else "it is not run again"
        return note(instance, now_ms, actor, state.lower(), f"{cause}; {why}", placement.node_id)
    if spec.max_attempts and attempts >= spec.max_attempts:
        cause = f"{cause}; given up after {attempts} attempts"
        return note(instance, now_ms, actor, state.lower(), cause, placement.node_id)
    wait_ms = backoff_ms(attempts, policy.retry_base_ms, policy.retry_cap_ms, str(instance.key))
    instance = replace(instance, retry_at_ms=now_ms + wait_ms)
    attempt = f" (attempt {attempts})" if is_attempt else ""
    cause = f"{cause}; placed again in {wait_ms / 1000:.1f} s{attempt}"
    return note(instance, now_ms, actor, state.lower(), cause, placement.node_id)
