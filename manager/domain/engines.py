"""What worker engines say and need beyond their lists, judged on the cluster's state. Pure.

Engines send no generation, so a state is about the newest open placement on its node; what they say late is fenced by
worker and time. Sources of the words: section 12.4 of the deployed ecosystem's contract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from cluster.payloads import StateReport, bounded_exit_code
from manager.domain.aggregate import ClusterState
from manager.domain.effects import Verb
from manager.domain.events import Observed, Seen
from manager.domain.listing import GAP_PERIODS, Listing
from manager.domain.model import (
    Instance,
    InstanceKey,
    InstanceState,
    Node,
    NodeKind,
    NodeState,
    Placement,
    Refusal,
)
from manager.domain.observation import Findings, Repeat, seen_of

S = InstanceState
MAX_CONTAINER_NAME: Final = 76
MAX_HOST_NAME: Final = 64
AFTER_DEAD_S: Final = 1.0
CONTEST_PAUSE_MS: Final = 600_000
ENGINE_REASONS: Final = ("container_name", "older_copy")
_CONTAINER_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*\Z")
_THERE: Final = frozenset({"service already deployed", "task already deployed"})
_BLOCKED: Final = re.compile(r'snapshot ".*": already exists')
_EXIT: Final = re.compile(r"exited with status: (\d{1,10})")
_ENGINES: Final = {NodeKind.ENGINE_A: "the older engines", NodeKind.ENGINE_C: "engines"}
_STALE_DETAIL: Final = "Container is starting up"


# States


def on_state(state: ClusterState, node: Node, report: StateReport, now_ms: int) -> Findings:
    """A change of one instance on an engine. Raises InvalidInputError for a status that nobody uses."""
    seen = seen_of(report.status)
    findings = Findings()
    if not node.has_reported:
        state.put_node(replace(node, has_reported=True))
    if seen in (Seen.DEAD, Seen.STOPPED, Seen.COMPLETED):
        state.live[node.id].listing.ended_at_ms = now_ms
    key = state.find_reported(node.id, report.job_name, report.number)
    found = state.instances[key].find(node.id, None) if key else None
    if key is None or found is None:
        findings.unknown_count += 1
        return findings
    event = _meaning(state, node, report, seen, key, found[1], now_ms, findings)
    if event is not None:
        state.apply(key, event, now_ms)
    return findings


def _meaning(
    state: ClusterState,
    node: Node,
    report: StateReport,
    seen: Seen,
    key: InstanceKey,
    placement: Placement,
    now_ms: int,
    findings: Findings,
) -> Observed | None:
    """The event that a state stands for; None where it changes nothing."""
    if _BLOCKED.search(report.detail) and seen is Seen.FAILED:
        return _on_blocked(state, node, report, key, placement, now_ms, findings)
    if report.detail.casefold() in _THERE and seen is Seen.FAILED:
        return _event(node, placement, Seen.STARTING, "the engine has it already")
    if placement.state is S.STOPPING:
        if seen is Seen.RUNNING:
            findings.repeats.append(Repeat(Verb.DELETE, key, 0.0))
    elif seen is Seen.STOPPED:
        # An engine says UNDEPLOYED only to a delete, and of this placement none was sent: it is about an older one.
        return None
    listing = state.live[node.id].listing
    name = (report.job_name, report.number)
    if seen is Seen.DEAD and placement.state is S.SCHEDULED and listing.conflicts.get(name) == placement.generation:
        findings.repeats.append(Repeat(Verb.DEPLOY, key, AFTER_DEAD_S))
        return None
    return _ended_or_alive(node, report, seen, placement)


def _on_blocked(
    state: ClusterState,
    node: Node,
    report: StateReport,
    key: InstanceKey,
    placement: Placement,
    now_ms: int,
    findings: Findings,
) -> Observed | None:
    """An older container of that name is still there: deploy once more after its end, then give this node up."""
    if placement.state is not S.SCHEDULED:
        return None
    listing, name = state.live[node.id].listing, (report.job_name, report.number)
    if listing.conflicts.get(name) != placement.generation:
        listing.conflicts[name] = placement.generation
        findings.repeats.append(Repeat(Verb.DEPLOY, key, state.policy.refence_ms / 1000))
        return None
    listing.blocked[name] = now_ms
    return _event(node, placement, Seen.FAILED, f"an older container is in the way: {report.detail}")


def _ended_or_alive(node: Node, report: StateReport, seen: Seen, placement: Placement) -> Observed:
    """Exit codes stand in the older engines' details; the newer ones repeat a detail that says nothing.

    An older engine calls everything DEAD: with status 0 a one-shot ended well; without a status (it was stopped with
    its engine) the outcome is unknown.
    """
    exited = _EXIT.search(report.detail)
    is_echo = report.detail in (_STALE_DETAIL, _told_detail(placement))
    detail = "" if is_echo else report.detail
    return _event(node, placement, seen, detail, bounded_exit_code(int(exited.group(1))) if exited else None)


def _told_detail(placement: Placement) -> str | None:
    """The `status_detail` of the document that the engine was given, which it sends back as if it were its own."""
    detail = orjson.loads(placement.spec.document).get("status_detail")
    return detail if isinstance(detail, str) else None


def _event(node: Node, placement: Placement, seen: Seen, detail: str, exit_code: int | None = None) -> Observed:
    return Observed(
        node_id=node.id,
        generation=placement.generation,
        seen=seen,
        actor=f"worker:{node.name}",
        detail=detail,
        exit_code=exit_code,
    )


# Registrations and telemetry


def on_restart(state: ClusterState, old: Node, node: Node, now_ms: int, mono_s: float) -> None:
    """A known engine registered again: before that it removed its containers, so nothing of ours is left there."""
    live = state.live[node.id]
    is_heard = mono_s - live.listing.heard_s < GAP_PERIODS * state.policy.engine_period_ms / 1000
    live.listing = Listing(beat_before_s=live.listing.usual_beat_s() if is_heard else 0.0, started_ms=now_ms)
    cause = "it registered again: an engine removes its containers when it starts"
    state.set_node_state(node.id, NodeState.REGISTERED, cause, now_ms)
    ip, old_ip = node.registration.ip, old.registration.ip
    if ip != old_ip and is_heard:
        on_contest(state, node, f"{old_ip} and {ip}", now_ms)
    for key in tuple(state.on_node[node.id]):
        for _, placement in tuple(state.instances[key].placements()):
            if placement.node_id == node.id:
                state.apply(key, _event(node, placement, Seen.ABSENT, "its engine started anew"), now_ms)
    for key in tuple(state.owing.get(node.id, ())):
        state.confirm(key, node.id, None)


def on_telemetry(state: ClusterState, node: Node, source: str, now_ms: int, mono_s: float) -> None:
    """An engine is heard at `mono_s`; where two share an id, they name different things or are heard too often."""
    listing, period_s = state.live[node.id].listing, state.policy.engine_period_ms / 1000
    listing.hear(mono_s, period_s, now_ms)
    is_doubled = listing.is_doubled(mono_s, period_s)
    if listing.alternates(source, mono_s) or is_doubled:
        on_contest(state, node, source, now_ms)


def on_contest(state: ClusterState, node: Node, what: str, now_ms: int) -> None:
    """Two machines use one host name, and so one id: each throws the other off the broker."""
    cause = f"two machines call themselves {node.name} ({what}): give one of them another host name and restart it"
    last = next((event for event in reversed(state.nodes[node.id].events) if event.kind == "contested"), None)
    if last is not None and last.cause == cause and now_ms - last.at_ms < CONTEST_PAUSE_MS:
        return  # it goes on for as long as nobody does something, and would fill the history
    state.note_node(node.id, "contested", cause, now_ms, detail=cause)


# Where an instance must not go


def name_problem(kind: NodeKind, job_name: str, number: int) -> str:
    """Why an engine of this kind could not start a container of that name; "" where it could.

    A container is called `job_name.instance.N`; the older engines also make that its host name.
    """
    if kind not in _ENGINES:
        return ""
    name = f"{job_name}.instance.{number}"
    limit = MAX_HOST_NAME if kind is NodeKind.ENGINE_A else MAX_CONTAINER_NAME
    if len(name) > limit:
        return f"{name} has {len(name)} characters; {_ENGINES[kind]} take at most {limit}"
    if not _CONTAINER_NAME.match(name):
        return f"{name} has two of '.', '_' and '-' side by side, which {_ENGINES[kind]} refuse"
    return ""


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Where an instance must not go, and why: whole kinds of nodes, and single ones."""

    kinds: dict[NodeKind, Refusal] = field(default_factory=dict)
    nodes: dict[str, Refusal] = field(default_factory=dict)

    def of(self, node: Node) -> Refusal | None:
        """Why it must not go to a node."""
        return self.nodes.get(node.id) or self.kinds.get(node.kind)


def exclusions(state: ClusterState, instance: Instance) -> Exclusions:
    """Engines that must not get this instance: because of its name, or of an older copy that does not go away."""
    name = (instance.spec.name, instance.key.number)
    kinds = {
        kind: Refusal(reason=ENGINE_REASONS[0], node_count=1, detail=problem)
        for kind in _ENGINES
        if (problem := name_problem(kind, *name))
    }
    here = {placement.node_id for _, placement in instance.placements()}
    nodes: dict[str, Refusal] = {}
    for node in _earlier(state, instance):
        listing = state.live[node.id].listing
        if name in listing.blocked or (name in listing.listed and node.id not in here):
            nodes[node.id] = Refusal(reason=ENGINE_REASONS[1], node_count=1, detail=node.name)
    return Exclusions(kinds=kinds, nodes=nodes)


def _earlier(state: ClusterState, instance: Instance) -> list[Node]:
    """The nodes that the instance, or another of its name and number, was on: an engine takes one for the other."""
    alike = state.named(instance.spec.name, instance.key.number)
    node_ids = {item.node_id: None for other in alike for item in other.ended}
    return [node for node_id in node_ids if (node := state.nodes.get(node_id))]


def named(refusals: tuple[Refusal, ...], excluded: Exclusions) -> tuple[Refusal, ...]:
    """The scheduler's refusals with what it only knows as excluded called by its reason."""
    own: dict[str, Refusal] = {}
    for item in excluded.nodes.values():
        known = own.get(item.reason)
        own[item.reason] = replace(known, node_count=known.node_count + 1) if known else item
    rest = []
    for item in refusals:
        if item.reason == "kind" and excluded.kinds:
            rest.append(replace(next(iter(excluded.kinds.values())), node_count=item.node_count))
        elif item.reason == "excluded":
            left = item.node_count - len(excluded.nodes)
            if left > 0:
                rest.append(replace(item, node_count=left, detail="it is there, or was until just now"))
        else:
            rest.append(item)
    return (*own.values(), *rest)
