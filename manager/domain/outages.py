"""Nodes that go, come back or are given up, and deadlines that pass, as transitions of an instance. Pure."""

from __future__ import annotations

from dataclasses import replace

from cluster.jobs import OnDisconnect, RestartPolicy
from manager.domain.events import (
    DeadlinePassed,
    NodeCameBack,
    NodeWasRemoved,
    NodeWentDown,
)
from manager.domain.model import Instance, Placement, Role
from manager.domain.policy import Policy
from manager.domain.steps import SYSTEM, S, drop_successor, give_up_or_retry, note, promote, settle


def node_down(instance: Instance, event: NodeWentDown, now_ms: int, policy: Policy) -> Instance:
    """What is being stopped there is closed: the fence deletes it should the node come back."""
    for role, placement in tuple(instance.placements()):
        if placement.node_id != event.node_id:
            continue
        if placement.state is S.STOPPING:
            instance = instance.closed(role, now_ms)
        elif role is Role.SUCCESSOR:
            instance = drop_successor(instance, f"the target went down ({event.cause})", SYSTEM, now_ms)
        elif placement.state is not S.UNKNOWN:
            instance = _lose_sight(instance, placement, event.cause, now_ms)
    return settle(instance, now_ms)


def _lose_sight(instance: Instance, placement: Placement, cause: str, now_ms: int) -> Instance:
    spec = instance.spec
    if instance.successor:
        return promote(instance, "the source went down during the move", now_ms)
    deadline = None
    is_single_run = _is_single_run(instance)
    if spec.on_disconnect is OnDisconnect.STOP_AFTER and not is_single_run:
        deadline = now_ms + int(spec.stop_after_s * 1000 + spec.stop_grace_s * 1000)
    blind = replace(placement, state=S.UNKNOWN, since_ms=now_ms, deadline_ms=deadline)
    unknown = replace(instance, current=blind, state=S.UNKNOWN)
    unknown = note(unknown, now_ms, SYSTEM, "unknown", f"its node is not heard: {cause}", placement.node_id)
    if spec.on_disconnect is not OnDisconnect.REPLACE or is_single_run:
        return unknown
    return _lose(unknown, "it is replaced (on_disconnect replace)", now_ms)


def _lose(instance: Instance, cause: str, now_ms: int) -> Instance:
    """LOST, and placed again at once; the placement stays open until then, so that a node back in time keeps it."""
    lost = replace(instance, state=S.LOST, retry_at_ms=now_ms, failure=instance.failure or instance.detail)
    return note(lost, now_ms, SYSTEM, "lost", cause, instance.node_id)


def node_back(instance: Instance, event: NodeCameBack, now_ms: int, policy: Policy) -> Instance:
    """A node is heard again: what was there is not placed elsewhere any more, until the node has told of it."""
    current = instance.current
    if current is None or current.node_id != event.node_id or current.state is not S.UNKNOWN:
        return instance
    if event.is_mute:
        return _taken_to_run(instance, current, event, now_ms)
    waiting = replace(current, deadline_ms=event.deadline_ms)
    back = replace(instance, current=waiting, state=S.UNKNOWN, retry_at_ms=None, refusals=())
    return note(back, now_ms, SYSTEM, "unknown", "its node is heard again and tells soon what is there", event.node_id)


def _taken_to_run(instance: Instance, current: Placement, event: NodeCameBack, now_ms: int) -> Instance:
    state = S.RUNNING if current.has_run else S.SCHEDULED
    deadline = None if current.has_run else event.deadline_ms
    seen = replace(current, state=state, since_ms=now_ms, deadline_ms=deadline)
    back = replace(instance, current=seen, state=state, retry_at_ms=None, refusals=(), failure="")
    return note(back, now_ms, SYSTEM, state.lower(), "its node is heard again", event.node_id)


def node_removed(instance: Instance, event: NodeWasRemoved, now_ms: int, policy: Policy) -> Instance:
    """What was on a node that is given up for good is closed, and what is wanted placed anew."""
    for role, placement in tuple(instance.placements()):
        if placement.node_id != event.node_id:
            continue
        if role is Role.CURRENT and instance.successor:
            instance = promote(instance, "the source was removed during the move", now_ms)
            continue
        instance = instance.closed(role, now_ms)
        if role is Role.CURRENT and instance.is_desired:
            state = S.LOST
            instance = give_up_or_retry(instance, placement, state, event.actor, "its node was removed", now_ms, policy)
    return settle(instance, now_ms)


def deadline_passed(instance: Instance, event: DeadlinePassed, now_ms: int, policy: Policy) -> Instance:
    """Whatever stayed in its state beyond its deadline fails, is dropped, closed or replaced."""
    for role, placement in tuple(instance.placements()):
        if placement.deadline_ms is None or placement.deadline_ms > now_ms:
            continue
        instance = _miss(instance, role, placement, now_ms, policy)
    return settle(instance, now_ms)


def _miss(instance: Instance, role: Role, placement: Placement, now_ms: int, policy: Policy) -> Instance:
    if placement.state is S.STOPPING:
        return instance.closed(role, now_ms)
    if role is Role.SUCCESSOR:
        return drop_successor(instance, "the successor missed its deadline", SYSTEM, now_ms)
    if placement.state is S.UNKNOWN:
        return _give_up_unknown(instance, placement, now_ms, policy)
    cause = f"its worker left it {placement.state} for too long"
    closed = instance.closed(Role.CURRENT, now_ms)
    failed = give_up_or_retry(closed, placement, S.FAILED, SYSTEM, cause, now_ms, policy)
    return _after_own_stop(failed, now_ms)


def _give_up_unknown(instance: Instance, placement: Placement, now_ms: int, policy: Policy) -> Instance:
    """Its node stopped it by itself by now, or is heard again and never told of it."""
    is_stopped = instance.spec.on_disconnect is OnDisconnect.STOP_AFTER
    cause = (
        "its node has stopped it by now (on_disconnect stop_after)" if is_stopped else "its node does not tell of it"
    )
    if _is_single_run(instance):
        closed = instance.closed(Role.CURRENT, now_ms)
        return give_up_or_retry(closed, placement, S.LOST, SYSTEM, cause, now_ms, policy)
    return _lose(replace(instance, current=replace(placement, deadline_ms=None)), cause, now_ms)


def _is_single_run(instance: Instance) -> bool:
    return instance.spec.one_shot or instance.spec.restart_policy is RestartPolicy.NEVER


def _after_own_stop(instance: Instance, now_ms: int) -> Instance:
    """A copy that may run unseen stops itself by `stop_after`: its replacement waits for that."""
    spec = instance.spec
    if instance.retry_at_ms is None or spec.on_disconnect is not OnDisconnect.STOP_AFTER:
        return instance
    stopped_at_ms = now_ms + int((spec.stop_after_s + spec.stop_grace_s) * 1000)
    return replace(instance, retry_at_ms=max(instance.retry_at_ms, stopped_at_ms))
