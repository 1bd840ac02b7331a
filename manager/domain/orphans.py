"""Copies that run on a node and are not known here: taken in as they are, or ended. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from cluster.errors import ConflictError, InvalidInputError
from cluster.jobs import JobSpec
from cluster.payloads import ResourceEntry
from manager.domain.aggregate import ClusterState
from manager.domain.events import Seen
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, Placement
from manager.domain.observation import seen_of
from manager.domain.steps import note

S = InstanceState
UNKNOWN_IMAGE: Final = "unknown"


def adopt(
    state: ClusterState, node: Node, entry: ResourceEntry, key: InstanceKey, spec: JobSpec, actor: str, now_ms: int
) -> Instance:
    """Make what runs an instance, in the generation that runs; nothing follows from it for the node.

    What it reserves counts even where the node has not that much left: it runs there already.
    """
    is_running = seen_of(entry.status or "RUNNING") is Seen.RUNNING
    made = _made(state, node, entry, key, spec, S.RUNNING if is_running else S.STARTING, now_ms)
    if key.job_id not in state.jobs or state.jobs[key.job_id].is_kept:
        state.put_job_spec(key.job_id, spec, actor, now_ms)
    cause = f"it ran on {node.name}, unknown to this cluster, and was taken in as it is"
    return state.put(note(made, now_ms, actor, "adopted", cause, node.id))


def end(state: ClusterState, node: Node, entry: ResourceEntry, actor: str, now_ms: int) -> Instance:
    """Make what runs an instance that is being deleted: the order is repeated until its node confirms it."""
    technologies = node.registration.technologies
    technology = entry.technology if entry.technology in technologies or not technologies else technologies[0]
    spec = JobSpec(name=entry.job_name, image=UNKNOWN_IMAGE, technology=technology)
    made = _made(state, node, entry, ending_key(node, entry), spec, S.STOPPING, now_ms)
    cause = f"it ran on {node.name}, unknown to this cluster, and its deletion was requested"
    return state.put(note(made, now_ms, actor, "orphan_deleted", cause, node.id))


def _made(
    state: ClusterState,
    node: Node,
    entry: ResourceEntry,
    key: InstanceKey,
    spec: JobSpec,
    in_state: InstanceState,
    now_ms: int,
) -> Instance:
    """The instance with what runs as its only placement, on top of what is remembered of it."""
    check_free(state, key)
    is_desired = in_state is not S.STOPPING
    fresh = state.instances.get(key) or Instance(
        key=key, spec=spec, is_desired=is_desired, state=in_state, created_at_ms=now_ms
    )
    placement = Placement(
        node_id=node.id,
        generation=entry.generation or max(fresh.generation + 1, now_ms),
        spec=spec,
        state=in_state,
        since_ms=now_ms,
        deadline_ms=now_ms + state.policy.start_deadline_ms if in_state is S.STARTING else None,
        has_run=in_state is not S.STARTING,
        restarts=entry.restarts or 0,
    )
    here = (placement.node_id, placement.generation)
    return replace(
        fresh,
        spec=spec,
        is_desired=is_desired,
        state=in_state,
        current=placement,
        generation=max(placement.generation, fresh.generation),
        ended=tuple(item for item in fresh.ended if (item.node_id, item.generation) != here),
        refusals=(),
        attempts=0,
        failure="",
        replaced_count=0,
        retry_at_ms=None,
        exit_code=None,
    )


def check_free(state: ClusterState, key: InstanceKey) -> None:
    """Raise ConflictError where an instance of this cluster has that key, which is more than remembered."""
    known = state.instances.get(key)
    if known is not None and (known.is_desired or any(known.placements())):
        raise ConflictError(
            f"{key} is an instance of this cluster already ({known.state}: {known.detail}): delete that one first, or "
            "delete the orphan",
            field="instance_number",
        )


def ending_key(node: Node, entry: ResourceEntry) -> InstanceKey:
    """By what an orphan that is being deleted is known; engines tell no job id, so that it gets one of its own."""
    own = hashlib.blake2s(entry.job_name.encode(), digest_size=6).hexdigest()
    return InstanceKey(entry.job_id or f"orphan-{node.id}-{own}", entry.number)


def check_fits(entry: ResourceEntry, spec: JobSpec) -> None:
    """Raise InvalidInputError where a specification cannot be that of what runs."""
    if spec.name != entry.job_name:
        raise InvalidInputError(f"what runs is called {entry.job_name!r}, the job {spec.name!r}", field="spec.name")
    if entry.technology and spec.technology != entry.technology:
        raise InvalidInputError(
            f"{entry.job_name}/{entry.number} runs as {entry.technology}, the job says {spec.technology}",
            field="spec.technology",
        )


def already_adopted(state: ClusterState, node: Node, job_name: str, number: int | None) -> list[Instance]:
    """The wanted instances of that name on a node: what a repeated adoption is about."""
    found = [state.instances[key] for key in state.on_node.get(node.id, ()) if number in (None, key.number)]
    return [item for item in found if item.is_desired and item.spec.name == job_name]


def already_ended(state: ClusterState, node: Node, job_name: str, number: int | None) -> list[Instance]:
    """The unwanted instances of that name which are or were on a node: what a repeated deletion is about."""
    return [
        item
        for item in state.instances.values()
        if item.spec.name == job_name
        and number in (None, item.key.number)
        and not item.is_desired
        and (item.find(node.id, None) or any(ended.node_id == node.id for ended in item.ended))
    ]
