"""Who is alive, judged fairly."""

from dataclasses import replace

from manager.domain.leases import Judgement, LeaseRules, judge
from manager.domain.model import Node, NodeLive, NodeState
from testbed.records import node

RULES = LeaseRules(lease_s=10.0, grace_s=5.0)
Pair = tuple[Node, NodeLive]


def _heard(at_s: float, state: NodeState = NodeState.READY, will_s: float | None = None, name: str = "n") -> Pair:
    return replace(node(name), state=state), NodeLive(heartbeat_mono_s=at_s, will_mono_s=will_s)


def _states(judgement: Judgement) -> list[NodeState]:
    return [verdict.state for verdict in judgement.verdicts]


def test_nobody_is_judged_within_one_lease_of_listening() -> None:
    """After its own start, and after its broker's return, the manager first listens."""
    silent = [_heard(0.0), _heard(0.0, NodeState.SUSPECT)]
    assert _states(judge(silent, 109.9, 100.0, RULES)) == []
    assert _states(judge(silent, 110.0, 100.0, RULES)) == [NodeState.SUSPECT]


def test_silence_from_before_we_listened_does_not_count() -> None:
    """A lease runs at least from when we began to listen."""
    assert _states(judge([_heard(0.0, NodeState.SUSPECT)], 112.0, 100.0, RULES)) == []
    assert _states(judge([_heard(0.0, NodeState.SUSPECT)], 115.0, 100.0, RULES)) == [NodeState.DOWN]


def test_a_lease_that_ran_out_makes_suspect_and_the_grace_down() -> None:
    """READY, SUSPECT after the lease, DOWN after the grace; never DOWN from READY."""
    assert _states(judge([_heard(100.0)], 109.0, 0.0, RULES)) == []
    assert _states(judge([_heard(100.0)], 110.0, 0.0, RULES)) == [NodeState.SUSPECT]
    assert _states(judge([_heard(100.0)], 999.0, 0.0, RULES)) == [NodeState.SUSPECT]
    assert _states(judge([_heard(100.0, NodeState.SUSPECT)], 114.9, 0.0, RULES)) == []
    assert _states(judge([_heard(100.0, NodeState.SUSPECT)], 115.0, 0.0, RULES)) == [NodeState.DOWN]


def test_a_last_will_shortens_the_detection() -> None:
    """SUSPECT at once, DOWN one grace later."""
    assert _states(judge([_heard(100.0, will_s=101.0)], 101.0, 0.0, RULES)) == [NodeState.SUSPECT]
    assert _states(judge([_heard(100.0, NodeState.SUSPECT, 101.0)], 105.9, 0.0, RULES)) == []
    assert _states(judge([_heard(100.0, NodeState.SUSPECT, 101.0)], 106.0, 0.0, RULES)) == [NodeState.DOWN]


def test_a_late_last_will_never_lengthens_the_detection() -> None:
    """The broker may notice a cut cable only when the lease and the grace are over."""
    assert _states(judge([_heard(100.0, NodeState.SUSPECT, 114.0)], 115.0, 0.0, RULES)) == [NodeState.DOWN]


def test_a_mass_expiry_pauses_re_placement() -> None:
    """When many expire together, by silence or by last wills, none of them goes DOWN."""
    for will in (None, 100.0):
        silent = [_heard(100.0, NodeState.SUSPECT, will, f"s{n}") for n in range(5)]
        alive = [_heard(119.0, name=f"a{n}") for n in range(11)]
        judgement = judge([*silent, *alive], 120.0, 0.0, RULES)
        assert judgement.is_paused
        assert _states(judgement) == []


def test_few_nodes_or_a_small_share_are_no_mass() -> None:
    """Four nodes, or five of twenty, are taken for what they are: down."""
    four = [_heard(100.0, NodeState.SUSPECT, name=f"s{n}") for n in range(4)]
    assert _states(judge(four, 120.0, 0.0, RULES)) == [NodeState.DOWN] * 4
    five = [_heard(100.0, NodeState.SUSPECT, name=f"s{n}") for n in range(5)]
    alive = [_heard(119.0, name=f"a{n}") for n in range(15)]
    assert _states(judge([*five, *alive], 120.0, 0.0, RULES)) == [NodeState.DOWN] * 5


def test_nodes_that_never_came_are_no_mass() -> None:
    """Machines that registered and were never heard do not stop the others from being judged."""
    absent = [_heard(100.0, NodeState.REGISTERED, name=f"r{n}") for n in range(10)]
    dead = [_heard(100.0, NodeState.SUSPECT, name="s")]
    judgement = judge([*absent, *dead], 120.0, 0.0, RULES)
    assert not judgement.is_paused
    assert _states(judgement) == [NodeState.DOWN] * 11


def test_whoever_returns_last_from_a_mass_expiry_is_spared() -> None:
    """The end of a mass expiry is not the end of those who are not back yet: they have one more lease."""
    nodes = [_heard(100.0, NodeState.SUSPECT, name=f"s{n}") for n in range(6)]
    assert judge(nodes, 200.0, 0.0, RULES).is_paused
    for _, live in nodes[:3]:
        live.heartbeat_mono_s = 200.5
    assert _states(judge(nodes, 201.0, 0.0, RULES)) == []
    assert _states(judge(nodes[3:], 210.0, 0.0, RULES)) == [NodeState.DOWN] * 3
