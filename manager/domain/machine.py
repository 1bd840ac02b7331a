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
)
from manager.domain.model import Instance, InstanceState, Placement, Role
from manager.domain.outages import deadline_passed, node_back, node_down, node_removed
from manager.domain.policy import Policy
from manager.domain.refusals import no_node
from manager.domain.reports import observe
from manager.domain.steps import S, note, settle, stopping


class IllegalTransitionError(Exception):
    """A caller broke the rules of the life cycle; the text tells the whole story."""


def advance(instance: Instance, event: InstanceEvent, now_ms: int, policy: Policy) -> Instance:
    """The instance after the event; the same object where nothing changed. Raises IllegalTransitionError."""
    handler = TABLE[instance.state, type(event)]
    return handler(instance, event, now_ms, policy)


def wants_placement(instance: Instance) -> bool:
    """Whether a node is to be looked for: at once, at `retry_at_ms`, or (PENDING) when something changes."""
    if not instance.is_desired or instance.state not in (S.REQUESTED, S.PENDING, S.FAILED, S.LOST):
        return False
    if instance.state in (S.FAILED, S.LOST) and instance.retry_at_ms is None:
        return False
    return instance.current is None or instance.current.state is S.UNKNOWN


def _ignore(instance: Instance, event: Any, now_ms: int, policy: Policy) -> Instance:
    return instance


def _illegal(instance: Instance, event: Any, now_ms: int, policy: Policy) -> Instance:
    raise IllegalTransitionError(f"{event} cannot happen to {instance}")


# Deploy and delete


def _deploy_active(instance: Instance, event: DeployRequested, now_ms: int, policy: Policy) -> Instance:
    """Same specification: nothing to do. Another one: the old copy retires, the new one is placed."""
    if event.spec == instance.spec:
        return _remember(instance, event)
    return _restart(_retire_current(instance, now_ms), event, now_ms, "the specification changed")


def _deploy_stopping(instance: Instance, event: DeployRequested, now_ms: int, policy: Policy) -> Instance:
    return _restart(_retire_current(instance, now_ms), event, now_ms, "requested again while it was being deleted")


def _deploy_ended(instance: Instance, event: DeployRequested, now_ms: int, policy: Policy) -> Instance:
    """What was deleted starts at once. What ended by itself may be asked for again by mistake.

    A request whose answer was lost is repeated: it starts nothing that has run to its end, unless it says that another
    run is wanted and is not a repetition of the request that said so. What is to run on is tried again.
    """
    is_rerun = event.is_rerun and not _is_repeated(instance, event)
    is_same = instance.is_desired and event.spec == instance.spec
    if is_same and not is_rerun and (_runs_to_its_end(instance) or instance.current is not None):
        return instance
    why = f"{event.actor} asked for another run" if is_same and is_rerun else "requested again after it had ended"
    return _restart(_retire_current(instance, now_ms), event, now_ms, why)


def _runs_to_its_end(instance: Instance) -> bool:
    """Whether it has done its work, or runs once and has ended, well or not."""
    return instance.state is S.COMPLETED or instance.spec.runs_once


def is_run_only_by_wish(instance: Instance) -> bool:
    """Whether it ended for good and a plain repetition of its deploy starts nothing."""
    is_over = instance.is_desired and instance.state in _ENDED and instance.retry_at_ms is None
    return is_over and _runs_to_its_end(instance)


def _is_repeated(instance: Instance, event: DeployRequested) -> bool:
    return event.request_id != "" and event.request_id == instance.rerun_id


def _remember(instance: Instance, event: DeployRequested) -> Instance:
    """A wish for another run finds it running: repeated once it has ended, that wish starts nothing either."""
    if not event.is_rerun or not event.request_id or _is_repeated(instance, event):
        return instance
    return replace(instance, rerun_id=event.request_id)


def _restart(instance: Instance, event: DeployRequested, now_ms: int, cause: str) -> Instance:
    fresh = replace(
        instance,
        spec=event.spec,
        is_desired=True,
        state=S.REQUESTED,
        refusals=(),
        attempts=0,
        failure="",
        replaced_count=0,
        rerun_id=(event.is_rerun and event.request_id) or instance.rerun_id,
        retry_at_ms=None,
        exit_code=None,
    )
    return note(fresh, now_ms, event.actor, "requested", cause)


def _retire_current(instance: Instance, now_ms: int) -> Instance:
    """Current becomes retiring; a successor is dropped. An older retiring copy is left to the fence of ended ones."""
    if instance.successor:
        instance = instance.closed(Role.SUCCESSOR, now_ms)
    current = instance.current
    if current is None:
        return instance
    if instance.retiring:
        instance = instance.closed(Role.RETIRING, now_ms)
    return replace(instance, current=None, retiring=stopping(current, now_ms))


def _delete(instance: Instance, event: DeleteRequested, now_ms: int, policy: Policy) -> Instance:
    for role, placement in instance.placements():
        instance = instance.with_placement(role, stopping(placement, now_ms))
    unwanted = replace(instance, is_desired=False, state=S.STOPPING, refusals=(), retry_at_ms=None, attempts=0)
    return settle(note(unwanted, now_ms, event.actor, "deleted", "deletion was requested"), now_ms)


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
        replaced_count=instance.replaced_count + bool(instance.failure),
    )
    return note(placed, now_ms, "scheduler", "placed", event.cause or "the scheduler chose this node", event.node_id)


def _refuse(instance: Instance, event: PlanRefused, now_ms: int, policy: Policy) -> Instance:
    """The same reasons again are nothing new, whatever else is said of a node that comes near."""
    if not wants_placement(instance) or _is_known(instance, event):
        return instance
    failure = f"; before that: {instance.failure}" if instance.failure else ""
    pending = replace(instance, state=S.PENDING, refusals=event.refusals, retry_at_ms=None)
    return note(pending, now_ms, "scheduler", "refused", f"{no_node(event.refusals)}{failure}")


def _is_known(instance: Instance, event: PlanRefused) -> bool:
    counts = [(refusal.reason, refusal.node_count) for refusal in event.refusals]
    return instance.state is S.PENDING and counts == [(item.reason, item.node_count) for item in instance.refusals]


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
    return note(
        moved, now_ms, event.actor, "move_started", "the successor starts before the old copy stops", event.node_id
    )


_ACTIVE: Final = (S.REQUESTED, S.PENDING, S.SCHEDULED, S.STARTING, S.RUNNING, S.RESTARTING, S.UNKNOWN)
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
        **dict.fromkeys(product((S.RUNNING, S.RESTARTING), [MovePlanned]), _move),
        **dict.fromkeys(product(S, [Observed]), observe),
        **dict.fromkeys(product(S, [NodeWentDown]), node_down),
        **dict.fromkeys(product(S, [NodeCameBack]), node_back),
        **dict.fromkeys(product(S, [NodeWasRemoved]), node_removed),
        **dict.fromkeys(product(S, [DeadlinePassed]), deadline_passed),
    }
    return table


TABLE: Final = _table()
