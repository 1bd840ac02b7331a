"""The decisions of the tick and of planning, applied to the cluster's state. Pure: times are passed in."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from cluster.nodes import Dialect
from manager.domain.aggregate import ClusterState
from manager.domain.events import DeadlinePassed, NodeWasRemoved, NodeWentDown
from manager.domain.machine import wants_placement
from manager.domain.model import Instance, InstanceKey, InstanceState, Job, NodeState
from manager.domain.tombstones import Ended


class Rung(StrEnum):
    """What came of an instance's alarm."""

    CHANGED = "changed"
    WANTS_NODE = "wants a node"
    OWED = "owed"
    NOTHING = "nothing"


def lose_node(state: ClusterState, node_id: str, now_ms: int) -> None:
    """A node that is DOWN is given up: its instances do what their jobs say for that case."""
    node = state.nodes.get(node_id)
    if node is None or node.state is not NodeState.DOWN:
        return
    event = NodeWentDown(node_id=node_id, cause=node.detail or "it is down")
    for key in tuple(state.on_node[node_id]):
        state.apply(key, event, now_ms)


def lose_removed_nodes(state: ClusterState, spared: Collection[str], now_ms: int) -> None:
    """Whatever still counts on a node that is gone: a crash may have cut its removal in two.

    The `spared` are only not known at the moment: their records cannot be read.
    """
    for node_id in [node_id for node_id, held in state.on_node.items() if held and node_id not in state.nodes]:
        if node_id not in spared:
            for key in tuple(state.on_node[node_id]):
                state.apply(key, NodeWasRemoved(node_id=node_id, actor="manager"), now_ms)


def restore_lost_jobs(state: ClusterState) -> None:
    """Wanted jobs whose record cannot be read, made anew from what their instances know."""
    for job_id in [job_id for job_id in state.of_job if job_id not in state.jobs]:
        instances = [state.instances[InstanceKey(job_id, number)] for number in state.of_job[job_id]]
        if not any(instance.is_desired for instance in instances):
            continue
        newest = max(instances, key=lambda item: item.updated_at_ms)
        state.put_job(Job(id=job_id, spec=newest.spec, created_at_ms=min(item.created_at_ms for item in instances)))


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
    """Nodes without generations that must not get this instance again yet, nor another of its name and number.

    What ended there may still be in the way: for a while, or until an engine's lists have shown that it is gone. What a
    node owes that was away is in the way until that is settled: even a deploy of it may be on its way yet, and such a
    node takes a newer one of the same name for its repetition.
    """
    name = (instance.spec.name, instance.key.number)
    alike = state.named(*name)
    recent = {
        ended.node_id
        for one in alike
        for ended in one.ended
        if _is_owed(state, ended)
        or (now_ms - ended.at_ms < state.policy.refence_ms and not _is_gone(state, ended, name))
    }
    held = {p.node_id for one in alike for _, p in one.placements()}
    return [node_id for node_id in recent | held if node_id in state.nodes and not is_replacing(state, node_id)]


def _is_owed(state: ClusterState, ended: Ended) -> bool:
    node = state.nodes.get(ended.node_id)
    if node is None or ended.is_confirmed:
        return False
    if node.registration.dialect is Dialect.SEED:
        return True
    return ended.at_ms <= state.live[node.id].listing.back_ms


def _is_gone(state: ClusterState, ended: Ended, name: tuple[str, int]) -> bool:
    live = state.live.get(ended.node_id)
    return live is not None and live.listing.is_free(name, ended.at_ms)


def fence_ends_ms(state: ClusterState, instance: Instance, now_ms: int) -> list[int]:
    """When nodes without generations may get this instance again."""
    ends = {e.at_ms + state.policy.refence_ms for e in instance.ended if not is_replacing(state, e.node_id)}
    return sorted(end_ms for end_ms in ends if end_ms > now_ms)


def is_coming_back(state: ClusterState, instance: Instance) -> bool:
    """Whether its node is heard again and has not told yet what is there: it may still run."""
    current = instance.current
    return current is not None and current.state is InstanceState.UNKNOWN and state.is_ready(current.node_id)
