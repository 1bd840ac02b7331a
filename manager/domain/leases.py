"""Who is alive: leases judged by the monotonic clock, fairly.

Nobody is judged within one lease of the start of listening (the manager's start, or its broker's return), and when a
large share of the nodes expires together, none of them goes DOWN: the fault is then more likely between us and them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from manager.domain.model import Node, NodeLive, NodeState


@dataclass(frozen=True, kw_only=True)
class LeaseRules:
    """Seconds, and the share (0..1) and number of nodes that may expire together before re-placement pauses."""

    lease_s: float = 10.0
    grace_s: float = 5.0
    mass_share: float = 0.3
    mass_count: int = 5


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A change of one node's state, and why."""

    node_id: str
    state: NodeState
    cause: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The changes of one sweep; `is_paused` tells that too many expired together and none of them goes DOWN."""

    verdicts: tuple[Verdict, ...]
    is_paused: bool = False


def judge(
    nodes: Iterable[tuple[Node, NodeLive]], now_mono_s: float, listening_since_mono_s: float, rules: LeaseRules
) -> Judgement:
    """READY nodes whose lease ran out become SUSPECT, SUSPECT and never heard ones after the grace DOWN.

    A received last will makes a node SUSPECT at once, and DOWN one grace later. When a mass expiry ends, those that are
    not back yet have one more lease: nodes return one after the other.
    """
    if now_mono_s - listening_since_mono_s < rules.lease_s:
        return Judgement(verdicts=())
    suspects = [(node, live) for node, live in nodes if node.state is not NodeState.DOWN]
    once_heard = [live for node, live in suspects if node.state is not NodeState.REGISTERED]
    silent = sum(1 for live in once_heard if _is_late(live, now_mono_s, listening_since_mono_s, rules))
    is_mass = silent >= rules.mass_count and silent > rules.mass_share * len(once_heard)
    if is_mass:
        for live in once_heard:
            live.spared_mono_s = now_mono_s
    verdicts = [
        v for node, live in suspects if (v := _judge_one(node, live, now_mono_s, listening_since_mono_s, rules))
    ]
    return Judgement(verdicts=tuple(verdicts), is_paused=is_mass)


def _silence_s(live: NodeLive, now_mono_s: float, listening_since_mono_s: float) -> float:
    heard = live.heartbeat_mono_s if live.heartbeat_mono_s is not None else listening_since_mono_s
    return now_mono_s - max(heard, listening_since_mono_s)


def _is_late(live: NodeLive, now: float, since: float, rules: LeaseRules) -> bool:
    return live.will_mono_s is not None or _silence_s(live, now, since) >= rules.lease_s


def _judge_one(node: Node, live: NodeLive, now: float, since: float, rules: LeaseRules) -> Verdict | None:
    silence_s = _silence_s(live, now, since)
    is_over = silence_s >= rules.lease_s + rules.grace_s
    cause = f"no telemetry for {silence_s:.1f} s"
    if live.will_mono_s is not None:
        is_over = is_over or now - live.will_mono_s >= rules.grace_s
        cause = f"its connection broke {now - live.will_mono_s:.1f} s ago (last will)"
    is_spared = live.spared_mono_s is not None and now - live.spared_mono_s < rules.lease_s
    if is_over and not is_spared and node.state is not NodeState.READY:
        return Verdict(node_id=node.id, state=NodeState.DOWN, cause=cause)
    if node.state is NodeState.READY and _is_late(live, now, since, rules):
        return Verdict(node_id=node.id, state=NodeState.SUSPECT, cause=cause)
    return None
