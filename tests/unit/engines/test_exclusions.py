"""Where an instance must not go, whole kinds and single nodes, and how that is told."""

from manager.domain.engines import Exclusions, exclusions, named
from manager.domain.model import NodeKind, Refusal
from standins.engines.judged import NAME, Judged

TOO_LONG = "a" * 60


def test_a_name_that_no_container_can_have_rules_out_whole_kinds() -> None:
    """It costs the same however many engines there are; a name that fits rules out nothing."""
    fits, exceeds = Judged("A"), Judged("A")
    fits.deploy(TOO_LONG[:53])
    exceeds.deploy(TOO_LONG[:54])
    assert exclusions(fits.state, fits.instance()) == Exclusions()
    found = exclusions(exceeds.state, exceeds.instance())
    assert (set(found.kinds), found.nodes) == ({NodeKind.ENGINE_A}, {})
    refusal = found.of(exceeds.node)
    assert refusal is not None
    assert (refusal.reason, "the older engines take at most 64" in refusal.detail) == ("container_name", True)


def test_an_older_copy_rules_out_its_node_alone() -> None:
    """Still listed after its end: that engine does not get the instance, until the copy is gone."""
    engine = Judged("C")
    engine.running()
    engine.run(4, NAME)
    engine.say("DEAD")
    assert engine.excluded() == {engine.node_id: "older_copy"}
    engine.run(20)
    assert engine.excluded() == {}


def test_a_node_that_is_gone_rules_out_nothing() -> None:
    """What ended on it is remembered, and is no matter."""
    engine = Judged("C")
    engine.running()
    engine.run(4, NAME)
    engine.say("DEAD")
    engine.state.remove_node(engine.node_id)
    assert exclusions(engine.state, engine.instance()) == Exclusions()


NAMES = Refusal(reason="container_name", node_count=1, detail="it is too long")
COPY = Refusal(reason="older_copy", node_count=1, detail="edge-1")


def test_what_the_scheduler_only_knows_as_excluded_is_called_by_its_reason() -> None:
    """A kind by what rules it out, a node by its copy, the rest of the excluded as what it is, all else as it came."""
    told = (
        Refusal(reason="excluded", node_count=3),
        Refusal(reason="kind", node_count=4),
        Refusal(reason="memory", node_count=5, detail="n"),
    )
    excluded = Exclusions(kinds={NodeKind.ENGINE_A: NAMES}, nodes={"n1": COPY, "n2": COPY})
    assert [(item.reason, item.node_count) for item in named(told, excluded)] == [
        ("older_copy", 2),
        ("excluded", 1),
        ("container_name", 4),
        ("memory", 5),
    ]


def test_nothing_is_left_of_the_excluded_where_all_have_a_reason() -> None:
    """No node is counted twice."""
    told = (Refusal(reason="excluded", node_count=1),)
    assert named(told, Exclusions(nodes={"n1": COPY})) == (COPY,)
    assert [item.detail for item in named(told, Exclusions())] == ["it is there, or was until just now"]


def test_a_kind_that_we_did_not_rule_out_is_told_as_it_came() -> None:
    """A move rules out nodes that never report: there is no better word."""
    told = (Refusal(reason="kind", node_count=2),)
    assert named(told, Exclusions()) == told
