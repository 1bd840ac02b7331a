"""Who is alive: leases judged fairly, and losses that happen together taken as one event.

Silence is measured in time in which this manager could hear (`hearing.py`). After the lease a node is SUSPECT; after
the grace it is silent, and what is on it is shown UNKNOWN; then it goes DOWN and what is on it is given up, unless it
may still be on its way:

- an outage in which nobody could be heard gives every node the outage's own length again (at most `return_cap_s`),
  and several in a row as long again as they lasted together, for clients double their pauses until they are back;
- nodes that fall silent within one lease of each other, more than `mass_share` of all and at least `mass_count`, or all
  that there are, are one event: each is waited for `hold_s`; those of them that are back already count as well, so
  that the last to return are not taken for lost alone; so are sessions that end within AT_ONCE_S of each other;
- with no READY node left nobody gains by a verdict: a node is called DOWN after `hold_s`, but what is on it waits until
  another one is READY, and then for as long again as the nodes were away (at most `return_cap_s`).

A last will says that a session ended, not that a machine did: SUSPECT at once, DOWN after a grace of its own, and any
sign of life takes it back. Pure: times are seconds of one monotonic clock, passed in.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from typing import Final, Protocol

from manager.domain.hearing import Hearing
from manager.domain.model import Node, NodeLive, NodeState

LOOK_AGAIN_S: Final = 1.0
AT_ONCE_S: Final = 2.0
LOOKED_AT_ONCE: Final = 500
DECIDED_AT_ONCE: Final = 100
REMEMBERED_LEASES: Final = 3
CONFIRMED: Final = "an operator confirmed that it is lost"
NOBODY: Final = "no other node is READY"
ONE_BY_ONE: Final = "nodes return one after the other"


@dataclass(frozen=True, kw_only=True)
class LeaseRules:
    """Seconds, and the share (0..1) and number of nodes that make losses one event."""

    lease_s: float = 10.0
    grace_s: float = 5.0
    will_grace_s: float = 10.0
    mass_share: float = 0.3
    mass_count: int = 2
    hold_s: float = 120.0
    return_cap_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A change of one node's state, and why."""

    node_id: str
    state: NodeState
    cause: str


@dataclass
class Sweep:
    """What one look gave.

    `verdicts` are DOWN, or SUSPECT for the first time; `back` are nodes that are not SUSPECT any more; the instances of
    `given_up` (all of them DOWN) need not wait any longer. `has_more`: not all were looked at whose time has come.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    has_more: bool = False


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why a silent node's instances are not placed anew yet, and for how long at most (inf: until a node is READY)."""

    cause: str
    left_s: float


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A node that is late, or DOWN. Times but `heard_s` are of listening; `over_s` is when its grace is over.

    `hold_until_s` is None until it is decided, at `decided_s` (not of listening), whether it was lost alone. `counts`:
    it was READY before. `wait_until_s` is by when it has had the time to follow others back, `broke_s` (not of
    listening) when its session ended, where that made it late.
    """

    heard_s: float
    heard_at_s: float
    over_s: float
    counts: bool = True
    is_silent: bool = False
    is_down: bool = False
    is_given_up: bool = False
    is_confirmed: bool = False
    hold_until_s: float | None = None
    decided_s: float = -inf
    wait_until_s: float = -inf
    broke_s: float | None = None
    cause: str = ""


class Registry(Protocol):
    """The nodes that are judged."""

    nodes: dict[str, Node]
    live: dict[str, NodeLive]

    @property
    def ready_count(self) -> int:
        """How many nodes are READY, the SUSPECT ones among them."""


class Leases:
    """Looks only at nodes whose time has come."""

    def __init__(self, hearing: Hearing, rules: LeaseRules) -> None:
        self.hearing = hearing
        self.rules = rules
        self._due: list[tuple[float, str]] = []
        self._armed: dict[str, float] = {}
        self._absent: dict[str, Absence] = {}
        self._candidates: dict[str, None] = {}
        self._returned: dict[str, float] = {}
        self._mended: dict[str, float] = {}
        self._moments: list[float] | None = None
        self._breaks: list[float] = []
        self._had_nobody = False

    # Who is watched

    def watch(self, node_id: str) -> None:
        """A node registered, came back, or was loaded: look at it whenever its time comes."""
        if absence := self._absent.pop(node_id, None):
            self._moments = None
            if absence.counts and self._now_s() - absence.heard_at_s >= self.rules.lease_s:
                self._returned[node_id] = absence.heard_at_s
            if absence.counts and absence.broke_s is not None:
                self._mended[node_id] = absence.broke_s
        self._arm(node_id, -inf)

    def look(self, node_id: str) -> None:
        """Something about a node changed: look at it at the next sweep."""
        self._arm(node_id, -inf)

    def resume(self, node_id: str) -> None:
        """A node that was DOWN when this manager began, with instances that nobody gave up: it may be on its way."""
        origin_s = self.hearing.origin_s
        at_s = self.hearing.listened_s(origin_s)
        over_s = at_s + self.rules.lease_s + self.rules.grace_s
        self._put(node_id, Absence(heard_s=origin_s, heard_at_s=at_s, over_s=over_s, is_silent=True, is_down=True))
        self._arm(node_id, -inf)

    def forget(self, node_id: str) -> None:
        """A node was removed."""
        self._armed.pop(node_id, None)
        self._returned.pop(node_id, None)
        self._mended.pop(node_id, None)
        if self._absent.pop(node_id, None):
            self._moments = None

    def confirm(self, node_id: str) -> bool:
        """An operator says that a node is lost; False where nobody misses it."""
        absence = self._absent.get(node_id)
        if absence is None or absence.is_given_up:
            return False
        self._put(node_id, replace(absence, is_confirmed=True, is_silent=True, cause=CONFIRMED))
        self._arm(node_id, -inf)
        return True

    # What is known

    def is_suspect(self, node_id: str) -> bool:
        """Whether a node that is not DOWN is late."""
        absence = self._absent.get(node_id)
        return absence is not None and not absence.is_down

    def is_missed(self, node_id: str) -> bool:
        """Whether a node is late, or DOWN and not given up."""
        absence = self._absent.get(node_id)
        return absence is not None and not absence.is_given_up

    def is_silent(self, node_id: str) -> bool:
        """Whether lease and grace are over, and nobody decided yet what becomes of its instances."""
        absence = self._absent.get(node_id)
        return absence is not None and absence.is_silent and not absence.is_given_up

    @property
    def suspect_count(self) -> int:
        """How many nodes are late that were READY."""
        return sum(1 for absence in self._absent.values() if absence.counts and not absence.is_down)

    def held(self) -> Iterator[str]:
        """The silent nodes whose instances wait."""
        return (node_id for node_id in self._absent if self.is_silent(node_id))

    def hold_of(self, node_id: str) -> Hold | None:
        """Why a silent node's instances wait; None where they do not."""
        absence = self._absent.get(node_id)
        if absence is None or absence.hold_until_s is None or not self.is_silent(node_id):
            return None
        return Hold(cause=absence.cause, left_s=max(absence.hold_until_s - self._now_s(), 0.0))

    @property
    def is_settled(self) -> bool:
        """Whether everybody has had the time to return after each outage so far."""
        now_s, rules = self._now_s(), self.rules
        return all(
            now_s - self.hearing.listened_s(outage.ended_s)
            >= min(outage.length_s, rules.return_cap_s) + rules.lease_s + rules.grace_s
            for outage in self.hearing.outages
        )

    # Judging

    def sweep(self, registry: Registry, *, decides: bool = True) -> Sweep:
        """Look at a portion of the nodes whose time has come; what becomes of them is decided once all were looked at.

        So whoever fell silent together is counted together. The caller carries out what this says, and asks for more.
        Without `decides` nobody is called DOWN, nor given up: that waits for the next one with it.
        """
        now_s, sweep = self._now_s(), Sweep()
        for _ in range(LOOKED_AT_ONCE):
            if not self._due or self._due[0][0] > now_s:
                break
            due_s, node_id = heapq.heappop(self._due)
            if self._armed.get(node_id) == due_s:
                del self._armed[node_id]
                self._candidates.update(dict.fromkeys(self._look_at(registry, node_id, now_s, sweep)))
        else:
            sweep.has_more = True
            return sweep
        if not decides:
            for node_id in self._candidates:
                self._arm(node_id, now_s + LOOK_AGAIN_S)
            self._candidates.clear()
            return sweep
        self._decide(registry, self._take_candidates(), now_s, sweep)
        sweep.has_more = bool(self._candidates)
        return sweep

    def _take_candidates(self) -> list[str]:
        """A portion of those to be decided on; not who was heard, or decided on, since he was looked at."""
        chosen = list(islice(self._candidates, DECIDED_AT_ONCE))
        for node_id in chosen:
            del self._candidates[node_id]
        return [node_id for node_id in chosen if self.is_silent(node_id)]

    def _now_s(self) -> float:
        return self.hearing.listened_s(self.hearing.as_of_s)

    def _look_at(self, registry: Registry, node_id: str, now_s: float, sweep: Sweep) -> list[str]:
        """The node's id where it is to be decided whether it is lost."""
        node, live, absence = registry.nodes.get(node_id), registry.live.get(node_id), self._absent.get(node_id)
        if node is None or live is None:
            self.forget(node_id)
            return []
        if node.state is NodeState.DOWN:
            return self._remember(node_id, absence, now_s) if absence else []
        return self._judge(node, live, absence, now_s, sweep)

    def _remember(self, node_id: str, absence: Absence, now_s: float) -> list[str]:
        """A node that is DOWN is waited for until it is given up, and counts among those lost together for a while."""
        horizon_s = absence.heard_at_s + REMEMBERED_LEASES * (self.rules.lease_s + self.rules.grace_s)
        if not absence.is_given_up:
            return [node_id]
        if now_s >= horizon_s:
            self.forget(node_id)
        else:
            self._arm(node_id, horizon_s)
        return []

    def _judge(self, node: Node, live: NodeLive, absence: Absence | None, now_s: float, sweep: Sweep) -> list[str]:
        if absence is not None and absence.is_down:  # the store refused that verdict: it is passed again
            absence = replace(absence, is_down=False, is_given_up=False)
        heard_s = self.hearing.last_heard_s((node.id, *node.aliases))
        heard_s = self.hearing.origin_s if heard_s is None else heard_s
        late_s, over_s = self._limits(live, heard_s)
        if absence and heard_s > absence.heard_s and now_s < late_s:
            self.watch(node.id)
            sweep.back.append(node.id)
            absence = None
        if absence is None:
            if now_s < late_s:
                self._arm(node.id, late_s)
                return []
            absence = self._miss(node, live, heard_s, over_s, sweep)
            if live.will_mono_s is not None:
                absence = replace(absence, broke_s=live.will_mono_s)
        is_over = now_s >= absence.over_s or absence.is_confirmed
        if is_over is not absence.is_silent or over_s < absence.over_s:
            absence = replace(absence, over_s=min(over_s, absence.over_s), is_silent=is_over)
        self._put(node.id, absence)
        if is_over:
            return [node.id]
        self._arm(node.id, min(over_s, now_s + LOOK_AGAIN_S))
        return []

    def _limits(self, live: NodeLive, heard_s: float) -> tuple[float, float]:
        """When a node is late, and when its grace is over; a will from before its last sign of life is taken back."""
        rules, heard_at_s = self.rules, self.hearing.listened_s(heard_s)
        late_s, over_s = heard_at_s + rules.lease_s, heard_at_s + rules.lease_s + rules.grace_s
        if live.will_mono_s is None or live.will_mono_s < heard_s:
            live.will_mono_s, live.has_left = None, False
            return late_s, over_s
        will_at_s = self.hearing.listened_s(live.will_mono_s)
        unknown_s = max(live.will_mono_s - self.hearing.as_of_s, 0.0)  # it came after the newest echo
        return min(late_s, will_at_s), min(over_s, will_at_s + unknown_s + rules.will_grace_s)

    def _miss(self, node: Node, live: NodeLive, heard_s: float, over_s: float, sweep: Sweep) -> Absence:
        heard_at_s = self.hearing.listened_s(heard_s)
        was_ready = node.state is NodeState.READY
        if was_ready:
            cause = self._cause(node, live, heard_s)
            sweep.verdicts.append(Verdict(node_id=node.id, state=NodeState.SUSPECT, cause=cause))
        self._moments = None
        return Absence(heard_s=heard_s, heard_at_s=heard_at_s, over_s=over_s, counts=was_ready)

    def _cause(self, node: Node, live: NodeLive, heard_s: float) -> str:
        silence_s = self._now_s() - self.hearing.listened_s(heard_s)
        if node.state is NodeState.REGISTERED:
            return f"it never sent anything in {silence_s:.1f} s"
        if live.will_mono_s is None:
            return f"nothing heard of it for {silence_s:.1f} s"
        ago_s = self._now_s() - self.hearing.listened_s(live.will_mono_s)
        if live.has_left:
            return f"its worker was stopped {ago_s:.1f} s ago"
        return f"its connection broke {ago_s:.1f} s ago (last will)"

    # Lost alone or together

    def _decide(self, registry: Registry, candidates: list[str], now_s: float, sweep: Sweep) -> None:
        down = sum(1 for absence in self._absent.values() if absence.counts and absence.is_down)
        known = registry.ready_count + down
        has_nobody = registry.ready_count <= sum(1 for item in self._absent.values() if item.counts) - down
        if self._had_nobody and not has_nobody:
            self._wait_for_the_others(now_s)
        self._had_nobody = has_nobody and bool(self._absent)
        for node_id in candidates:
            absence = self._absent[node_id]
            if absence.hold_until_s is None:
                absence = self._held(absence, known, now_s, has_nobody=has_nobody)
            absence = self._held_longer(absence)
            if absence.is_confirmed or now_s >= (absence.hold_until_s or 0.0):
                absence = self._call_down(registry, node_id, absence, sweep, has_nobody=has_nobody)
            self._put(node_id, absence)
            self._arm(node_id, min(absence.hold_until_s or inf, now_s + LOOK_AGAIN_S))

    def _held(self, absence: Absence, known: int, now_s: float, *, has_nobody: bool) -> Absence:
        """Until when it is waited for: not at all where it was lost alone."""
        rules = self.rules
        outage_s = min(self.hearing.longest_outage_s(absence.heard_s), rules.return_cap_s)
        until_s = max(absence.over_s + outage_s, self._return_s(absence))
        cause = f"nobody could be heard for {outage_s:.0f} s: it has as long again"
        if absence.wait_until_s > until_s:
            until_s, cause = absence.wait_until_s, ONE_BY_ONE
        together = self._together(absence)
        is_mass = together >= rules.mass_count and together > rules.mass_share * known
        if absence.counts and (is_mass or has_nobody) and now_s + rules.hold_s > until_s:
            until_s = now_s + rules.hold_s
            cause = f"{together} of {known} nodes fell silent together" if is_mass else NOBODY
        return replace(absence, hold_until_s=until_s, decided_s=self.hearing.as_of_s, cause=cause)

    def _return_s(self, absence: Absence) -> float:
        """By when it may return after all outages since it was heard: it may not have tried in between."""
        outages = self.hearing.outages
        if not outages or outages[-1].ended_s <= absence.heard_s:
            return -inf
        away_s = min(outages[-1].ended_s - absence.heard_s, self.rules.return_cap_s)
        return self.hearing.listened_s(outages[-1].ended_s) + away_s + self.rules.grace_s

    def _held_longer(self, absence: Absence) -> Absence:
        """An outage while it is waited for gives its own length again as well; a link that flaps does not."""
        rules, until_s = self.rules, absence.hold_until_s
        for outage in self.hearing.ended_after(absence.decided_s):
            if until_s is not None and outage.length_s > rules.lease_s:
                again_s = min(outage.length_s, rules.return_cap_s)
                until_s = max(until_s, self.hearing.listened_s(outage.ended_s) + again_s + rules.grace_s)
        return replace(absence, hold_until_s=until_s)

    def _together(self, absence: Absence) -> int:
        """How many nodes fell silent within one lease of this one, whether or not they are back."""
        if self._moments is None:
            self._moments, self._breaks = self._sorted_moments(), self._sorted_breaks()
        silent = _count_near(self._moments, absence.heard_at_s, self.rules.lease_s)
        return silent if absence.broke_s is None else max(silent, _count_near(self._breaks, absence.broke_s, AT_ONCE_S))

    def _sorted_moments(self) -> list[float]:
        """When who is absent was last heard, and who was late not long ago; nobody counts twice."""
        horizon_s = self._now_s() - REMEMBERED_LEASES * (self.rules.lease_s + self.rules.grace_s)
        self._returned = {
            node_id: heard_at_s
            for node_id, heard_at_s in self._returned.items()
            if heard_at_s > horizon_s and node_id not in self._absent
        }
        return sorted([*self._returned.values(), *(item.heard_at_s for item in self._absent.values() if item.counts)])

    def _sorted_breaks(self) -> list[float]:
        """When sessions ended, of who is absent and of who was not long ago."""
        horizon_s = self.hearing.as_of_s - REMEMBERED_LEASES * self.rules.will_grace_s
        self._mended = {
            node_id: broke_s
            for node_id, broke_s in self._mended.items()
            if broke_s > horizon_s and node_id not in self._absent
        }
        absent = (item.broke_s for item in self._absent.values() if item.counts and item.broke_s is not None)
        return sorted([*self._mended.values(), *absent])

    def _call_down(
        self, registry: Registry, node_id: str, absence: Absence, sweep: Sweep, *, has_nobody: bool
    ) -> Absence:
        if not absence.is_down:
            cause = self._cause(registry.nodes[node_id], registry.live[node_id], absence.heard_s)
            cause = f"{cause}; {CONFIRMED}" if absence.is_confirmed else cause
            sweep.verdicts.append(Verdict(node_id=node_id, state=NodeState.DOWN, cause=cause))
        if has_nobody and absence.counts and not absence.is_confirmed:
            return replace(absence, is_down=True, hold_until_s=inf, cause=NOBODY)
        sweep.given_up.append(node_id)
        return replace(absence, is_down=True, is_given_up=True)

    def _wait_for_the_others(self, now_s: float) -> None:
        """Somebody is READY again after nobody was: the others have as long again as they were away."""
        for node_id, absence in self._absent.items():
            if absence.is_given_up:
                continue
            until_s = now_s + min(now_s - absence.heard_at_s, self.rules.return_cap_s)
            absence = replace(absence, wait_until_s=until_s)
            if absence.hold_until_s is not None and (absence.hold_until_s == inf or absence.hold_until_s < until_s):
                absence = replace(absence, hold_until_s=until_s, cause=ONE_BY_ONE)
            self._absent[node_id] = absence

    def _put(self, node_id: str, absence: Absence) -> None:
        if node_id not in self._absent:
            self._moments = None
        self._absent[node_id] = absence

    def _arm(self, node_id: str, due_s: float) -> None:
        if self._armed.get(node_id, inf) > due_s:
            self._armed[node_id] = due_s
            heapq.heappush(self._due, (due_s, node_id))


def _count_near(moments: list[float], at_s: float, distance_s: float) -> int:
    return bisect_right(moments, at_s + distance_s) - bisect_left(moments, at_s - distance_s)
