"""What nodes tell, applied to the cluster's state. Pure: answers what must be sent back instead of sending it.

A copy that is not wanted any more is to be deleted where it is; one that the store does not know is an orphan: shown,
never deleted. What ended by itself and is reported as ended is never answered: the worker would answer again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from cluster.errors import InvalidInputError
from cluster.nodes import Dialect
from cluster.payloads import ResourceEntry, ResourceList, StateReport
from manager.domain.aggregate import ClusterState
from manager.domain.effects import Effect, Verb
from manager.domain.events import NodeCameBack, Observed, Seen
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeLive, NodeState, Placement
from manager.domain.reports import found_again

LATE_INVENTORIES: Final = 3
_SEEN: Final = {
    "INSTANTIATION": Seen.STARTING,
    "CREATING": Seen.STARTING,
    "STARTING": Seen.STARTING,
    "CREATED": Seen.RUNNING,
    "ACTIVE": Seen.RUNNING,
    "RUNNING": Seen.RUNNING,
    "STOPPED": Seen.STOPPED,
    "UNDEPLOYED": Seen.STOPPED,
    "DEAD": Seen.DEAD,
    "COMPLETED": Seen.COMPLETED,
    "FAILED": Seen.FAILED,
}


@dataclass(frozen=True)
class Repeat:
    """A command that an engine lost: to be sent again after a pause."""

    verb: Verb
    key: InstanceKey
    after_s: float


@dataclass
class Findings:
    """What follows from a message: deletions and hand-overs to send once, entries that are not known, and usages.

    Of engines also what to send again, and `has_settled`: its lists are complete after a gap, so that whatever is
    outstanding there may have been lost.
    """

    stale: list[Effect] = field(default_factory=list)
    hand_overs: list[Effect] = field(default_factory=list)
    orphans: list[ResourceEntry] = field(default_factory=list)
    usages: dict[InstanceKey, ResourceEntry] = field(default_factory=dict)
    unknown_count: int = 0
    repeats: list[Repeat] = field(default_factory=list)
    has_settled: bool = False


def seen_of(status: str) -> Seen:
    """The meaning of a node's status word. Raises InvalidInputError for one that nobody uses."""
    seen = _SEEN.get(status)
    if seen is None:
        raise InvalidInputError(f"unknown status {status[:40]!r}", field="status")
    return seen


def observed(node: Node, report: StateReport | ResourceEntry, *, is_news: bool) -> Observed:
    """A report as an event of the life cycle. An entry of a list without a status means that it runs."""
    seen = seen_of(report.status or "RUNNING")
    return Observed(
        node_id=node.id,
        generation=report.generation,
        seen=seen,
        actor=f"worker:{node.name}",
        detail=report.detail,
        exit_code=report.exit_code,
        has_given_up=seen is Seen.FAILED and node.registration.dialect is Dialect.WORKER,
        is_news=is_news,
        restarts=report.restarts,
    )


def came_ready(state: ClusterState, node: Node, now_ms: int) -> list[Effect]:
    """A node is heard again, or at first: nothing that was on it is placed elsewhere any more, until it has told of it.

    Answers the deploys to repeat to one that never tells what it holds.
    """
    if node.state is not NodeState.READY:
        state.set_node_state(node.id, NodeState.READY, "its telemetry arrives", now_ms)
    event = _back(state, node, now_ms)
    for key in tuple(state.on_node[node.id]):
        state.apply(key, event, now_ms)
    return untold(state, node)


def untold(state: ClusterState, node: Node) -> list[Effect]:
    """The deploys that a node without inventories may have missed: those that are taken to be carried out unseen."""
    if node.registration.dialect is not Dialect.SEED:
        return []
    instances = [state.instances[key] for key in state.on_node[node.id]]
    return [
        _command(Verb.DEPLOY, instance, node, current.generation)
        for instance in instances
        if (current := instance.current) and current.node_id == node.id
        if current.state is InstanceState.STARTING and current.deadline_ms is None
    ]


def came_back(state: ClusterState, instance: Instance, now_ms: int) -> None:
    """The same for one instance, whose node is READY."""
    state.apply(instance.key, _back(state, state.nodes[instance.node_id], now_ms), now_ms)


def _back(state: ClusterState, node: Node, now_ms: int) -> NodeCameBack:
    is_mute = node.registration.dialect is Dialect.SEED
    return NodeCameBack(node_id=node.id, deadline_ms=state.first_deadline_ms(node.id, now_ms), is_mute=is_mute)


def on_state(state: ClusterState, node: Node, report: StateReport, now_ms: int) -> Findings:
    """A change of one instance. Raises InvalidInputError for a status that nobody uses."""
    live = state.live[node.id]
    event = observed(node, report, is_news=report.sequence is not None and report.sequence > live.last_sequence)
    if report.sequence is not None:
        live.last_sequence = max(live.last_sequence, report.sequence)
    if not node.has_reported:
        state.put_node(replace(node, has_reported=True))
    findings = Findings()
    _observe(state, node, report, event, now_ms, findings)
    if report.incoming:
        _hand_over(state, node, report, findings)
    return findings


def _hand_over(state: ClusterState, node: Node, report: StateReport, findings: Findings) -> None:
    """The target of a live move waits at an address: the source is told to send its running guest there."""
    instance = state.instances.get(InstanceKey(report.job_id, report.number))
    if instance is None or instance.successor is None or instance.current is None:
        return
    current, successor = instance.current, instance.successor
    if (successor.node_id, successor.generation) == (node.id, report.generation):
        order = Effect(
            verb=Verb.MOVE,
            key=instance.key,
            node_id=current.node_id,
            generation=current.generation,
            spec=current.spec,
            target_id=node.id,
            incoming=report.incoming,
        )
        findings.hand_overs.append(order)


def on_resources(state: ClusterState, node: Node, resources: ResourceList, now_ms: int) -> Findings:
    """A list of what runs, or a whole inventory. Raises InvalidInputError before anything is changed.

    What the node said before of an instance that has not changed since is passed over, as nearly all is.
    """
    live, findings = state.live[node.id], Findings()
    if resources.is_inventory and resources.sequence is not None:
        _follow_count(live, resources.sequence)
    is_news = resources.is_inventory and resources.sequence is not None and resources.sequence >= live.last_sequence
    keys = [_key_of(state, node, entry) for entry in resources.entries]
    events = [
        None if _is_known(state, live, key, entry) else observed(node, entry, is_news=is_news)
        for key, entry in zip(keys, resources.entries, strict=True)
    ]
    told: dict[InstanceKey, tuple[Instance, tuple[object, ...]]] = {}
    for key, entry, event in zip(keys, resources.entries, events, strict=True):
        before = state.instances.get(key) if key else None
        if before:
            findings.usages[before.key] = entry
        if event is not None:
            stale_count = len(findings.stale)
            _observe(state, node, entry, event, now_ms, findings)
            if len(findings.stale) > stale_count:
                continue
        if before and state.instances.get(before.key) is before:
            told[before.key] = live.told[before.key] if event is None else (before, told_by(entry))
    if any(events) or len(told) != len(live.told):  # nearly always it says the same: then nothing new is kept
        live.told = told
    if resources.is_inventory:
        _on_inventory(state, node, resources, now_ms)
    return findings


def _follow_count(live: NodeLive, sequence: int) -> None:
    """A worker with a new disk counts its states from the beginning; what only is late, soon is not any more."""
    live.late_inventories = live.late_inventories + 1 if sequence < live.last_sequence else 0
    if live.late_inventories >= LATE_INVENTORIES:
        live.last_sequence, live.late_inventories = sequence, 0
        live.told.clear()


def _is_known(state: ClusterState, live: NodeLive, key: InstanceKey | None, entry: ResourceEntry) -> bool:
    known = live.told.get(key) if key else None
    if known is None or key is None or state.instances.get(key) is not known[0]:
        return False
    return known[1] == told_by(entry)


def told_by(entry: ResourceEntry) -> tuple[object, ...]:
    """What matters of an entry, measures aside."""
    return (entry.status, entry.generation, entry.detail, entry.exit_code, entry.restarts)


def _observe(
    state: ClusterState,
    node: Node,
    report: StateReport | ResourceEntry,
    event: Observed,
    now_ms: int,
    findings: Findings,
) -> None:
    key = _key_of(state, node, report)
    instance = state.instances.get(key) if key else None
    if instance is None and not report.job_id and (found := state.find_ended(node.id, report.job_name, report.number)):
        instance = found[0]
    if instance is None:
        findings.unknown_count += 1
        if isinstance(report, ResourceEntry) and not event.seen.is_end:
            findings.orphans.append(report)
    elif open_there := instance.find(node.id, event.generation):
        if not _is_about_older(instance, open_there[1], event):
            state.apply(instance.key, event, now_ms)
    else:
        _observe_closed(state, node, instance, event, now_ms, findings, is_kept=isinstance(report, ResourceEntry))


def _is_about_older(instance: Instance, placement: Placement, event: Observed) -> bool:
    """Who tells no generations may repeat, or be late with, the end of an older copy: this one was told no end.

    What it was told to stop, or what ends otherwise, is meant as it is said.
    """
    is_vague = event.generation is None and event.seen is Seen.STOPPED and placement.state is not InstanceState.STOPPING
    return is_vague and any(ended.node_id == placement.node_id for ended in instance.ended)


def _observe_closed(
    state: ClusterState,
    node: Node,
    instance: Instance,
    event: Observed,
    now_ms: int,
    findings: Findings,
    *,
    is_kept: bool,
) -> None:
    """A report about what has no open placement there: it is gone at last, or is to be deleted again."""
    last = max((item.generation for item in instance.ended if item.node_id == node.id), default=None)
    generation = last if event.generation is None else event.generation
    if generation is None:
        findings.unknown_count += 1
        return
    is_short = node.capacity.fits(instance.spec.demand, state.allocated[node.id])
    if _is_lost_by_mistake(instance, event) and not is_short:
        state.put(found_again(instance, event, now_ms, state.policy))
        return
    if event.seen.is_end:
        state.confirm(instance.key, node.id, event.generation)
    if _is_unwanted(instance, event, generation, is_kept=is_kept):
        if not event.seen.is_end:
            state.reopen(instance.key, node.id, generation, now_ms)
        findings.stale.append(_command(Verb.DELETE, instance, node, generation))


def _key_of(state: ClusterState, node: Node, report: StateReport | ResourceEntry) -> InstanceKey | None:
    if report.job_id:
        return InstanceKey(report.job_id, report.number)
    return state.find_reported(node.id, report.job_name, report.number)


def _is_lost_by_mistake(instance: Instance, event: Observed) -> bool:
    """Taken for gone, by an inventory that was late, and yet alive in its last generation: it was not replaced."""
    is_last = event.generation == instance.generation and instance.current is None
    return is_last and instance.is_desired and instance.state is InstanceState.LOST and not event.seen.is_end


def _is_unwanted(instance: Instance, event: Observed, generation: int, *, is_kept: bool) -> bool:
    """Whether a copy without an open placement is to be deleted; `is_kept`: the node has it on disk.

    The record of the last generation stays on its worker while the instance is wanted and has no newer one.
    """
    if generation > instance.generation:
        return False
    is_last_word = generation == instance.generation and instance.is_desired and instance.current is None
    return not event.seen.is_end or (is_kept and not is_last_word)


def _command(verb: Verb, instance: Instance, node: Node, generation: int) -> Effect:
    return Effect(verb=verb, key=instance.key, node_id=node.id, generation=generation, spec=instance.spec)


def _on_inventory(state: ClusterState, node: Node, resources: ResourceList, now_ms: int) -> None:
    """What a complete and current inventory does not hold is not there."""
    live = state.live[node.id]
    if resources.sequence is not None and resources.sequence < live.last_sequence:
        return
    held = {(entry.job_id, entry.number, entry.generation) for entry in resources.entries}
    for key in tuple(state.on_node[node.id]):
        for _, placement in tuple(state.instances[key].placements()):
            is_settled = placement.node_id == node.id and placement.state is not InstanceState.SCHEDULED
            if is_settled and (key.job_id, key.number, placement.generation) not in held:
                state.apply(key, _missing(state, node, placement, now_ms), now_ms)
    _settle_debts(state, node, resources)


def _settle_debts(state: ClusterState, node: Node, resources: ResourceList) -> None:
    """What has ended, and of which nothing is alive in the inventory, is gone."""
    owed = tuple(state.owing.get(node.id, ()))
    if not owed:
        return
    alive: dict[tuple[str, int], int] = {}
    for entry in resources.entries:
        if not seen_of(entry.status or "RUNNING").is_end:
            name = (entry.job_id, entry.number)
            alive[name] = min(entry.generation or 0, alive.get(name, entry.generation or 0))
    for key in owed:
        oldest = alive.get((key.job_id, key.number))
        state.confirm(key, node.id, None if oldest is None else oldest - 1)


def _missing(state: ClusterState, node: Node, placement: Placement, now_ms: int) -> NodeCameBack | Observed:
    """What the node lacks is gone, unless its deploy was under way when the node fell silent: then it still is."""
    if placement.state is InstanceState.UNKNOWN and not placement.has_run:
        return NodeCameBack(node_id=node.id, deadline_ms=state.first_deadline_ms(node.id, now_ms), is_mute=True)
    return Observed(
        node_id=node.id,
        generation=placement.generation,
        seen=Seen.ABSENT,
        actor=f"worker:{node.name}",
        detail="the worker's inventory does not hold it",
    )
