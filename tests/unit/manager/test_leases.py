"""Who is alive, judged fairly, and who was lost together (section 1 of the reliability work)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from manager.domain import leases
from manager.domain.hearing import Hearing
from manager.domain.leases import LeaseRules, Leases
from manager.domain.model import Node, NodeLive, NodeState
from testbed.records import node

RULES = LeaseRules(lease_s=10.0, grace_s=5.0, will_grace_s=10.0, hold_s=120.0, return_cap_s=600.0)
READY, SUSPECT, DOWN, REGISTERED = NodeState.READY, NodeState.SUSPECT, NodeState.DOWN, NodeState.REGISTERED


@dataclass
class Scene:
    """Nodes that speak every two seconds while they can, and a manager that sweeps four times a second."""

    count: int = 1
    rules: LeaseRules = RULES
    deaf_s: float = 0.0
    nodes: dict[str, Node] = field(default_factory=dict)
    live: dict[str, NodeLive] = field(default_factory=dict)
    mute: set[str] = field(default_factory=set)
    now_s: float = 1000.0
    is_deaf: bool = False
    said: list[tuple[float, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hearing = Hearing(self.now_s, self.deaf_s)
        self.leases = Leases(self.hearing, self.rules)
        for number in range(self.count):
            self.add(f"n{number}", READY)

    def add(self, name: str, state: NodeState) -> None:
        self.nodes[name] = replace(node(name), id=name, state=state)
        self.live[name] = NodeLive()
        self.leases.watch(name)

    @property
    def ready_count(self) -> int:
        return sum(1 for item in self.nodes.values() if item.state is READY)

    def run(self, seconds: float) -> list[tuple[str, str]]:
        """Let time pass; what was said of whom."""
        before = len(self.said)
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self._pass()
            self._sweep()
        return [(name, words) for _, name, words in self.said[before:]]

    def listen(self, seconds: float) -> None:
        """Let time pass in which nobody is judged."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self._pass()

    def _pass(self) -> None:
        self.now_s += 0.25
        if not self.is_deaf:
            self._speak()
            self.hearing.echoed(self.now_s)

    def _speak(self) -> None:
        if self.now_s % 2.0:
            return
        for name in self.nodes.keys() - self.mute:
            self.hearing.heard(name, self.now_s)
            if self.nodes[name].state is not READY:
                self.nodes[name] = replace(self.nodes[name], state=READY)
                self.leases.watch(name)
                self.said.append((self.now_s, name, "READY"))

    def _sweep(self) -> None:
        has_more = True
        while has_more:
            has_more = self._sweep_portion()

    def _sweep_portion(self) -> bool:
        sweep = self.leases.sweep(self)
        for verdict in sweep.verdicts:
            if verdict.state is DOWN:
                self.nodes[verdict.node_id] = replace(self.nodes[verdict.node_id], state=DOWN)
            self.said.append((self.now_s, verdict.node_id, verdict.state))
        self.said += [(self.now_s, name, "BACK") for name in sweep.back]
        self.said += [(self.now_s, name, "GIVEN UP") for name in sweep.given_up]
        return sweep.has_more

    def will(self, name: str, *, has_left: bool = False) -> None:
        self.live[name].will_mono_s, self.live[name].has_left = self.now_s, has_left
        self.leases.look(name)

    def deafen(self, seconds: float) -> None:
        self.is_deaf = True
        self.hearing.deafen()
        self.run(seconds)
        self.is_deaf = False

    def when(self, name: str, words: str) -> float:
        return next(at_s for at_s, who, what in self.said if (who, what) == (name, words))

    def given_up(self) -> set[str]:
        return {name for _, name, words in self.said if words == "GIVEN UP"}


def test_a_node_that_dies_alone_is_given_up_after_lease_and_grace() -> None:
    """SUSPECT after the lease, DOWN and given up after the grace; the others are not touched."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    died_s = scene.now_s
    scene.run(30.0)
    assert scene.when("n0", SUSPECT) - died_s <= RULES.lease_s
    assert scene.when("n0", "GIVEN UP") - died_s <= RULES.lease_s + RULES.grace_s
    assert {name for _, name, words in scene.said if words != "READY"} == {"n0"}


def test_one_of_two_that_dies_alone_is_given_up_as_soon() -> None:
    """A cluster of two is no exception: the other one is READY."""
    scene = Scene(2)
    scene.run(20.0)
    scene.mute.add("n0")
    died_s = scene.now_s
    scene.run(30.0)
    assert scene.when("n0", "GIVEN UP") - died_s <= RULES.lease_s + RULES.grace_s


def test_a_node_that_returns_within_its_grace_is_back() -> None:
    """It was SUSPECT, and nothing else."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    scene.run(13.0)
    scene.mute.clear()
    assert scene.run(30.0) == [("n0", "BACK")]


def test_silence_while_nobody_can_be_heard_does_not_count() -> None:
    """The broker is away for longer than lease and grace: nobody is judged."""
    scene = Scene(3)
    scene.run(20.0)
    scene.deafen(60.0)
    assert scene.run(5.0) == []
    assert scene.given_up() == set()


@pytest.mark.parametrize("outage_s", [20.0, 33.0, 300.0])
def test_after_an_outage_a_node_has_the_outages_own_length_again(outage_s: float) -> None:
    """Clients double their pauses: a node that returns after as long again was never DOWN."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute = {"n0", "n1", "n2"}
    scene.deafen(outage_s)
    scene.mute = {"n2"}
    scene.run(outage_s - 1.0)
    scene.mute = set()
    scene.run(60.0)
    assert DOWN not in {words for _, _, words in scene.said}


def test_after_an_outage_a_dead_node_is_found_in_the_end() -> None:
    """Lease, grace and the outage's own length later it is given up."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute = {"n2"}
    scene.deafen(33.0)
    back_s = scene.now_s
    scene.run(100.0)
    assert scene.given_up() == {"n2"}
    assert 40.0 <= scene.when("n2", "GIVEN UP") - back_s <= 33.0 + 15.0 + 1.0


def test_the_outages_own_length_is_bounded() -> None:
    """After a day without a broker nobody waits for another day."""
    scene = Scene(3, replace(RULES, return_cap_s=60.0))
    scene.run(20.0)
    scene.mute = {"n2"}
    scene.deafen(3600.0)
    back_s = scene.now_s
    scene.run(100.0)
    assert scene.when("n2", "GIVEN UP") - back_s <= 76.0


def test_a_manager_that_was_away_gives_as_long_again() -> None:
    """A start after a known absence is an outage as any other."""
    scene = Scene(3, deaf_s=33.0)
    scene.mute = {"n2"}
    scene.run(40.0)
    assert scene.given_up() == set()
    scene.run(20.0)
    assert scene.given_up() == {"n2"}


def test_after_outages_in_a_row_a_node_has_as_long_again_as_they_lasted_together() -> None:
    """Its client may not have tried in between: it is given up only as much later, and the grace."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute = {"n2"}
    died_s = scene.now_s
    scene.deafen(60.0)
    scene.run(2.0)
    scene.deafen(20.0)
    back_s = scene.now_s
    away_s = back_s - died_s
    assert scene.run(away_s + RULES.grace_s - 2.0) == [("n2", SUSPECT)]
    scene.run(6.0)
    assert scene.given_up() == {"n2"}


@pytest.mark.parametrize(("again_s", "waits"), [(30.0, True), (5.0, False)])
def test_an_outage_while_a_node_is_waited_for_gives_its_own_length_again(again_s: float, *, waits: bool) -> None:
    """One that is longer than a lease, for a link that flaps would put the verdict off for ever."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute = {"n2"}
    scene.deafen(40.0)
    scene.run(40.0)
    assert scene.leases.is_silent("n2")
    scene.deafen(again_s)
    scene.run(RULES.lease_s + RULES.grace_s + 4.0)
    assert scene.given_up() == (set() if waits else {"n2"})
    scene.run(again_s + 2.0)
    assert scene.given_up() == {"n2"}


def test_an_outage_is_over_when_everybody_has_had_the_time_to_return() -> None:
    """Its own length, bounded, and lease and grace after it; what is silent then is silent for reasons of its own."""
    scene = Scene(2, replace(RULES, return_cap_s=60.0))
    scene.run(20.0)
    assert scene.leases.is_settled
    for outage_s, again_s in ((33.0, 33.0), (600.0, 60.0)):
        scene.deafen(outage_s)
        scene.run(again_s + RULES.lease_s + RULES.grace_s - 1.0)
        assert not scene.leases.is_settled
        scene.run(2.0)
        assert scene.leases.is_settled


@pytest.mark.parametrize(("count", "lost"), [(1, 1), (2, 2), (3, 2), (3, 3), (4, 2), (4, 4), (10, 4), (10, 10)])
def test_losses_that_happen_together_are_one_event_whatever_the_size(count: int, lost: int) -> None:
    """More than 30 % and at least two, or all: nobody is given up before the bound, whoever returns is left alone."""
    scene = Scene(count)
    scene.run(20.0)
    scene.mute = {f"n{number}" for number in range(lost)}
    scene.run(100.0)
    assert scene.given_up() == set()
    assert set(scene.leases.held()) == scene.mute
    scene.mute = set()
    scene.run(10.0)
    assert scene.given_up() == set()
    assert set(scene.leases.held()) == set()


@pytest.mark.parametrize(("count", "lost"), [(4, 1), (10, 3), (10, 1)])
def test_few_losses_are_taken_for_what_they_are(count: int, lost: int) -> None:
    """30 % or less, or a single node: given up after lease and grace."""
    scene = Scene(count)
    scene.run(20.0)
    scene.mute = {f"n{number}" for number in range(lost)}
    scene.run(17.0)
    assert scene.given_up() == scene.mute


def test_losses_one_after_the_other_are_not_one_event() -> None:
    """Two of three that die a minute apart are two single losses; the last one has nobody to be replaced on."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    scene.run(60.0)
    scene.mute.add("n1")
    scene.run(20.0)
    assert scene.given_up() == {"n0", "n1"}


def test_a_mass_loss_is_resolved_after_the_bound() -> None:
    """Five of ten that are really dead are given up when the bound has passed."""
    scene = Scene(10)
    scene.run(20.0)
    scene.mute = {f"n{number}" for number in range(5)}
    died_s = scene.now_s
    scene.run(200.0)
    assert scene.given_up() == scene.mute
    last_s = max(scene.when(name, "GIVEN UP") for name in scene.mute)
    assert last_s - died_s <= RULES.lease_s + RULES.grace_s + RULES.hold_s + 2.0


def test_part_of_a_mass_loss_that_returns_frees_nothing_of_the_others() -> None:
    """The first ones back do not end the waiting for those who may still be on their way."""
    scene = Scene(10)
    scene.run(20.0)
    scene.mute = {f"n{number}" for number in range(5)}
    scene.run(30.0)
    scene.mute = {"n4"}
    scene.run(60.0)
    assert scene.given_up() == set()
    assert set(scene.leases.held()) == {"n4"}
    hold = scene.leases.hold_of("n4")
    assert hold is not None
    assert "together" in hold.cause
    assert 0 < hold.left_s < RULES.hold_s


def test_with_no_ready_node_nothing_is_given_up_however_long_it_lasts() -> None:
    """All are away for an hour: they are called DOWN after the bound, and nothing is given up."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute = {"n0", "n1", "n2"}
    scene.run(3600.0)
    assert {item.state for item in scene.nodes.values()} == {DOWN}
    assert scene.given_up() == set()


def test_the_first_node_back_after_a_total_loss_leaves_the_others_as_long_again() -> None:
    """The second one returns within the time that all were away: nothing of it was given up; the dead one is, later."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute = {"n0", "n1", "n2"}
    scene.run(300.0)
    scene.mute = {"n1", "n2"}
    scene.run(280.0)
    assert scene.given_up() == set()
    scene.mute = {"n2"}
    scene.run(60.0)
    assert scene.given_up() == {"n2"}


def test_an_operator_ends_the_waiting_at_once() -> None:
    """Confirmed as lost, a node is DOWN and given up at the next look, with or without others."""
    for lost in (2, 3):
        scene = Scene(3)
        scene.run(20.0)
        scene.mute = {f"n{number}" for number in range(lost)}
        scene.run(20.0)
        assert scene.leases.confirm("n0")
        scene.run(0.5)
        assert scene.given_up() == {"n0"}
        assert not scene.leases.confirm("n0")


def test_nobody_confirms_the_loss_of_a_node_that_is_there() -> None:
    """A READY node is missed by nobody."""
    scene = Scene(3)
    scene.run(20.0)
    assert not scene.leases.confirm("n0")


def test_a_last_will_makes_suspect_at_once_and_down_after_its_own_grace() -> None:
    """SUSPECT at once; DOWN when nothing is heard for the will's grace."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    scene.run(1.0)
    scene.will("n0")
    at_s = scene.now_s
    scene.run(30.0)
    assert scene.when("n0", SUSPECT) - at_s <= 0.25
    assert RULES.will_grace_s <= scene.when("n0", "GIVEN UP") - at_s <= RULES.will_grace_s + 0.5


def test_a_will_behind_the_newest_echo_has_its_whole_grace() -> None:
    """Whether that time counts is known with the next echo: until then it is not taken off the grace."""
    scene = Scene(count=3)
    scene.run(2.0)
    scene.mute.add("n0")
    scene.now_s += 0.2
    scene.live["n0"].will_mono_s = at_s = scene.now_s
    scene.leases.look("n0")
    scene._sweep()
    scene.now_s += 0.05
    scene.run(20.0)
    assert scene.when("n0", "GIVEN UP") - at_s >= RULES.will_grace_s


def test_the_last_of_many_sessions_that_ended_at_once_are_waited_for() -> None:
    """Five of ten end, three are back at once: the others belong to the same event. One that ends later is alone."""
    scene = Scene(count=10)
    scene.run(2.0)
    broken = [f"n{number}" for number in range(5)]
    scene.mute.update(broken)
    for name in broken:
        scene.will(name)
    scene.run(4.0)
    scene.mute.difference_update(broken[:3])
    scene.run(3.0)
    scene.mute.add("n9")
    scene.will("n9")
    scene.run(30.0)
    assert scene.given_up() == {"n9"}
    scene.run(RULES.hold_s)
    assert scene.given_up() == {"n9", "n3", "n4"}


def test_any_sign_of_life_takes_a_will_back() -> None:
    """The worker's process was killed and is back after nine seconds: it costs nothing."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    scene.will("n0")
    scene.run(9.0)
    scene.mute.clear()
    assert ("n0", "BACK") in scene.run(30.0)
    assert scene.given_up() == set()
    assert scene.live["n0"].will_mono_s is None


def test_a_late_will_never_lengthens_the_detection() -> None:
    """The broker may notice a cut cable only when lease and grace are nearly over."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    died_s = scene.now_s
    scene.run(14.0)
    scene.will("n0")
    scene.run(10.0)
    assert scene.when("n0", "GIVEN UP") - died_s <= RULES.lease_s + RULES.grace_s


def test_a_manager_whose_link_flaps_still_judges() -> None:
    """Connected for five seconds, away for five: the dead node is found, the living ones are not touched."""
    scene = Scene(3)
    scene.run(20.0)
    scene.mute.add("n0")
    for _ in range(12):
        scene.run(5.0)
        scene.deafen(5.0)
    scene.run(5.0)
    assert scene.given_up() == {"n0"}


def test_nodes_that_never_came_are_down_and_no_mass() -> None:
    """Machines that registered and were never heard do not stop the others from being judged."""
    scene = Scene(4)
    scene.run(20.0)
    for number in range(10):
        scene.add(f"r{number}", REGISTERED)
        scene.mute.add(f"r{number}")
    scene.mute.add("n0")
    scene.run(17.0)
    assert "n0" in scene.given_up()
    scene.run(10.0)
    assert {scene.nodes[f"r{number}"].state for number in range(10)} == {DOWN}


def test_nodes_that_were_down_at_the_start_may_still_be_on_their_way() -> None:
    """What nobody gave up before a restart of the manager is not given up by it."""
    scene = Scene(1, deaf_s=30.0)
    scene.nodes["d"] = replace(node("d"), id="d", state=DOWN)
    scene.live["d"] = NodeLive()
    scene.leases.resume("d")
    scene.mute.add("d")
    scene.run(40.0)
    assert scene.given_up() == set()
    scene.run(10.0)
    assert scene.given_up() == {"d"}


def test_a_node_that_was_removed_is_not_judged_any_more() -> None:
    """Neither one that is late nor one that is well."""
    scene = Scene(4)
    scene.run(20.0)
    scene.mute.add("n0")
    scene.run(11.0)
    for name in ("n0", "n1"):
        del scene.nodes[name], scene.live[name]
        scene.leases.forget(name)
    assert scene.run(60.0) == []


def test_the_last_of_many_to_return_are_not_taken_for_lost_alone() -> None:
    """All were silent together for 13 s; two come back a little after the end of their grace, the others before it."""
    scene = Scene(10)
    scene.run(20.0)
    scene.mute = set(scene.nodes)
    scene.run(13.0)
    scene.mute = {"n0", "n1"}
    scene.run(20.0)
    assert scene.given_up() == set()
    assert {name for name in scene.nodes if scene.leases.hold_of(name)} == {"n0", "n1"}
    scene.mute = set()
    scene.run(5.0)
    assert scene.given_up() == set()
    assert not any(map(scene.leases.is_missed, scene.nodes))


def test_a_short_break_of_others_does_not_delay_the_end_of_one_that_dies_alone() -> None:
    """Worker processes that were restarted, and the machine's own earlier break, are not losses together with it."""
    scene = Scene(3)
    scene.run(20.0)
    for name in scene.nodes:
        scene.will(name)
    scene.run(3.0)
    scene.mute.add("n0")
    died_s = scene.now_s
    scene.run(30.0)
    assert scene.when("n0", "GIVEN UP") - died_s <= RULES.lease_s + RULES.grace_s
    assert scene.given_up() == {"n0"}


@pytest.fixture(name="portions")
def _portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOKED_AT_ONCE", 2)
    monkeypatch.setattr(leases, "DECIDED_AT_ONCE", 1)


@pytest.mark.usefixtures("portions")
def test_those_who_fall_silent_together_are_one_event_though_looked_at_in_portions() -> None:
    """All are looked at before one is decided on: each is waited for, and none is given up before the bound."""
    scene = Scene(10)
    scene.run(20.0)
    scene.mute |= {f"n{number}" for number in range(4)}
    scene.run(RULES.lease_s + RULES.grace_s + 5.0)
    assert scene.given_up() == set()
    assert {name for name in scene.nodes if scene.leases.hold_of(name)} == scene.mute
    scene.run(RULES.hold_s)
    assert scene.given_up() == scene.mute


@pytest.mark.usefixtures("portions")
def test_a_portion_never_does_more_than_its_bound_and_says_that_there_is_more() -> None:
    """However many are due: two are looked at, or one is decided on; the last portion says that it was the last."""
    scene = Scene(7)
    scene.run(20.0)
    scene.mute |= {"n0", "n1"}
    scene.run(RULES.lease_s + 1.0)
    scene.listen(RULES.grace_s + RULES.lease_s)
    before, count, has_more = len(scene.said), 0, True
    while has_more:
        already, count = len(scene.said), count + 1
        has_more = scene._sweep_portion()
        assert len(scene.said) - already <= 2
    assert count > 7 / 2
    assert [words for _, _, words in scene.said[before:]].count("GIVEN UP") == 2


@pytest.mark.usefixtures("portions")
def test_who_is_heard_between_two_portions_is_not_decided_on() -> None:
    """A sign of life counts until the very moment of the decision."""
    scene = Scene(9)
    scene.run(20.0)
    scene.mute |= {"n0", "n1"}
    scene.run(RULES.lease_s + 1.0)
    scene.listen(RULES.grace_s + RULES.lease_s)
    while not scene.given_up():
        assert scene._sweep_portion()
    [other] = scene.mute - scene.given_up()
    scene.hearing.heard(other, scene.now_s)
    scene.leases.watch(other)
    while scene._sweep_portion():
        pass
    assert other not in scene.given_up()
    assert not scene.leases.is_missed(other)
