"""Why an instance is where it is, or why it is pending, in plain words. Pure."""

from __future__ import annotations

from collections.abc import Callable

from cluster.v1 import scheduler_pb2
from manager.domain.model import Instance, InstanceState

S = InstanceState


def summary(
    instance: Instance, name_of: Callable[[str], str], planning: scheduler_pb2.ExplainResponse | None, now_ms: int
) -> str:
    """A few sentences; `name_of` gives a node's name, `planning` what the scheduler thinks now."""
    sentences = [f"{instance.job_name} ({instance.key}) is {instance.state}: {instance.detail}."]
    if instance.current:
        sentences.append(f"It is placed on node {name_of(instance.node_id)}.")
    if instance.successor:
        sentences.append(f"It is being moved to node {name_of(instance.successor.node_id)}.")
    if instance.retiring:
        sentences.append(f"An older copy is being stopped on node {name_of(instance.retiring.node_id)}.")
    if instance.attempts:
        sentences.append(f"{instance.attempts} attempts in a row failed.")
    if instance.retry_at_ms is not None and instance.state is not S.RUNNING:
        sentences.append(f"It is tried again in {max(0, instance.retry_at_ms - now_ms) / 1000:.0f} s.")
    if planning is not None and instance.state in (S.PENDING, S.REQUESTED, S.FAILED, S.LOST):
        sentences.extend(_planning(planning))
    return " ".join(sentences)


def _planning(planning: scheduler_pb2.ExplainResponse) -> list[str]:
    if planning.fitting_count:
        return [f"{planning.fitting_count} of {planning.node_count} nodes would take it now."]
    sentences = [f"None of {planning.node_count} nodes can take it."]
    for refusal in planning.refusals:
        detail = f" ({refusal.detail})" if refusal.detail else ""
        sentences.append(f"{refusal.node_count} ruled out by {refusal.reason}{detail}.")
    if planning.smallest_change:
        sentences.append(f"The smallest change that would fit: {planning.smallest_change}.")
    return sentences
