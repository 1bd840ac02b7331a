"""Acknowledged means for ever: what ended while its node was away is remembered until that node has confirmed it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.jobs import OnDisconnect
from manager.domain.aggregate import ClusterState
from manager.domain.events import Seen
from manager.domain.model import InstanceState
from manager.domain.policy import Policy
from manager.domain.reconciliation import Rung, ring
from manager.domain.tombstones import MAX_ENDED, Ended, buried, confirmed, owing, reopened
from manager.explain import summary
from simulation.lives import Life, spec
from testbed.scene import KEY, LATER, NOW, Scene

S = InstanceState


def test_a_delete_acknowledged_while_its_node_is_away_outlives_every_retention() -> None:
    """STOPPED to the operator, yet remembered for a month; found running it is deleted, and then forgotten."""
    scene = Scene()
    generation = scene.run()
    scene.down()
    scene.state.delete([KEY], "root", NOW)
    assert scene.instance.state is S.STOPPED
    assert ring(scene.state, KEY, LATER) is Rung.OWED
    scene.back()
    [order] = scene.inventory((generation, "RUNNING")).stale
    assert (order.verb.value, order.node_id, order.generation) == ("delete", scene.nodes["n1"], generation)
    assert not scene.is_purged()
    assert not scene.inventory((generation, "RUNNING")).orphans
    scene.say("STOPPED", generation)
    assert scene.is_purged()


def test_an_inventory_without_it_is_the_confirmation() -> None:
    """A machine with a new disk holds nothing: nothing is owed any more."""
    scene = Scene()
    scene.run()
    scene.down()
    scene.state.delete([KEY], "root", NOW)
    scene.back()
    scene.inventory()
    assert scene.is_purged()


def test_a_stale_inventory_confirms_nothing() -> None:
    """One from before a state that is known already does not tell the present."""
    scene = Scene()
    scene.run()
    scene.down()
    scene.state.delete([KEY], "root", NOW)
    scene.state.live[scene.nodes["n1"]].last_sequence = 99
    scene.inventory()
    assert scene.owed() == ["n1"]


def test_what_a_node_itself_told_is_owed_by_nobody() -> None:
    """Deleted while its node is there, it is forgotten after the retention as ever."""
    scene = Scene()
    generation = scene.run()
    scene.state.delete([KEY], "root", NOW)
    scene.say("STOPPED", generation)
    assert scene.owed() == []
    assert scene.is_purged()


def test_a_copy_replaced_elsewhere_while_its_node_was_away_is_owed() -> None:
    """Deleted on its new node and confirmed there, it waits for the first node too."""
    scene = Scene("n1", "n2")
    first = scene.run("n1")
    scene.down("n1")
    second = scene.run("n2")
    scene.state.delete([KEY], "root", NOW)
    scene.say("STOPPED", second, "n2")
    assert scene.owed() == ["n1"]
    assert not scene.is_purged()
    scene.back("n1")
    assert [item.generation for item in scene.inventory((first, "RUNNING"), name="n1").stale] == [first]
    scene.inventory(name="n1")
    assert scene.is_purged()


def test_a_removed_node_owes_nothing() -> None:
    """Its tombstones go with it, and what they kept is forgotten in time."""
    scene = Scene()
    scene.run()
    scene.down()
    scene.state.delete([KEY], "root", NOW)
    scene.state.remove_node(scene.nodes["n1"])
    assert owing(scene.instance.ended) == ()
    assert scene.is_purged()


def test_a_crash_between_the_two_writes_of_a_removal_keeps_nothing_for_ever() -> None:
    """The node is gone from the store and its tombstones are not: nobody owes them."""
    scene = Scene()
    scene.run()
    scene.down()
    scene.state.delete([KEY], "root", NOW)
    before, scene.state = scene.state, ClusterState(Policy())
    scene.state.restore([], list(before.jobs.values()), list(before.instances.values()))
    assert owing(scene.instance.ended)
    assert scene.is_purged()


def test_what_is_found_running_after_all_is_owed_again() -> None:
    """A confirmation that proves wrong is taken back: the copy is deleted, and remembered until it is gone."""
    scene = Scene()
    generation = scene.run()
    scene.state.delete([KEY], "root", NOW)
    scene.say("STOPPED", generation)
    assert scene.owed() == []
    assert [item.generation for item in scene.say("RUNNING", generation).stale] == [generation]
    assert scene.owed() == ["n1"]


@pytest.mark.parametrize("status", ["RUNNING", "STARTING"])
def test_what_was_taken_for_gone_by_mistake_counts_again(status: str) -> None:
    """A late inventory lacked it: alive in its last generation and not replaced, it is neither stopped nor doubled."""
    scene = Scene("n1", "n2")
    generation = scene.run("n1")
    scene.inventory(name="n1")
    assert scene.instance.state is S.LOST
    assert scene.say(status, generation, "n1").stale == []
    assert (scene.instance.state.value, scene.instance.generation) == (status, generation)
    assert scene.owed() == []


def test_a_copy_newer_than_what_is_saved_is_left_alone() -> None:
    """A store that was restored from a copy knows less than the node: it deletes nothing that it never placed."""
    scene = Scene()
    generation = scene.run()
    for findings in (scene.say("RUNNING", generation + 1), scene.inventory((generation + 1, "RUNNING"))):
        assert findings.stale == []


def test_what_was_replaced_meanwhile_does_not_count_again() -> None:
    """The newer generation does; the older one is deleted where it is."""
    scene = Scene("n1", "n2")
    first = scene.run("n1")
    scene.inventory(name="n1")
    second = scene.run("n2")
    assert [item.generation for item in scene.say("RUNNING", first, "n1").stale] == [first]
    assert scene.instance.generation == second


def test_tombstones_survive_a_restart() -> None:
    """They are in the instance's record."""
    scene = Scene()
    generation = scene.run()
    scene.down()
    scene.state.delete([KEY], "root", NOW)
    state = scene.state
    state.restore(list(state.nodes.values()), list(state.jobs.values()), list(state.instances.values()))
    assert scene.owed() == ["n1"]
    scene.back()
    assert scene.inventory((generation, "RUNNING")).stale


def test_deploying_it_again_forgets_no_tombstone() -> None:
    """It runs elsewhere in a new generation, and the old node still owes the old one."""
    scene = Scene("n1", "n2")
    scene.run("n1")
    scene.down("n1")
    scene.state.delete([KEY], "root", NOW)
    scene.state.deploy([(KEY, spec())], "root", NOW)
    scene.run("n2")
    assert scene.owed() == ["n1"]


def test_explain_says_which_node_owes_a_confirmation() -> None:
    """By name and state, and what becomes of it."""
    instance = Life().run().delete().node_down().instance
    text = summary(instance, str, None, NOW, owing=["node edge-7 (DOWN)"])
    assert "Still to confirm that no copy of it is left: node edge-7 (DOWN)." in text
    assert "edge-7" not in summary(instance, str, None, NOW)


@pytest.mark.parametrize(
    ("make", "is_owed"),
    [
        (lambda: Life().run().delete().see(Seen.STOPPED), False),
        (lambda: Life().run().delete().node_down(), True),
        (lambda: Life().run().see(Seen.FAILED), False),
        (lambda: Life().place().wait(60).deadline(), True),
        (lambda: Life().run().node_down().place("n2"), True),
        (lambda: Life().run().move().see(Seen.FAILED, "n2"), False),
        (lambda: Life().run().move().node_down("n2"), True),
        (lambda: Life().run().move().wait(60).deadline(), True),
        (lambda: Life().run().move().see(Seen.DEAD, "n1"), False),
        (lambda: Life().run().move().node_down("n1"), True),
        (lambda: Life().run().move().see(Seen.RUNNING, "n2").see(Seen.STOPPED, "n1"), False),
        (lambda: Life().run().deploy(image="b").place("n2").deploy(image="c"), True),
        (lambda: Life().run().delete().see(Seen.STOPPED, is_assumed=True), True),
    ],
)
def test_only_a_nodes_own_word_confirms(make: Any, *, is_owed: bool) -> None:
    """Closed because a node went down, a deadline passed or something newer came, a placement is owed."""
    assert bool(owing(make().instance.ended)) is is_owed


ENDINGS = st.builds(
    Ended,
    node_id=st.sampled_from("abc"),
    generation=st.integers(1, 40),
    at_ms=st.integers(1, 1000),
    is_confirmed=st.booleans(),
)


@given(st.lists(ENDINGS, max_size=60))
def test_no_unconfirmed_generation_is_ever_dropped(endings: list[Ended]) -> None:
    """Per node the highest that it owes is kept, however many were confirmed; those are bounded."""
    ended: tuple[Ended, ...] = ()
    expected: dict[str, int] = {}
    for item in endings:
        ended = buried(ended, item)
        node_id, before = item.node_id, expected.get(item.node_id, 0)
        if not item.is_confirmed:
            expected[node_id] = max(before, item.generation)
        elif before <= item.generation:
            expected.pop(node_id, None)
    assert {item.node_id: item.generation for item in owing(ended)} == expected
    assert len(owing(ended)) == len(expected)
    assert len(ended) - len(owing(ended)) <= MAX_ENDED


def test_an_older_generation_that_is_confirmed_settles_nothing_newer() -> None:
    """A late word about an older copy leaves the newer one owed; about the same, it is settled once."""
    ended = buried((), Ended(node_id="n", generation=5, at_ms=1))
    assert confirmed(ended, "n", 4) is ended
    assert owing(confirmed(ended, "n", 5)) == ()
    assert owing(confirmed(ended, "n", None)) == ()
    assert confirmed(confirmed(ended, "n", 5), "n", 5) == confirmed(ended, "n", 5)
    assert reopened(ended, "n", 5, 9) is ended
    assert [item.generation for item in owing(reopened(confirmed(ended, "n", 5), "n", 5, 9))] == [5]


def test_keep_and_stop_after_owe_like_the_rest() -> None:
    """Whatever `on_disconnect` says, deleted while its node is away it is owed."""
    for policy in OnDisconnect:
        life = Life(on_disconnect=policy).run().node_down().delete().node_down()
        assert life.state is S.STOPPED
        assert owing(life.instance.ended)
