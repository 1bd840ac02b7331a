"""Why an instance is where it is, or why it is pending, in plain words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Final

from cluster.v1 import scheduler_pb2
from manager.domain.engines import ENGINE_REASONS
from manager.domain.leases import Hold
from manager.domain.machine import is_run_only_by_wish
from manager.domain.model import Instance, InstanceState
from manager.domain.refusals import phrase

S = InstanceState
_ANSWERS: Final = {S.SCHEDULED: "Its node must answer", S.STARTING: "It must run, or get on,"}
_WAITING: Final = (S.PENDING, S.REQUESTED, S.FAILED, S.LOST)


def summary(
    instance: Instance,
    name_of: Callable[[str], str],
    planning: scheduler_pb2.ExplainResponse | None,
    now_ms: int,
    hold: Hold | None = None,
    owing: Sequence[str] = (),
) -> str:
    """A few sentences; `name_of` gives a node's name, `planning` what the scheduler thinks now.

    `hold` is why its silent node is waited for; `owing` are the nodes, with their state, that have not confirmed the
    end of a copy.
    """
    waits = planning is not None and instance.state is S.PENDING
    detail = "no node can take it" if waits else instance.detail.rstrip(".")
    sentences = [f"{instance.job_name} ({instance.key}) is {instance.state}: {detail}."]
    if instance.current:
        sentences.append(f"It is on node {name_of(instance.node_id)}{_why_there(instance)}.")
    if instance.successor:
        sentences.append(f"It is being moved to node {name_of(instance.successor.node_id)}.")
    if instance.retiring:
        sentences.append(f"An older copy is being stopped on node {name_of(instance.retiring.node_id)}.")
    sentences.extend(_what_failed(instance, detail))
    if instance.attempts:
        failed = "The last attempt" if instance.attempts == 1 else f"The last {instance.attempts} attempts"
        sentences.append(f"{failed} failed.")
    if hold is not None:
        sentences.append(_waited_for(hold, name_of(instance.node_id)))
    sentences.extend(_what_is_next(instance, now_ms))
    sentences.extend(_what_is_owed(instance, owing))
    has_next = instance.is_desired and instance.state in _WAITING and not _is_given_up(instance)
    if planning is not None and has_next:
        sentences.extend(_planning(planning, instance))
    if instance.state is S.PENDING:
        sentences.append("It is tried again as soon as something changes for the better.")
    elif instance.retry_at_ms is not None and instance.state in _WAITING:
        sentences.append(f"It is tried again in {max(0, instance.retry_at_ms - now_ms) / 1000:.0f} s.")
    return " ".join(sentences)


def _waited_for(hold: Hold, node: str) -> str:
    bound = f"{hold.left_s:.0f} s at most" if isfinite(hold.left_s) else "until another node is READY"
    return (
        f"It is not placed anew yet, because {hold.cause}: {node} is waited for {bound}, "
        f"or until `clusterctl node confirm-lost {node}`."
    )


def _is_given_up(instance: Instance) -> bool:
    return instance.state in (S.FAILED, S.LOST) and instance.retry_at_ms is None


def _what_is_next(instance: Instance, now_ms: int) -> list[str]:
    """Until when is waited for its node, or that nobody tries any more."""
    if is_run_only_by_wish(instance):
        return ["It is not run again by itself: deploy it with --rerun (?rerun=true) to run it once more."]
    if instance.is_desired and _is_given_up(instance):
        return ["It is not tried again by itself: deploy it again to start it."]
    if instance.state is S.RESTARTING:
        return ["It ran, ended and is started again by its worker, with growing pauses."]
    if instance.state is S.STOPPING:
        return ["The order is repeated until its node says that it is gone."]
    deadline_ms = instance.current.deadline_ms if instance.current else None
    if deadline_ms is None or instance.state not in _ANSWERS:
        return []
    pause = f"{max(0, deadline_ms - now_ms) / 1000:.0f} s"
    return [f"{_ANSWERS[instance.state]} within {pause}, or it is placed anew."]


def _what_failed(instance: Instance, detail: str) -> list[str]:
    """What went wrong first, where the present detail tells of something else."""
    sentences = []
    if instance.failure and instance.failure not in detail:
        sentences.append(f"What went wrong before that: {instance.failure.rstrip('.')}.")
    if instance.restarts:
        times = "once" if instance.restarts == 1 else f"{instance.restarts} times"
        sentences.append(f"It was started again {times}.")
    return sentences


def _what_is_owed(instance: Instance, owing: Sequence[str]) -> list[str]:
    if not owing:
        return []
    left = f"Still to confirm that no copy of it is left: {', '.join(owing)}."
    kept = "" if instance.is_desired else ", and it is remembered until then"
    return [left, f"Whatever is found there is deleted{kept}; remove a machine that never comes back."]


def _why_there(instance: Instance) -> str:
    """The cause of the event that brought it to its node; "" where the history has forgotten it."""
    causes = (
        event.cause if event.kind == "placed" else f"moved there by {event.actor}"
        for event in reversed(instance.events)
        if event.kind in ("placed", "move_started") and event.node_id == instance.node_id
    )
    cause = next(causes, "")
    return f" ({cause})" if cause else ""


def _planning(planning: scheduler_pb2.ExplainResponse, instance: Instance) -> list[str]:
    """The scheduler knows nothing of what rules an engine out for one instance: that is said beside its opinion."""
    own = [phrase(item) for item in instance.refusals if item.reason in ENGINE_REASONS]
    sentences = [f"Of the nodes, {', '.join(own)}."] if own else []
    if planning.fitting_count:
        but = " but for that" if own else ""
        return [*sentences, f"{planning.fitting_count} of {planning.node_count} nodes would take it now{but}."]
    if planning.refusals:
        nodes = "the only node" if planning.node_count == 1 else f"{planning.node_count} nodes"
        sentences.append(f"Of {nodes}, {', '.join(map(phrase, planning.refusals))}.")
    if planning.smallest_change:
        sentences.append(f"The smallest change that would help: {planning.smallest_change}.")
    return sentences
