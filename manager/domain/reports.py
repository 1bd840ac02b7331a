"""What nodes tell of a placement, as transitions of its instance. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from cluster.jobs import RestartPolicy
from manager.domain.events import (
    Observed,
    Seen,
)
from manager.domain.model import Instance, InstanceState, Placement, Role
from manager.domain.policy import Policy
from manager.domain.steps import S, drop_successor, give_up_or_retry, note, promote, settle, stopping

_FORWARD: Final = {S.SCHEDULED: 0, S.STARTING: 1, S.UNKNOWN: 2, S.RUNNING: 3, S.RESTARTING: 3, S.STOPPING: 4}
_KINDS: Final = {S.RUNNING: "running", S.RESTARTING: "restarting", S.STARTING: "starting"}
# Our worker's words: what ended a copy and when it is tried again, and those of an attempt that tell no cause.
_NEXT_TRY: Final = "; next try in "
_ATTEMPT: Final = re.compile(r"try \d+|starting|started; not ready yet")
_REPORTS: Final = {
    Seen.STARTING: "its worker reports that it starts",
    Seen.RUNNING: "its worker reports that it runs",
    Seen.STOPPED: "its worker reports that it was stopped",
    Seen.DEAD: "its worker reports that it ended",
    Seen.COMPLETED: "its worker reports that it has done its work",
    Seen.FAILED: "its worker reports that it failed",
    Seen.ABSENT: "its worker does not have it",
}


def observe(instance: Instance, event: Observed, now_ms: int, policy: Policy) -> Instance:
    """A report about an open placement; one about anything else changes nothing here."""
    found = instance.find(event.node_id, event.generation)
    if found is None:
        return instance
    role, placement = found
    if placement.state is S.STOPPING:
        return _observe_stopping(instance, role, event, now_ms)
    if event.seen.is_end:
        if role is Role.SUCCESSOR:
            cause = f"the successor ended: {event.detail or _REPORTS[event.seen]}"
            return drop_successor(instance, cause, event.actor, now_ms, is_confirmed=not event.is_assumed)
        return _end_current(instance, event, now_ms, policy)
    return _observe_alive(instance, role, placement, event, now_ms, policy)


def found_again(instance: Instance, event: Observed, now_ms: int, policy: Policy) -> Instance:
    """What was taken for gone is alive on its node, in its last generation, and counts there again."""
    placement = Placement(
        node_id=event.node_id,
        generation=instance.generation,
        spec=instance.spec,
        state=S.UNKNOWN,
        since_ms=now_ms,
    )
    here = (event.node_id, instance.generation)
    ended = tuple(item for item in instance.ended if (item.node_id, item.generation) != here)
    return observe(replace(instance, current=placement, ended=ended), event, now_ms, policy)


def _observe_stopping(instance: Instance, role: Role, event: Observed, now_ms: int) -> Instance:
    if not event.seen.is_end:
        return instance
    closed = instance.closed(role, now_ms, is_confirmed=not event.is_assumed)
    closed = replace(closed, exit_code=event.exit_code)
    cause = event.detail or _REPORTS[event.seen]
    noted = note(closed, now_ms, event.actor, "closed", cause, event.node_id, detail=closed.detail)
    return settle(noted, now_ms)


def _observe_alive(
    instance: Instance, role: Role, placement: Placement, event: Observed, now_ms: int, policy: Policy
) -> Instance:
    state = _alive_state(placement, event)
    if not _is_forward(placement.state, state, event):
        return _listen(instance, role, event, now_ms)
    counted = replace(placement, restarts=_restarts(placement, state, event))
    if state is not placement.state:
        return _enter(instance, role, counted, state, event, now_ms, policy)
    if counted != placement:
        instance = instance.with_placement(role, counted)
    return _listen(_extend(instance, role, counted, event, now_ms, policy), role, event, now_ms)


def _alive_state(placement: Placement, event: Observed) -> InstanceState:
    """STARTING of what has run means that it ended and is being started again, where its worker says so now."""
    if event.seen is Seen.RUNNING:
        return S.RUNNING
    return S.RESTARTING if placement.has_run and event.is_news else S.STARTING


def _is_forward(before: InstanceState, after: InstanceState, event: Observed) -> bool:
    """Whether a report tells something that is not known to be over; RUNNING and RESTARTING follow each other."""
    if before is S.RESTARTING and after is S.RUNNING:
        return event.is_news
    return before is S.UNKNOWN or _FORWARD[after] >= _FORWARD[before]


def _restarts(placement: Placement, state: InstanceState, event: Observed) -> int:
    """What the worker counts; of one that does not count, how often it was seen to start this copy again."""
    if event.restarts is not None:
        return event.restarts if event.is_news else placement.restarts
    return placement.restarts + (state is S.RESTARTING and placement.state is not S.RESTARTING)


def _enter(
    instance: Instance,
    role: Role,
    placement: Placement,
    state: InstanceState,
    event: Observed,
    now_ms: int,
    policy: Policy,
) -> Instance:
    """The placement is in another state now, and with the current one its instance."""
    had_deadline = placement.deadline_ms is not None or placement.state is S.UNKNOWN
    deadline = now_ms + policy.start_deadline_ms if state is S.STARTING and had_deadline else None
    has_run = placement.has_run or state is S.RUNNING
    seen = replace(placement, state=state, since_ms=now_ms, deadline_ms=deadline, has_run=has_run)
    instance = instance.with_placement(role, seen)
    if role is Role.SUCCESSOR:
        return _observe_successor(instance, state, event, now_ms)
    failure = "" if state is S.RUNNING else instance.failure
    instance = replace(instance, state=state, retry_at_ms=None, refusals=(), failure=failure)
    return note(instance, now_ms, event.actor, _KINDS[state], event.detail or _REPORTS[event.seen], event.node_id)


def _listen(instance: Instance, role: Role, event: Observed, now_ms: int) -> Instance:
    """What the worker says of the current copy while its state stays: how far it is, that it is not ready.

    While it starts only the latest words are kept, for they may be the progress of a download; while it is started
    again, what it ended of is not lost to the next attempt; once it runs all of them are kept.
    """
    if role is not Role.CURRENT or instance.successor or not event.is_news:
        return instance
    words = event.detail or _REPORTS[event.seen]
    if instance.state is S.STARTING:
        return instance if instance.detail == words else replace(instance, detail=words)
    if instance.state is S.RESTARTING:
        return _listen_again(instance, words, event, now_ms)
    last = next((item for item in reversed(instance.events) if item.actor == event.actor), None)
    is_well = event.seen is Seen.RUNNING and not event.detail
    if last is None or last.cause == words or (is_well and last.kind != "told"):
        return instance
    return note(instance, now_ms, event.actor, "running" if is_well else "told", words, event.node_id)


def _listen_again(instance: Instance, words: str, event: Observed, now_ms: int) -> Instance:
    if instance.detail == words or _ATTEMPT.fullmatch(words):
        return instance
    if _NEXT_TRY not in words:
        return replace(instance, detail=words)
    return note(instance, now_ms, event.actor, "restarting", words, event.node_id)


def _extend(
    instance: Instance, role: Role, placement: Placement, event: Observed, now_ms: int, policy: Policy
) -> Instance:
    """A repeated STARTING is progress and extends the deadline, saved at most once in a while; anything else is old.

    A worker of ours tells how far it is: the same words again are no progress.
    """
    if placement.state is not S.STARTING or placement.deadline_ms is None:
        return instance
    if event.is_news and role is Role.CURRENT and event.detail == instance.detail:
        return instance
    deadline = now_ms + policy.start_deadline_ms
    if deadline - placement.deadline_ms < policy.start_deadline_ms // 20:
        return instance
    return instance.with_placement(role, replace(placement, deadline_ms=deadline))


def _observe_successor(instance: Instance, state: InstanceState, event: Observed, now_ms: int) -> Instance:
    if state is not S.RUNNING:
        return note(
            instance, now_ms, event.actor, "successor_starting", event.detail or _REPORTS[event.seen], event.node_id
        )
    if instance.retiring:
        instance = instance.closed(Role.RETIRING, now_ms)
    old = instance.current
    handed = replace(
        instance,
        current=instance.successor,
        successor=None,
        retiring=stopping(old, now_ms) if old else None,
        state=S.RUNNING,
    )
    cause = "the successor runs; the old copy stops"
    return note(handed, now_ms, event.actor, "moved", cause, event.node_id, detail="it was moved and runs")


def _end_current(instance: Instance, event: Observed, now_ms: int, policy: Policy) -> Instance:
    """The current copy ended by itself: COMPLETED, or FAILED or LOST with or without another try."""
    placement = instance.current
    assert placement is not None
    if instance.successor:
        why = f": {event.detail}" if event.detail else ""
        cause = f"the old copy ended during the move{why}"
        return promote(instance, cause, now_ms, is_confirmed=not event.is_assumed)
    ended = instance.closed(Role.CURRENT, now_ms, is_confirmed=not event.is_assumed)
    ended = replace(ended, exit_code=event.exit_code)
    cause = event.detail or _REPORTS[event.seen]
    if _is_success(instance, event):
        done = replace(ended, state=S.COMPLETED, retry_at_ms=None, attempts=0)
        return note(done, now_ms, event.actor, "completed", cause, event.node_id)
    if _has_used_its_attempts(placement, event):
        given_up = replace(ended, state=S.FAILED, retry_at_ms=None, attempts=placement.spec.max_attempts)
        return note(given_up, now_ms, event.actor, "failed", cause, event.node_id)
    state = S.LOST if event.seen in (Seen.ABSENT, Seen.STOPPED) else S.FAILED
    was_stopped = event.seen is Seen.STOPPED and placement.has_run  # with its worker, or by somebody on that machine
    return give_up_or_retry(ended, placement, state, event.actor, cause, now_ms, policy, is_attempt=not was_stopped)


def _has_used_its_attempts(placement: Placement, event: Observed) -> bool:
    """A worker of ours gives up what has run only after the last of its attempts; none is left for another node."""
    return event.has_given_up and placement.has_run and placement.spec.max_attempts > 0


def _is_success(instance: Instance, event: Observed) -> bool:
    if event.seen is Seen.COMPLETED or (event.seen is Seen.DEAD and event.exit_code == 0):
        return instance.spec.restart_policy is not RestartPolicy.ALWAYS
    return False
