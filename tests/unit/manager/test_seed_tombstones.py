"""What a node of the documented dialect owes: it sends no lists, so it is told, and believed in the end."""

from types import SimpleNamespace
from typing import Any

from cluster.nodes import Dialect
from manager.domain.effects import Effect
from manager.domain.model import InstanceKey, InstanceState
from manager.domain.reconciliation import fenced_nodes
from manager.tombstones import MOST_DELETES, Tombstones
from simulation.lives import spec
from testbed.scene import KEY, NOW, Scene


class Sent(list[Effect]):
    """What was sent, in the place of the dispatcher."""

    def send_once(self, effect: Effect) -> bool:
        self.append(effect)
        return True


class Told:
    """A seed node that owes the end of a copy, and who tells it."""

    def __init__(self, *, has_reported: bool) -> None:
        self.scene = Scene(dialect=Dialect.SEED)
        self.scene.state.deploy([(KEY, spec(stop_grace_s=10.0))], "root", NOW)
        assert self.scene.state.place(KEY, self.scene.nodes["n1"], NOW) == ""
        if has_reported:
            self.scene.say("RUNNING", None)
        self.scene.down()
        self.scene.state.delete([KEY], "root", NOW)
        self.now_ms, self.sent = NOW, Sent()
        self.heard_s: float | None = None
        core: Any = SimpleNamespace(
            state=self.scene.state,
            dispatcher=self.sent,
            now_ms=lambda: self.now_ms,
            clock=SimpleNamespace(mono_s=lambda: self.now_ms / 1000),
            last_heard_s=lambda _node: self.heard_s,
            hearing=SimpleNamespace(back_s=lambda _topic_ids: None),
        )
        self.tombstones = Tombstones(core)

    def wait(self, seconds: int, *, is_heard: bool = True) -> None:
        for _ in range(seconds):
            self.now_ms += 1000
            if is_heard:
                self.heard_s = self.now_ms / 1000
            self.tombstones.look()


def test_a_silent_node_is_told_once_it_is_back_and_believed_after_the_stop_grace() -> None:
    """Nothing is sent while it is away; told while READY, heard after the grace, it owes nothing."""
    told = Told(has_reported=False)
    told.wait(60)
    assert not told.sent
    told.scene.back()
    told.wait(9)
    assert [order.generation for order in told.sent] == [told.scene.instance.generation]
    assert told.scene.owed() == ["n1"]
    told.wait(5)
    assert (len(told.sent), told.scene.owed()) == (1, [])
    assert told.scene.is_purged()


def test_a_silent_node_that_went_away_within_the_grace_is_told_anew() -> None:
    """What was sent may not have arrived."""
    told = Told(has_reported=False)
    told.scene.back()
    told.wait(2)
    told.scene.down()
    told.wait(30)
    assert told.scene.owed() == ["n1"]
    told.scene.back()
    told.wait(2)
    assert len(told.sent) == 2


def test_a_silent_node_that_is_not_heard_after_it_was_told_is_not_believed() -> None:
    """READY is only what was known last."""
    told = Told(has_reported=False)
    told.scene.back()
    told.wait(1)
    told.wait(60, is_heard=False)
    assert told.scene.owed() == ["n1"]


def test_a_node_that_reports_is_told_until_it_answers() -> None:
    """With growing pauses; its UNDEPLOYED, which names neither job id nor generation, settles it."""
    told = Told(has_reported=True)
    told.scene.back()
    told.wait(40)
    assert len(told.sent) == 3
    told.scene.say("UNDEPLOYED", None)
    told.wait(120)
    assert (len(told.sent), told.scene.owed()) == (3, [])


def test_a_node_that_reports_and_never_answers_is_believed_in_the_end() -> None:
    """Of what it does not have it may say nothing: told six times while READY, it is taken at its silence."""
    told = Told(has_reported=True)
    told.scene.back()
    told.wait(300)
    assert (len(told.sent), told.scene.owed()) == (MOST_DELETES, [])


def test_a_seed_node_that_says_that_it_runs_what_was_deleted_is_told_at_once() -> None:
    """On every dialect what is found running of a tombstone is deleted again."""
    told = Told(has_reported=True)
    told.scene.back()
    told.wait(300)
    assert told.scene.owed() == []
    [order] = told.scene.say("RUNNING", None).stale
    assert order.key == KEY
    assert told.scene.owed() == ["n1"]


def test_a_seed_node_is_not_told_to_delete_what_counts_there_again() -> None:
    """It cannot tell two copies of one name apart."""
    told = Told(has_reported=True)
    told.scene.back()
    told.scene.state.deploy([(KEY, spec())], "root", NOW)
    assert told.scene.state.place(KEY, told.scene.nodes["n1"], NOW) == ""
    told.wait(60)
    assert not told.sent


def test_a_seed_node_gets_a_newer_copy_only_when_what_it_owes_is_settled() -> None:
    """A deploy may be on its way yet, and it takes the newer one for its repetition; who waits is told in the end."""
    told = Told(has_reported=False)
    scene, policy = told.scene, told.scene.state.policy
    scene.back()
    scene.state.deploy([(KEY, spec())], "root", NOW)
    told.wait(9)
    told.now_ms += policy.refence_ms
    assert fenced_nodes(scene.state, scene.instance, told.now_ms) == [scene.nodes["n1"]]
    scene.state.has_freed = False
    told.wait(1)
    assert scene.owed() == []
    assert (fenced_nodes(scene.state, scene.instance, told.now_ms), scene.state.has_freed) == ([], True)


def test_nodes_without_generations_are_fenced_by_name_whatever_the_job() -> None:
    """A job deployed again under a new id waits for the end of its namesake there, and goes anywhere else."""
    scene = Scene("n1", "n2", dialect=Dialect.SEED)
    scene.run("n1")
    scene.state.delete([KEY], "root", NOW)
    scene.state.deploy([(InstanceKey("again", 0), spec())], "root", NOW)
    again = scene.state.instances[InstanceKey("again", 0)]
    assert fenced_nodes(scene.state, again, NOW) == [scene.nodes["n1"]]
    scene.say("UNDEPLOYED", None)
    assert fenced_nodes(scene.state, again, NOW + 1) == [scene.nodes["n1"]]
    assert fenced_nodes(scene.state, again, NOW + scene.state.policy.refence_ms) == []


def test_an_end_that_a_node_without_generations_repeats_is_that_of_the_older_copy() -> None:
    """A second UNDEPLOYED after the instance came back there ends nothing; one to a delete of ours, or DEAD, does."""
    scene = Scene(dialect=Dialect.SEED)
    scene.run()
    scene.state.delete([KEY], "root", NOW)
    scene.say("UNDEPLOYED", None)
    scene.state.deploy([(KEY, spec())], "root", NOW)
    assert scene.state.place(KEY, scene.nodes["n1"], NOW) == ""
    scene.say("UNDEPLOYED", None)
    assert scene.instance.state is InstanceState.SCHEDULED
    scene.say("RUNNING", None)
    scene.say("UNDEPLOYED", None)
    assert scene.instance.state is InstanceState.RUNNING
    scene.state.delete([KEY], "root", NOW)
    scene.say("UNDEPLOYED", None)
    assert scene.instance.state is InstanceState.STOPPED


def test_an_end_where_no_older_copy_was_is_believed() -> None:
    """Somebody stopped it on the machine."""
    scene = Scene(dialect=Dialect.SEED)
    scene.run()
    scene.say("UNDEPLOYED", None)
    assert scene.instance.state is not InstanceState.RUNNING
