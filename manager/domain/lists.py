"""An engine's resource lists, judged on the cluster's state. Pure: answers what must be sent instead of sending it.

A list confirms what was told to start and, by absence over time, what was told to stop; it never resurrects what
ended. A copy that stays listed after its end is deleted again, and where that does nothing it is shown as a zombie.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cluster.payloads import ResourceEntry, ResourceList
from manager.domain.aggregate import ClusterState
from manager.domain.effects import Effect, Verb
from manager.domain.events import Observed, Seen
from manager.domain.listing import Listed
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeLive, Placement
from manager.domain.observation import Findings

S = InstanceState
ABSENT_PERIODS: Final = {S.STOPPING: 2.5, S.RUNNING: 5.0, S.UNKNOWN: 5.0}
NEVER_STARTED_PERIODS: Final = 15.0
DELETE_PAUSE_FENCES: Final = 1.5
LONGEST_DELETE_PAUSE_S: Final = 300.0
ZOMBIE_DELETES: Final = 3
UNDELETED_PERIODS: Final = 60.0
QUEUED_PERIODS: Final = 300.0
_ENDED: Final = frozenset({"DEAD", "UNDEPLOYED", "COMPLETED", "FAILED", "STOPPED"})


def on_resources(state: ClusterState, node: Node, resources: ResourceList, now_ms: int, mono_s: float) -> Findings:
    """One list of one runtime that arrived at `mono_s`."""
    findings = Findings()
    live = state.live[node.id]
    live.listing.hear(mono_s, state.policy.engine_period_ms / 1000, now_ms)
    if not live.listing.is_trusted(mono_s):
        return findings
    entries = [entry for entry in resources.entries if entry.status not in _ENDED]
    cycle = lists_per_period(node)
    for gone in live.listing.take(entries, mono_s, cycle):
        _on_gone(state, node, gone, now_ms)
    state.has_freed |= live.listing.unblock(cycle, now_ms, mono_s, state.policy.refence_ms)
    for entry in entries:
        _on_listed(state, node, entry, now_ms, mono_s, findings)
    for key in [key for key in state.on_node[node.id] if key not in findings.usages]:
        _on_unlisted(state, node, key, now_ms, mono_s)
    for key in tuple(state.owing.get(node.id, ())):
        _settle_debt(state, node, key, now_ms, mono_s)
    if live.listing.has_settled(cycle):
        findings.has_settled = True
    return findings


def lists_per_period(node: Node) -> int:
    """Every runtime that an engine announced sends a list of its own."""
    return max(1, len(node.registration.technologies))


def usage(entry: ResourceEntry, node: Node, live: NodeLive) -> ResourceEntry:
    """The entry with cpu in percent of the whole node and memory in bytes, whatever its engine calls them.

    The older engines give cpu in percent of one core; the newer ones memory as a share of what is available.
    """
    cpu = entry.cpu_percent
    cores = (node.capacity.cpu_millicores or 0) / 1000
    if cpu is not None and entry.is_cpu_of_one_core and cores:
        cpu = cpu / cores
    memory = entry.memory_bytes
    if memory is None and entry.memory_share is not None and live.memory_free_bytes is not None:
        memory = round(entry.memory_share * live.memory_free_bytes)
    return ResourceEntry(
        job_name=entry.job_name,
        number=entry.number,
        technology=entry.technology,
        status=entry.status,
        detail=entry.detail,
        cpu_percent=None if cpu is None else min(cpu, 100.0),
        memory_bytes=memory,
        disk_bytes=entry.disk_bytes,
        logs=entry.logs,
    )


def _on_listed(
    state: ClusterState, node: Node, entry: ResourceEntry, now_ms: int, mono_s: float, findings: Findings
) -> None:
    key = state.find_reported(node.id, entry.job_name, entry.number)
    if key is None:
        _on_unplaced(state, node, entry, now_ms, mono_s, findings)
        return
    live = state.live[node.id]
    findings.usages[key] = usage(entry, node, live)
    found = state.instances[key].find(node.id, None)
    if found is None or found[1].state is S.RUNNING:
        return
    placement = found[1]
    listed = live.listing.listed[entry.job_name, entry.number]
    since_s = mono_s - (now_ms - placement.since_ms) / 1000
    if placement.state is S.STOPPING:
        _on_undeleted(state, node, key, placement, listed, now_ms, mono_s - max(since_s, listed.first_s))
        return
    if placement.state is S.SCHEDULED and listed.first_s < since_s:
        return
    is_starting = entry.status == "INSTANTIATION"
    if is_starting and placement.state is S.STARTING:
        return
    seen = Seen.STARTING if is_starting else Seen.RUNNING
    state.apply(key, _observed(node, placement, seen, "the engine lists it"), now_ms)


def _on_unplaced(
    state: ClusterState, node: Node, entry: ResourceEntry, now_ms: int, mono_s: float, findings: Findings
) -> None:
    """Listed without a placement: an orphan, or what ended here and is not wanted any more."""
    listed = state.live[node.id].listing.listed[entry.job_name, entry.number]
    found = state.find_ended(node.id, entry.job_name, entry.number)
    if found is None:
        findings.unknown_count += 1
        findings.orphans.append(entry)
        if listed.first_s == mono_s:
            cause = f"{entry.job_name}.instance.{entry.number} runs there and is not known here: it is left alone"
            state.note_node(node.id, "orphan", cause, now_ms)
        return
    instance, ended = found
    fence_s = state.policy.refence_ms / 1000
    if mono_s - listed.first_s < fence_s or now_ms - ended.at_ms < state.policy.refence_ms:
        return
    pause_s = min(
        DELETE_PAUSE_FENCES * fence_s * (1 << max(listed.delete_count - ZOMBIE_DELETES, 0)), LONGEST_DELETE_PAUSE_S
    )
    if mono_s - listed.deleted_s < pause_s:
        return
    if listed.delete_count >= ZOMBIE_DELETES and not listed.is_zombie:
        _on_zombie(state, node, instance, listed, now_ms)
    listed.delete_count += 1
    listed.deleted_s = mono_s
    state.reopen(instance.key, node.id, ended.generation, now_ms)
    spec = instance.spec
    if entry.technology in node.registration.technologies:
        spec = replace(spec, technology=entry.technology)
    findings.stale.append(
        Effect(verb=Verb.DELETE, key=instance.key, node_id=node.id, generation=ended.generation, spec=spec)
    )


def _on_undeleted(
    state: ClusterState,
    node: Node,
    key: InstanceKey,
    placement: Placement,
    listed: Listed,
    now_ms: int,
    stays_s: float,
) -> None:
    """Listed for `stays_s` while it is to stop. At last it counts as gone, and what is still listed as a zombie.

    An engine whose containerd restarted lists for ever what it can no longer delete; of the DEAD that it said then
    nothing may have arrived. The older engines delete one after the other: while they do, what waits gets more time.
    """
    listing = state.live[node.id].listing
    silent_s = min(stays_s, (now_ms - listing.ended_at_ms) / 1000)
    if silent_s < UNDELETED_PERIODS * listing.period_s and stays_s < QUEUED_PERIODS * listing.period_s:
        return
    listed.delete_count = max(listed.delete_count, ZOMBIE_DELETES)
    detail = "the engine went on listing it and never answered a delete"
    state.apply(key, replace(_observed(node, placement, Seen.ABSENT, detail), is_assumed=True), now_ms)
    _on_zombie(state, node, state.instances[key], listed, now_ms)


def _on_zombie(state: ClusterState, node: Node, instance: Instance, listed: Listed, now_ms: int) -> None:
    listed.is_zombie = True
    cause = (
        f"{instance.job_name}.instance.{instance.key.number} stays listed though it ended, and {listed.delete_count} "
        "deletes did nothing: restart the engine, which removes its containers, or remove it by hand"
    )
    state.note_node(node.id, "zombie", cause, now_ms, detail=cause)


def _on_gone(state: ClusterState, node: Node, gone: Listed, now_ms: int) -> None:
    name = (gone.entry.job_name, gone.entry.number)
    state.live[node.id].listing.blocked.pop(name, None)
    state.has_freed |= bool(state.named(*name))
    if gone.is_zombie:
        cause = f"{gone.entry.job_name}.instance.{gone.entry.number} is not listed any more"
        state.note_node(node.id, "zombie_gone", cause, now_ms, detail="its telemetry arrives")


def _on_unlisted(state: ClusterState, node: Node, key: InstanceKey, now_ms: int, mono_s: float) -> None:
    """Close what every list has lacked for long enough."""
    listing = state.live[node.id].listing
    for _, placement in tuple(state.instances[key].placements()):
        periods = _absent_periods(placement)
        if placement.node_id != node.id or periods is None:
            continue
        since_s = mono_s - (now_ms - placement.since_ms) / 1000
        name = (placement.spec.name, key.number)
        if listing.lacks(name, since_s, periods, lists_per_period(node)):
            detail = "none of the engine's lists holds it"
            state.apply(key, _observed(node, placement, Seen.ABSENT, detail), now_ms)


def _settle_debt(state: ClusterState, node: Node, key: InstanceKey, now_ms: int, mono_s: float) -> None:
    """What has ended and was not listed for as long as a start may take is gone."""
    listing, instance = state.live[node.id].listing, state.instances[key]
    for ended in state.owes(key):
        since_s = mono_s - (now_ms - ended.at_ms) / 1000
        name = (instance.spec.name, key.number)
        if ended.node_id == node.id and listing.lacks(name, since_s, NEVER_STARTED_PERIODS, lists_per_period(node)):
            state.confirm(key, node.id, ended.generation)


def _absent_periods(placement: Placement) -> float | None:
    """How long it must be absent, in periods; None where absence means nothing yet.

    What was never seen to run may still be pulling its image: such a delete is lost and the container starts later.
    """
    if placement.state is S.STOPPING and not placement.has_run:
        return NEVER_STARTED_PERIODS
    return ABSENT_PERIODS.get(placement.state)


def _observed(node: Node, placement: Placement, seen: Seen, detail: str) -> Observed:
    return Observed(
        node_id=node.id, generation=placement.generation, seen=seen, actor=f"worker:{node.name}", detail=detail
    )
