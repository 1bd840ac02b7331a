"""The decisions of the tick and of planning, applied to the cluster's state. Pure: times are passed in."""

from __future__ import annotations

from enum import StrEnum

from cluster.nodes import Dialect
from manager.domain.aggregate import ClusterState
from manager.domain.events import DeadlinePassed, NodeWasRemoved, NodeWentDown
from manager.domain.leases import Verdict
from manager.domain.machine import wants_placement
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState


class Rung(StrEnum):
    """What came of an instance's alarm."""

    CHANGED = "changed"
    WANTS_NODE = "wants a node"
    OWED = "owed"
    NOTHING = "nothing"


def apply_verdict(state: ClusterState, verdict: Verdict, now_ms: int) -> None:
    """Record what became of a node, and of what was on it."""
    state.set_node_state(verdict.node_id, verdict.state, verdict.cause, now_ms)
    if verdict.state is NodeState.DOWN:
        _lose_node(state, verdict.node_id, verdict.cause, now_ms)


def heal(state: ClusterState, now_ms: int) -> None:
    """Whatever still counts on a node that is down or gone: a crash may have cut its loss in two."""
    for node_id in [node_id for node_id, held in state.on_node.items() if held]:
        node = state.nodes.get(node_id)
        if node is None:
            for key in tuple(state.on_node[node_id]):
                state.apply(key, NodeWasRemoved(node_id=node_id, actor="manager"), now_ms)
        elif node.state is NodeState.DOWN:
            _lose_node(state, node_id, node.detail or "it is down", now_ms)


def _lose_node(state: ClusterState, node_id: str, cause: str, now_ms: int) -> None:
    for key in tuple(state.on_node[node_id]):
        state.apply(key, NodeWentDown(node_id=node_id, cause=cause), now_ms)


def ring(state: ClusterState, key: InstanceKey, now_ms: int, *, may_purge: bool = True) -> Rung:
    """An instance's alarm rang: a deadline, a retry, or the end of its retention (which waits for `may_purge`).

    OWED: a node has yet to confirm that nothing of it is left; the alarm is set again when it does.
    """
    before = state.instances[key]
    after = state.apply(key, DeadlinePassed(), now_ms)
    if after is not before:
        return Rung.CHANGED
    is_over = after.state is InstanceState.STOPPED and after.updated_at_ms + state.policy.retention_ms <= now_ms
    if is_over and state.owes(key):
        return Rung.OWED
    if is_over and may_purge:
        state.purge(key)
        return Rung.CHANGED
    if wants_placement(after) and (after.retry_at_ms or 0) <= now_ms:
        return Rung.WANTS_NODE
    return Rung.NOTHING


def is_replacing(state: ClusterState, node_id: str) -> bool:
    """Whether a node stops an older copy by itself before it starts a newer one."""
    node = state.nodes.get(node_id)
    return node is not None and node.registration.dialect is Dialect.WORKER


def fenced_nodes(state: ClusterState, instance: Instance, now_ms: int) -> list[str]:
    """Nodes without generations that must not get this instance again yet, nor another of its name and number."""
    alike = state.named(instance.spec.name, instance.key.number)
    recent = {e.node_id for one in alike for e in one.ended if now_ms - e.at_ms < state.policy.refence_ms}
    held = {p.node_id for one in alike for _, p in one.placements()}
    return [node_id for node_id in recent | held if node_id in state.nodes and not is_replacing(state, node_id)]
