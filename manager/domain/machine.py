"""The life cycle of an instance as a pure function: `advance(instance, event, now_ms, policy)` gives the next instance.

One table holds every (state, event). Nothing here sends anything: what must be sent follows from the saved instance
(`effects.py`). A placement's states only move forward within its generation, UNKNOWN and RUNNING aside; reports about a
placement that is not open change nothing here (the aggregate fences them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, Final, get_args

from cluster.jobs import OnDisconnect, RestartPolicy
from manager.domain.events import (
    DeadlinePassed,
    DeleteRequested,
    DeployRequested,
    InstanceEvent,
    MovePlanned,
    NodeCameBack,
    NodeWasRemoved,
    NodeWentDown,
    Observed,
    Planned,
    PlanRefused,
    Seen,
)
from manager.domain.model import Event, Instance, InstanceState, Placement, Role
from manager.domain.policy import Policy, backoff_ms
from manager.domain.refusals import no_node

S = InstanceState
_FORWARD: Final = {S.SCHEDULED: 0, S.STARTING: 1, S.UNKNOWN: 2, S.RUNNING: 3, S.STOPPING: 4}
SYSTEM: Final = "manager"
_REPORTS: Final = {
    Seen.STARTING: "its worker reports that it starts",
    Seen.RUNNING: "its worker reports that it runs",
    Seen.STOPPED: "its worker reports that it was stopped",
    Seen.DEAD: "its worker reports that it ended",
    Seen.COMPLETED: "its worker reports that it has done its work",
    Seen.FAILED: "its worker reports that it failed",
    Seen.ABSENT: "its worker does not have it",
}


class IllegalTransitionError(Exception):
    """A caller broke the rules of the life cycle; the text tells the whole story."""


def advance(instance: Instance, event: InstanceEvent, now_ms: int, policy: Policy) -> Instance:
    """The instance after the event; the same object where nothing changed. Raises IllegalTransitionError."""
    handler = TABLE[instance.state, type(event)]
    return handler(instance, event, now_ms, policy)


def wants_placement(instance: Instance) -> bool:
    """Whether a node is to be looked for, now or at `retry_at_ms`."""
    if not instance.is_desired or instance.state not in (S.REQUESTED, S.PENDING, S.FAILED, S.LOST):
        return False
    if instance.state in (S.FAILED, S.LOST) and instance.retry_at_ms is None:
        return False
    return instance.current is None or instance.current.state is S.UNKNOWN


def _note(
    instance: Instance, now_ms: int, actor: str, kind: str, cause: str, node_id: str = "", *, detail: str | None = None
) -> Instance:
    """Append to the history; `detail` (the cause where not given) is what the operator sees beside the state."""
    event = Event(at_ms=now_ms, actor=actor, kind=kind, state=instance.state, cause=cause, node_id=node_id)
    return replace(instance.recorded(event), detail=cause if detail is None else detail)


def _ignore(instance: Instance, event: Any, now_ms: int, policy: Policy) -> Instance:
    return instance


def _illegal(instance: Instance, event: Any, now_ms: int, policy: Policy) -> Instance:
    raise IllegalTransitionError(f"{event} cannot happen to {instance}")


# Deploy and delete


def _deploy_active(instance: Instance, event: DeployRequested, now_ms: int, policy: Policy) -> Instance:
    """Same specification: nothing to do. Another one: the old copy retires, the new one is placed."""
    if event.spec == instance.spec:
        return instance
    return _restart(_retire_current(instance, now_ms), event, now_ms, "the specification changed")


def _deploy_stopping(instance: Instance, event: DeployRequested, now_ms: int, policy: Policy) -> Instance:
    return _restart(_retire_current(instance, now_ms), event, now_ms, "requested again while it was being deleted")


def _deploy_ended(instance: Instance, event: DeployRequested, now_ms: int, policy: Policy) -> Instance:
    return _restart(_retire_current(instance, now_ms), event, now_ms, "requested again after it had ended")


def _restart(instance: Instance, event: DeployRequested, now_ms: int, cause: str) -> Instance:
    fresh = replace(
        instance,
        spec=event.spec,
        is_desired=True,
        state=S.REQUESTED,
        refusals=(),
        attempts=0,
        retry_at_ms=None,
        exit_code=None,
    )
    return _note(fresh, now_ms, event.actor, "requested", cause)


def _retire_current(instance: Instance, now_ms: int) -> Instance:
    """Current becomes retiring; a successor is dropped. An older retiring copy is left to the fence of ended ones."""
    if instance.successor:
        instance = instance.closed(Role.SUCCESSOR, now_ms)
    current = instance.current
    if current is None:
        return instance
    if instance.retiring:
        instance = instance.closed(Role.RETIRING, now_ms)
    return replace(instance, current=None, retiring=_stopping(current, now_ms))


def _stopping(placement: Placement, now_ms: int) -> Placement:
    if placement.state is S.STOPPING:
        return placement
    return replace(placement, state=S.STOPPING, since_ms=now_ms, deadline_ms=None)


def _delete(instance: Instance, event: DeleteRequested, now_ms: int, policy: Policy) -> Instance:
    for role, placement in instance.placements():
        instance = instance.with_placement(role, _stopping(placement, now_ms))
    stopping = replace(instance, is_desired=False, state=S.STOPPING, refusals=(), retry_at_ms=None, attempts=0)
    return _settle(_note(stopping, now_ms, event.actor, "deleted", "deletion was requested"), now_ms)


def _settle(instance: Instance, now_ms: int) -> Instance:
    """An instance that is not wanted is STOPPED as soon as its last placement is closed."""
    if instance.state is S.STOPPING and not instance.is_desired and not any(instance.placements()):
        stopped = replace(instance, state=S.STOPPED)
        return _note(stopped, now_ms, SYSTEM, "stopped", "nothing of it is left on any node")
    return instance


# Placing


def _plan(instance: Instance, event: Planned, now_ms: int, policy: Policy) -> Instance:
    if not wants_placement(instance):
        return instance
    if instance.current:
        instance = instance.closed(Role.CURRENT, now_ms)
    placement = Placement(
        node_id=event.node_id,
        generation=event.generation,
        spec=instance.spec,
        state=S.SCHEDULED,
        since_ms=now_ms,
        deadline_ms=event.deadline_ms,
    )
    placed = replace(
        instance,
        current=placement,
        generation=event.generation,
        state=S.SCHEDULED,
        refusals=(),
        retry_at_ms=None,
    )
    return _note(placed, now_ms, "scheduler", "placed", event.cause or "the scheduler chose this node", event.node_id)


def _refuse(instance: Instance, event: PlanRefused, now_ms: int, policy: Policy) -> Instance:
    if not wants_placement(instance):
        return instance
    cause = no_node(event.refusals)
    pending = replace(instance, state=S.PENDING, refusals=event.refusals, retry_at_ms=event.retry_at_ms)
    if instance.state is S.PENDING and instance.detail == cause:
        return pending
    return _note(pending, now_ms, "scheduler", "refused", cause)


def _move(instance: Instance, event: MovePlanned, now_ms: int, policy: Policy) -> Instance:
    if instance.successor or instance.current is None:
        raise IllegalTransitionError(f"{event} cannot happen to {instance}")
    successor = Placement(
        node_id=event.node_id,
        generation=event.generation,
        spec=instance.spec,
        state=S.SCHEDULED,
        since_ms=now_ms,
        deadline_ms=event.deadline_ms,
        is_live=event.is_live,
    )
    moved = replace(instance, successor=successor, generation=event.generation)
    return _note(
        moved, now_ms, event.actor, "move_started", "the successor starts before the old copy stops", event.node_id
    )


# What nodes tell


def _observe(instance: Instance, event: Observed, now_ms: int, policy: Policy) -> Instance:
    found = instance.find(event.node_id, event.generation)
    if found is None:
        return instance
    role, placement = found
    if placement.state is S.STOPPING:
        return _observe_stopping(instance, role, event, now_ms)
    if event.seen.is_end:
        if role is Role.SUCCESSOR:
            return _drop_successor(
                instance, f"the successor ended: {event.detail or _REPORTS[event.seen]}", event.actor, now_ms
            )
        return _end_current(instance, event, now_ms, policy)
    return _observe_alive(instance, role, placement, event, now_ms, policy)


def _observe_stopping(instance: Instance, role: Role, event: Observed, now_ms: int) -> Instance:
    if not event.seen.is_end:
        return instance
    closed = replace(instance.closed(role, now_ms), exit_code=event.exit_code)
    cause = event.detail or _REPORTS[event.seen]
    noted = _note(closed, now_ms, event.actor, "closed", cause, event.node_id, detail=closed.detail)
    return _settle(noted, now_ms)


def _observe_alive(
    instance: Instance, role: Role, placement: Placement, event: Observed, now_ms: int, policy: Policy
) -> Instance:
    state = S.RUNNING if event.seen is Seen.RUNNING else S.STARTING
    if _FORWARD[state] < _FORWARD[placement.state] and placement.state is not S.UNKNOWN:
        return instance
    if state is placement.state:
        return _extend(instance, role, placement, event, now_ms, policy)
    had_deadline = placement.deadline_ms is not None or placement.state is S.UNKNOWN
    deadline = now_ms + policy.start_deadline_ms if state is S.STARTING and had_deadline else None
    has_run = placement.has_run or state is S.RUNNING
    seen = replace(placement, state=state, since_ms=now_ms, deadline_ms=deadline, has_run=has_run)
    instance = instance.with_placement(role, seen)
    if role is Role.SUCCESSOR:
        return _observe_successor(instance, state, event, now_ms)
    instance = replace(instance, state=state, retry_at_ms=None, refusals=())
    kind = "running" if state is S.RUNNING else "starting"
    return _note(instance, now_ms, event.actor, kind, event.detail or _REPORTS[event.seen], event.node_id)


def _extend(
    instance: Instance, role: Role, placement: Placement, event: Observed, now_ms: int, policy: Policy
) -> Instance:
    """A repeated STARTING is progress and extends the deadline, saved at most once in a while; anything else is old."""
    if placement.state is not S.STARTING or placement.deadline_ms is None:
        return instance
    deadline = now_ms + policy.start_deadline_ms
    if deadline - placement.deadline_ms < policy.start_deadline_ms // 20:
        return instance
    return instance.with_placement(role, replace(placement, deadline_ms=deadline))


def _observe_successor(instance: Instance, state: InstanceState, event: Observed, now_ms: int) -> Instance:
    if state is not S.RUNNING:
        return _note(
            instance, now_ms, event.actor, "successor_starting", event.detail or _REPORTS[event.seen], event.node_id
        )
    if instance.retiring:
        instance = instance.closed(Role.RETIRING, now_ms)
    old = instance.current
    handed = replace(
        instance,
        current=instance.successor,
        successor=None,
        retiring=_stopping(old, now_ms) if old else None,
        state=S.RUNNING,
    )
    cause = "the successor runs; the old copy stops"
    return _note(handed, now_ms, event.actor, "moved", cause, event.node_id, detail="it was moved and runs")


def _drop_successor(instance: Instance, cause: str, actor: str, now_ms: int) -> Instance:
    assert instance.successor is not None
    node_id = instance.successor.node_id
    dropped = instance.closed(Role.SUCCESSOR, now_ms)
    return _note(dropped, now_ms, actor, "move_failed", f"{cause}; the old copy was left untouched", node_id)


def _promote(instance: Instance, cause: str, now_ms: int) -> Instance:
    """The successor takes over at once where the old copy is gone before the hand-over."""
    successor = instance.successor
    assert successor is not None
    closed = instance.closed(Role.CURRENT, now_ms)
    promoted = replace(closed, current=successor, successor=None, state=successor.state)
    return _note(promoted, now_ms, SYSTEM, "promoted", f"{cause}; the successor takes over", successor.node_id)


def _end_current(instance: Instance, event: Observed, now_ms: int, policy: Policy) -> Instance:
    """The current copy ended by itself: COMPLETED, or FAILED or LOST with or without another try."""
    placement = instance.current
    assert placement is not None
    if instance.successor:
        why = f": {event.detail}" if event.detail else ""
        return _promote(instance, f"the old copy ended during the move{why}", now_ms)
    ended = replace(instance.closed(Role.CURRENT, now_ms), exit_code=event.exit_code)
    cause = event.detail or _REPORTS[event.seen]
    if _is_success(instance, event):
        done = replace(ended, state=S.COMPLETED, retry_at_ms=None, attempts=0)
        return _note(done, now_ms, event.actor, "completed", cause, event.node_id)
    if _has_used_its_attempts(placement, event):
        given_up = replace(ended, state=S.FAILED, retry_at_ms=None, attempts=placement.spec.max_attempts)
        return _note(given_up, now_ms, event.actor, "failed", cause, event.node_id)
    state = S.LOST if event.seen in (Seen.ABSENT, Seen.STOPPED) else S.FAILED
    return _give_up_or_retry(ended, placement, state, event.actor, cause, now_ms, policy)


def _has_used_its_attempts(placement: Placement, event: Observed) -> bool:
    """A worker of ours gives up what has run only after the last of its attempts; none is left for another node."""
    return event.has_given_up and placement.has_run and placement.spec.max_attempts > 0


def _is_success(instance: Instance, event: Observed) -> bool:
    if event.seen is Seen.COMPLETED or (event.seen is Seen.DEAD and event.exit_code == 0):
        return instance.spec.restart_policy is not RestartPolicy.ALWAYS
    return False


def _give_up_or_retry(
    instance: Instance, placement: Placement, state: InstanceState, actor: str, cause: str, now_ms: int, policy: Policy
) -> Instance:
    spec = instance.spec
    was_stable = placement.has_run and now_ms - placement.since_ms >= policy.stable_ms
    attempts = 1 if was_stable else instance.attempts + 1
    instance = replace(instance, state=state, attempts=attempts, retry_at_ms=None)
    is_outcome_unknown = state is S.LOST or instance.exit_code is None
    if placement.has_run and (spec.restart_policy is RestartPolicy.NEVER or (spec.one_shot and is_outcome_unknown)):
        why = "the outcome is unknown and it is not run again" if is_outcome_unknown else "it is not run again"
        return _note(instance, now_ms, actor, state.lower(), f"{cause}; {why}", placement.node_id)
    if spec.max_attempts and attempts >= spec.max_attempts:
        cause = f"{cause}; given up after {attempts} attempts"
        return _note(instance, now_ms, actor, state.lower(), cause, placement.node_id)
    wait_ms = backoff_ms(attempts, policy.retry_base_ms, policy.retry_cap_ms, str(instance.key))
    instance = replace(instance, retry_at_ms=now_ms + wait_ms)
    cause = f"{cause}; placed again in {wait_ms / 1000:.1f} s (attempt {attempts})"
    return _note(instance, now_ms, actor, state.lower(), cause, placement.node_id)


# Nodes that go and come


def _node_down(instance: Instance, event: NodeWentDown, now_ms: int, policy: Policy) -> Instance:
    """What is being stopped there is closed: the fence deletes it should the node come back."""
    for role, placement in tuple(instance.placements()):
        if placement.node_id != event.node_id:
            continue
        if placement.state is S.STOPPING:
            instance = instance.closed(role, now_ms)
        elif role is Role.SUCCESSOR:
            instance = _drop_successor(instance, f"the target went down ({event.cause})", SYSTEM, now_ms)
        elif placement.state is not S.UNKNOWN:
            instance = _lose_sight(instance, placement, event.cause, now_ms)
    return _settle(instance, now_ms)


def _lose_sight(instance: Instance, placement: Placement, cause: str, now_ms: int) -> Instance:
    spec = instance.spec
    if instance.successor:
        return _promote(instance, "the source went down during the move", now_ms)
    deadline = None
    is_single_run = spec.one_shot or spec.restart_policy is RestartPolicy.NEVER
    if spec.on_disconnect is OnDisconnect.STOP_AFTER and not is_single_run:
        deadline = now_ms + int(spec.stop_after_s * 1000 + spec.stop_grace_s * 1000)
    blind = replace(placement, state=S.UNKNOWN, since_ms=now_ms, deadline_ms=deadline)
    unknown = replace(instance, current=blind, state=S.UNKNOWN)
    unknown = _note(unknown, now_ms, SYSTEM, "unknown", f"its node is not heard: {cause}", placement.node_id)
    if spec.on_disconnect is not OnDisconnect.REPLACE or is_single_run:
        return unknown
    return _lose(unknown, "it is replaced (on_disconnect replace)", now_ms)


def _lose(instance: Instance, cause: str, now_ms: int) -> Instance:
    """LOST, and placed again at once; the placement stays open until then, so that a node back in time keeps it."""
    lost = replace(instance, state=S.LOST, retry_at_ms=now_ms)
    return _note(lost, now_ms, SYSTEM, "lost", cause, instance.node_id)


def _node_back(instance: Instance, event: NodeCameBack, now_ms: int, policy: Policy) -> Instance:
    current = instance.current
    if current is None or current.node_id != event.node_id or current.state is not S.UNKNOWN:
        return instance
    state = S.RUNNING if current.has_run else S.SCHEDULED
    deadline = None if current.has_run else event.deadline_ms
    seen = replace(current, state=state, since_ms=now_ms, deadline_ms=deadline)
    back = replace(instance, current=seen, state=state, retry_at_ms=None, refusals=())
    return _note(back, now_ms, SYSTEM, state.lower(), "its node is heard again", event.node_id)


def _node_removed(instance: Instance, event: NodeWasRemoved, now_ms: int, policy: Policy) -> Instance:
    for role, placement in tuple(instance.placements()):
        if placement.node_id != event.node_id:
            continue
        instance = instance.closed(role, now_ms)
        if role is Role.CURRENT and instance.is_desired:
            state = S.LOST
            instance = _give_up_or_retry(
                instance, placement, state, event.actor, "its node was removed", now_ms, policy
            )
    return _settle(instance, now_ms)


# Deadlines


def _deadline(instance: Instance, event: DeadlinePassed, now_ms: int, policy: Policy) -> Instance:
    for role, placement in tuple(instance.placements()):
        if placement.deadline_ms is None or placement.deadline_ms > now_ms:
            continue
        instance = _miss(instance, role, placement, now_ms, policy)
    return _settle(instance, now_ms)


def _miss(instance: Instance, role: Role, placement: Placement, now_ms: int, policy: Policy) -> Instance:
    if placement.state is S.STOPPING:
        return instance.closed(role, now_ms)
    if role is Role.SUCCESSOR:
        return _drop_successor(instance, "the successor missed its deadline", SYSTEM, now_ms)
    if placement.state is S.UNKNOWN:
        waiting = replace(placement, deadline_ms=None)
        return _lose(
            replace(instance, current=waiting), "its node has stopped it by now (on_disconnect stop_after)", now_ms
        )
    cause = f"its worker left it {placement.state} for too long"
    closed = instance.closed(Role.CURRENT, now_ms)
    failed = _give_up_or_retry(closed, placement, S.FAILED, SYSTEM, cause, now_ms, policy)
    return _after_own_stop(failed, now_ms)


def _after_own_stop(instance: Instance, now_ms: int) -> Instance:
    """A copy that may run unseen stops itself by `stop_after`: its replacement waits for that."""
    spec = instance.spec
    if instance.retry_at_ms is None or spec.on_disconnect is not OnDisconnect.STOP_AFTER:
        return instance
    stopped_at_ms = now_ms + int((spec.stop_after_s + spec.stop_grace_s) * 1000)
    return replace(instance, retry_at_ms=max(instance.retry_at_ms, stopped_at_ms))


_ACTIVE: Final = (S.REQUESTED, S.PENDING, S.SCHEDULED, S.STARTING, S.RUNNING, S.UNKNOWN)
_ENDED: Final = (S.STOPPED, S.COMPLETED, S.FAILED, S.LOST)
_EVENTS: Final[tuple[type, ...]] = get_args(InstanceEvent)
Handler = Callable[[Instance, Any, int, Policy], Instance]


def _table() -> dict[tuple[InstanceState, type], Handler]:
    table: dict[tuple[InstanceState, type], Handler] = {
        **dict.fromkeys(product(_ACTIVE, [DeployRequested]), _deploy_active),
        (S.STOPPING, DeployRequested): _deploy_stopping,
        **dict.fromkeys(product(_ENDED, [DeployRequested]), _deploy_ended),
        **dict.fromkeys(product(S, [DeleteRequested]), _delete),
        (S.STOPPING, DeleteRequested): _ignore,
        (S.STOPPED, DeleteRequested): _ignore,
        **dict.fromkeys(product(S, [Planned]), _plan),
        **dict.fromkeys(product(S, [PlanRefused]), _refuse),
        **dict.fromkeys(product(S, [MovePlanned]), _illegal),
        (S.RUNNING, MovePlanned): _move,
        **dict.fromkeys(product(S, [Observed]), _observe),
        **dict.fromkeys(product(S, [NodeWentDown]), _node_down),
        **dict.fromkeys(product(S, [NodeCameBack]), _node_back),
        **dict.fromkeys(product(S, [NodeWasRemoved]), _node_removed),
        **dict.fromkeys(product(S, [DeadlinePassed]), _deadline),
    }
    return table


TABLE: Final = _table()
