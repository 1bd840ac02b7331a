"""What really happened to hearing: who was heard when, who could not be for reasons of its own, and when nobody could.

It stands beside the manager's own account (`manager/domain/hearing.py`) and judges it: signs of life are counted where
they leave the manager's socket, faults where they are injected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from manager.domain.hearing import GAP_S
from manager.domain.leases import LeaseRules

NOTED_S = 4.0  # shorter silences mean nothing
SLACK_S = 1.5
LATE_S = 1.0  # for an echo
Interval = tuple[float, float]


@dataclass
class Track:
    """When a node was heard last, and the silences before."""

    heard_s: float
    silences: list[Interval] = field(default_factory=list)

    def hear(self, now_s: float) -> None:
        """A message arrived."""
        if now_s - self.heard_s > NOTED_S:
            self.silences.append((self.heard_s, now_s))
        self.heard_s = now_s

    def spans(self) -> list[Interval]:
        """All silences, the present one too."""
        return [*self.silences, (self.heard_s, inf)]

    def at(self, at_s: float) -> Interval | None:
        """The silence in which a time lies."""
        return next((span for span in reversed(self.spans()) if span[0] <= at_s <= span[1]), None)


@dataclass
class Account:
    """One node: messages, times with a fault of its own, last wills.

    `beats` are telemetry and lists, `signs` messages of any kind. A state may be old, and then is no sign of life: who
    is judged must have been silent by either.
    """

    beats: Track
    signs: Track
    faults: list[list[float]] = field(default_factory=list)
    open_faults: int = 0
    wills: list[float] = field(default_factory=list)
    has_crashed: bool = False
    has_new_disk: bool = False
    registered_s: float = 0.0


class Timeline:
    """Times are virtual seconds."""

    def __init__(self, now_s: Callable[[], float], rules: LeaseRules) -> None:
        self._now_s = now_s
        self._rules = rules
        self.accounts: dict[str, Account] = {}
        self._removed: dict[str, Account] = {}
        self.starts_s: list[float] = []
        self.down_s: dict[str, float] = {}
        self._deaf: list[Interval] = []
        self._echo_s = 0.0
        self.late_until_s = 0.0

    # What happens

    def echo(self, sent_s: float) -> None:
        """An echo of the manager to itself came back: what was sent before it has arrived."""
        if self._now_s() - sent_s > LATE_S:
            self.late_until_s = self._now_s()
        if sent_s - self._echo_s > GAP_S:
            self._deaf.append((self._echo_s, sent_s))
        self._echo_s = max(self._echo_s, sent_s)

    def heard(self, node: str, *, is_telemetry: bool) -> None:
        """A message arrived."""
        now_s, account = self._now_s(), self.account(node)
        account.signs.hear(now_s)
        if is_telemetry:
            account.beats.hear(now_s)

    def will(self, node: str) -> None:
        """The broker published a node's last will."""
        (self._removed.get(node) or self.account(node)).wills.append(self._now_s())

    def fault_begins(self, node: str, *, is_crash: bool = False) -> None:
        """Something of its own keeps a node from talking."""
        account = self._removed.get(node) or self.account(node)
        account.has_crashed |= is_crash
        account.open_faults += 1
        if account.open_faults == 1:
            account.faults.append([self._now_s(), inf])

    def new_disk(self, node: str) -> None:
        """A machine is installed anew."""
        (self._removed.get(node) or self.account(node)).has_new_disk = True

    def fault_ends(self, node: str) -> None:
        """Nothing of its own does any more."""
        account = self._removed.get(node) or self.account(node)
        account.open_faults = max(account.open_faults - 1, 0)
        if not account.open_faults and account.faults:
            account.faults[-1][1] = self._now_s()

    def forget(self, node: str) -> None:
        """An operator removed a node: nobody misses it until it is back."""
        if node in self.accounts:
            self._removed[node] = self.accounts.pop(node)

    def account(self, node: str) -> Account:
        """The account of a node, new or known."""
        if node not in self.accounts:
            fresh = self._removed.pop(node, None) or Account(Track(0.0), Track(0.0))
            fresh.beats, fresh.signs = Track(self._now_s()), Track(self._now_s())
            self.accounts[node] = fresh
        return self.accounts[node]

    # What is known

    def deaf(self) -> list[Interval]:
        """When nobody could be heard, up to now."""
        now_s = self._now_s()
        return [*self._deaf, (self._echo_s, now_s)] if now_s - self._echo_s > GAP_S else self._deaf

    @property
    def deaf_until_s(self) -> float:
        """When the last time in which nobody could be heard ended."""
        now_s = self._now_s()
        if now_s - self._echo_s > GAP_S:
            return now_s
        return self._deaf[-1][1] if self._deaf else 0.0

    def listened(self, begin_s: float, end_s: float) -> float:
        """For how long somebody could have been heard."""
        lost_s = sum(max(min(end_s, last_s) - max(begin_s, first_s), 0.0) for first_s, last_s in self.deaf())
        return max(end_s - begin_s - lost_s, 0.0)

    def silence_at(self, node: str, at_s: float) -> Interval | None:
        """The silence in which a time lies."""
        return self.accounts[node].beats.at(at_s) if node in self.accounts else None

    # What follows

    def why_not_lost(self, node: str, at_s: float) -> str:
        """Why nobody may give a node up at a time; "" where one may."""
        if node not in self.accounts:
            return "it is not known"
        by_beats = _Case(self, self._rules, node, at_s, {name: item.beats for name, item in self.accounts.items()})
        by_signs = _Case(self, self._rules, node, at_s, {name: item.signs for name, item in self.accounts.items()})
        return by_beats.why_not() and by_signs.why_not()

    def after(self, begin_s: float, listened_s: float) -> float:
        """When so much has been listened since a time."""
        at_s = begin_s
        for first_s, last_s in self.deaf():
            if last_s <= at_s:
                continue
            if first_s > at_s:
                if first_s - at_s >= listened_s:
                    return at_s + listened_s
                listened_s -= first_s - at_s
            at_s = last_s
        return at_s + listened_s


@dataclass
class _Case:
    """Whether a node may be given up at a time, by one kind of messages."""

    timeline: Timeline
    rules: LeaseRules
    node: str
    at_s: float
    tracks: dict[str, Track]

    def why_not(self) -> str:
        """Why not; "" where it may."""
        silence = self.tracks[self.node].at(self.at_s)
        if silence is None or self.at_s - silence[0] < 1.0:
            return "it was heard"
        begin_s = silence[0]
        faults = self.timeline.accounts[self.node].faults
        if not any(first_s <= self.at_s and last_s >= begin_s - SLACK_S for first_s, last_s in faults):
            return f"nothing was wrong with it since {begin_s:.1f} s"
        over_s = self._over(begin_s)
        if over_s > self.at_s + SLACK_S:
            listened_s = self.timeline.listened(begin_s, self.at_s)
            return f"it was silent since {begin_s:.1f} s only, {listened_s:.1f} s of listening"
        outage_s, since_over_s = self._longest_outage(begin_s), self.timeline.listened(over_s, self.at_s)
        if since_over_s < outage_s - SLACK_S:
            return f"nobody could be heard for {outage_s:.1f} s, and it had {since_over_s:.1f} s of these again"
        return self._why_together(begin_s, over_s) or self._why_nobody(begin_s)

    def _over(self, begin_s: float) -> float:
        """When lease and grace, or the grace of a will, are over."""
        rules = self.rules
        wills = [will_s for will_s in self.timeline.accounts[self.node].wills if begin_s <= will_s <= self.at_s]
        ends = [self.timeline.after(will_s, rules.will_grace_s) for will_s in wills]
        return min([self.timeline.after(begin_s, rules.lease_s + rules.grace_s), *ends])

    def _longest_outage(self, begin_s: float) -> float:
        lengths = [last_s - first_s for first_s, last_s in self.timeline.deaf() if begin_s < last_s <= self.at_s]
        return min(max(lengths, default=0.0), self.rules.return_cap_s)

    def _why_together(self, begin_s: float, over_s: float) -> str:
        """Losses that happen together are waited for."""
        rules = self.rules
        others = [other for other in self.tracks if other != self.node and self._is_late(other, begin_s, over_s)]
        count = 1 + len(others)
        is_mass = count >= rules.mass_count and count > rules.mass_share * len(self.tracks)
        if is_mass and self.timeline.listened(over_s, self.at_s) < rules.hold_s - SLACK_S:
            return f"it fell silent at {begin_s:.1f} s together with {', '.join(others)}"
        return ""

    def _is_late(self, other: str, begin_s: float, by_s: float) -> bool:
        """Whether another fell silent at about that time, and was known to be late, be it back or not."""
        down_s = self.timeline.down_s.get(other, inf)
        if any(down_s < start_s < self.at_s for start_s in self.timeline.starts_s):
            return False  # a manager that began since then knows only that it is DOWN
        lease_s, registered_s = self.rules.lease_s, self.timeline.accounts[other].registered_s
        for first_s, last_s in self.tracks[other].spans():
            if abs(first_s - begin_s) > lease_s - SLACK_S or first_s - SLACK_S < registered_s < last_s:
                continue  # at another time, or it registered meanwhile and was not READY yet
            late_s = self.timeline.after(first_s, lease_s)
            if late_s + SLACK_S < min(by_s, last_s):
                return True
        return False

    def _why_nobody(self, begin_s: float) -> str:
        """After nobody was there, whoever is back gets nothing of those on their way."""
        lates = [self._lates(other) for other in self.tracks if other != self.node]
        own_s = self.timeline.after(begin_s, self.rules.lease_s) + SLACK_S
        moments = [own_s, *(first_s for spans in lates for first_s, _ in spans)]
        for moment_s in sorted(item for item in moments if lates and own_s <= item <= self.at_s):
            ends = [last_s for spans in lates for first_s, last_s in spans if first_s <= moment_s < last_s]
            if len(ends) < len(lates):
                continue
            back_s = min(ends)
            away_s = min(self.timeline.listened(begin_s, back_s), self.rules.return_cap_s)
            if back_s <= self.at_s and self.timeline.listened(back_s, self.at_s) < away_s - SLACK_S:
                return f"nobody was there until {back_s:.1f} s, and it had been away for {away_s:.1f} s"
        return ""

    def _lates(self, other: str) -> list[Interval]:
        lease_s = self.rules.lease_s
        spans = [
            (self.timeline.after(first_s, lease_s) + SLACK_S, last_s) for first_s, last_s in self.tracks[other].spans()
        ]
        return [(first_s, last_s) for first_s, last_s in spans if first_s < min(last_s, self.at_s)]
