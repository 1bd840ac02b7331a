"""The documented behaviours of an instance, one test each."""

import pytest

from cluster.jobs import OnDisconnect, RestartPolicy
from manager.domain.events import Seen
from manager.domain.machine import IllegalTransitionError, wants_placement
from manager.domain.model import InstanceState
from manager.domain.policy import backoff_ms
from simulation.lives import POLICY, Life

S = InstanceState
ENDS = [seen for seen in Seen if seen.is_end]


def _generation(life: Life) -> int:
    return life.instance.generation


def test_a_repeated_deploy_is_a_no_op() -> None:
    """The same specification again changes nothing, not even the version."""
    life = Life().run()
    assert life.instance is life.deploy().instance


def test_a_changed_specification_retires_the_old_copy_and_places_a_new_one() -> None:
    """The old copy is stopped where it is, and a node is looked for."""
    life = Life().run().deploy(image="new")
    assert life.state is S.REQUESTED
    assert wants_placement(life.instance)
    assert life.commands == [("delete", "n1", _generation(life))]
    life.run("n2").see(Seen.STOPPED, "n1")
    assert life.state is S.RUNNING
    assert life.instance.retiring is None


@pytest.mark.parametrize("end", ENDS)
def test_an_ended_instance_is_deployed_again_in_a_new_generation(end: Seen) -> None:
    """Requested again after it had failed for good it gets a greater generation, where it is to run on."""
    life = Life(max_attempts=1).run().see(end)
    old = _generation(life)
    life.deploy(max_attempts=1).run()
    assert life.state is S.RUNNING
    assert _generation(life) > old


def test_a_deploy_during_a_deletion_starts_anew_once_more() -> None:
    """What was being deleted goes on stopping, and the instance is placed anew."""
    life = Life().run().delete().deploy()
    assert life.state is S.REQUESTED
    assert [verb for verb, _, _ in life.commands] == ["delete"]


@pytest.mark.parametrize("end", ENDS)
def test_a_deletion_is_sent_until_the_node_says_that_it_is_gone(end: Seen) -> None:
    """STOPPING repeats the command; any end that the node tells closes it."""
    life = Life().run().delete()
    assert life.state is S.STOPPING
    assert life.commands == [("delete", "n1", _generation(life))]
    assert life.see(Seen.RUNNING).state is S.STOPPING
    assert life.see(end).state is S.STOPPED
    assert life.commands == []


def test_deleting_what_was_never_placed_is_done_at_once() -> None:
    """Nothing of it is anywhere."""
    assert Life().delete().state is S.STOPPED
    assert Life().refuse().delete().state is S.STOPPED


def test_within_a_generation_states_only_move_forward() -> None:
    """A late STARTING does not take RUNNING back."""
    life = Life().run()
    assert life.instance is life.see(Seen.STARTING).instance


def test_a_crash_loop_is_told_while_the_worker_tries_again() -> None:
    """State, words and history say what happens; the same words again add nothing."""
    life = Life().run().see(Seen.STARTING, detail="it trapped; next try in 4.0 s", is_news=True)
    assert (life.state, life.instance.detail) == (S.RESTARTING, "it trapped; next try in 4.0 s")
    assert life.instance.events[-1].kind == "restarting"
    assert life.instance is life.see(Seen.STARTING, detail="it trapped; next try in 4.0 s", is_news=True).instance
    assert life.see(Seen.RUNNING, is_news=True).instance.detail == "its worker reports that it runs"
    assert life.instance is life.see(Seen.RUNNING, is_news=True).instance


def test_the_same_words_again_are_no_progress() -> None:
    """What is never ready misses its deadline, however often its worker's inventory says so."""
    life = Life().place().see(Seen.STARTING)
    for _ in range(3):
        life.wait(300).see(Seen.STARTING, detail="not ready: refused", is_news=True).deadline()
    assert life.state is S.FAILED


def test_a_late_word_about_a_crash_is_not_told() -> None:
    """What was said before something that is known already holds no more."""
    life = Life().run()
    assert life.instance is life.see(Seen.STARTING, detail="try 2").instance


def test_why_it_is_not_ready_is_told_without_filling_the_history() -> None:
    """While it starts the latest words count."""
    life = Life().place().see(Seen.STARTING)
    count = len(life.instance.events)
    life.see(Seen.STARTING, detail="not ready: refused", is_news=True)
    assert (life.instance.detail, len(life.instance.events)) == ("not ready: refused", count)


def test_unknown_and_running_alternate() -> None:
    """A node that is not heard makes it UNKNOWN, its next report RUNNING again, in the same generation."""
    life = Life(on_disconnect=OnDisconnect.KEEP).run()
    generation = _generation(life)
    for _ in range(3):
        assert life.node_down().state is S.UNKNOWN
        assert life.commands == []
        assert life.see(Seen.RUNNING).state is S.RUNNING
    assert _generation(life) == generation


def test_keep_waits_for_the_node() -> None:
    """No replacement is looked for, however long it takes."""
    life = Life(on_disconnect=OnDisconnect.KEEP).run().node_down().wait(1e6).deadline()
    assert life.state is S.UNKNOWN
    assert not wants_placement(life.instance)


def test_replace_loses_at_once_but_a_node_back_in_time_keeps_its_copy() -> None:
    """LOST wants a node at once; until one is found the old copy counts as soon as it is heard."""
    life = Life().run()
    generation = _generation(life)
    life.node_down()
    assert life.state is S.LOST
    assert life.instance.retry_at_ms == life.now_ms
    assert wants_placement(life.instance)
    life.refuse().see(Seen.RUNNING)
    assert (life.state, _generation(life)) == (S.RUNNING, generation)
    assert not wants_placement(life.instance)


def test_a_replacement_closes_the_copy_on_the_dead_node() -> None:
    """Once placed elsewhere, the old generation has ended: its node is told so when it is heard."""
    life = Life().run().node_down().place("n2")
    assert life.state is S.SCHEDULED
    assert [item.node_id for item in life.instance.ended] == ["n1"]


def test_stop_after_waits_until_the_worker_has_stopped_its_copy() -> None:
    """Only after stop_after and the grace of the stop is a replacement looked for."""
    life = Life(on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=60.0, stop_grace_s=10.0).run().node_down()
    assert life.state is S.UNKNOWN
    assert life.wait(69.0).deadline().state is S.UNKNOWN
    assert life.wait(1.1).deadline().state is S.LOST
    assert wants_placement(life.instance)


@pytest.mark.parametrize("has_begun", [False, True])
def test_what_may_run_unseen_is_replaced_after_its_own_stop(has_begun: bool) -> None:
    """A start that is not finished in time ends by stop_after and its grace at the latest: only then is it retried."""
    life = Life(on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=60.0, stop_grace_s=10.0).place()
    late = life.see(Seen.STARTING).wait(600) if has_begun else life.wait(30)
    assert late.deadline().state is S.FAILED
    assert life.instance.retry_at_ms == life.now_ms + 70_000


def test_a_long_back_off_is_not_cut_short_by_its_own_stop() -> None:
    """The later of the two counts."""
    life = Life(on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=3.0, stop_grace_s=1.0)
    for _ in range(12):
        life.place().wait(30).deadline().wait(1000)
    assert life.instance.retry_at_ms is not None
    assert life.instance.retry_at_ms > life.now_ms - 1_000_000 + 100_000


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_a_one_shot_whose_outcome_is_unknown_is_never_run_again(on_disconnect: OnDisconnect) -> None:
    """Its node is silent, or came back without it: nobody knows how it ended, so it is told and left."""
    life = Life(one_shot=True, restart_policy=RestartPolicy.ON_FAILURE, on_disconnect=on_disconnect).run()
    assert life.node_down().wait(1e6).deadline().state is S.UNKNOWN
    assert life.see(Seen.ABSENT).state is S.LOST
    assert life.instance.retry_at_ms is None
    assert "outcome is unknown" in life.instance.detail


def test_a_one_shot_that_completed_never_runs_again() -> None:
    """COMPLETED is final."""
    life = Life(one_shot=True, restart_policy=RestartPolicy.NEVER).run().see(Seen.COMPLETED, exit_code=0)
    assert life.state is S.COMPLETED
    assert not wants_placement(life.instance)


def test_a_crash_loop_backs_off_with_jitter_up_to_a_cap() -> None:
    """Pauses double, differ between instances, and are at most the cap."""
    life = Life()
    pauses = []
    for _ in range(14):
        life.run().see(Seen.FAILED)
        pauses.append((life.instance.retry_at_ms or 0) - life.now_ms)
        life.wait(pauses[-1] / 1000)
    assert pauses[0] <= POLICY.retry_base_ms
    assert pauses[5] > 4 * pauses[0]
    assert POLICY.retry_cap_ms / 2 <= pauses[-1] <= POLICY.retry_cap_ms
    assert len({backoff_ms(3, 1000, 300_000, f"job/{number}") for number in range(20)}) > 10


def test_a_stable_run_forgives_earlier_failures() -> None:
    """After a minute of running the next failure is the first again."""
    life = Life()
    for _ in range(5):
        life.run().see(Seen.FAILED).wait(400)
    life.run().wait(61).see(Seen.FAILED)
    assert life.instance.attempts == 1


def test_a_copy_that_was_stopped_with_its_worker_has_not_failed() -> None:
    """It is placed again, and costs none of its attempts: not even of one."""
    life = Life(max_attempts=1).run()
    for _ in range(3):
        life.see(Seen.STOPPED, detail="stopped with its worker")
        assert (life.state, life.instance.attempts) == (S.LOST, 0)
        assert life.instance.retry_at_ms is not None
        life.run()
    life.see(Seen.FAILED)
    assert "given up after 1 attempts" in life.instance.detail


def test_attempts_are_limited() -> None:
    """The limit of the job ends the trying."""
    life = Life(max_attempts=3)
    for attempt in range(1, 4):
        life.run().see(Seen.FAILED)
        assert life.instance.attempts == attempt
        life.wait(400)
    assert life.instance.retry_at_ms is None
    assert not wants_placement(life.instance)
    assert "given up after 3 attempts" in life.instance.detail


def test_deleting_what_a_dead_node_holds_ends_when_the_node_goes_down() -> None:
    """No endless Terminating: STOPPING on a node that goes down is STOPPED."""
    assert Life().run().delete().node_down().state is S.STOPPED


def test_scheduled_and_starting_have_deadlines() -> None:
    """What its node does not confirm, or does not finish starting, is placed anew after a pause."""
    scheduled = Life().place().wait(30).deadline()
    starting = Life().place().see(Seen.STARTING).wait(600).deadline()
    for life in (scheduled, starting):
        assert life.state is S.FAILED
        assert life.instance.retry_at_ms is not None


def test_progress_extends_the_deadline() -> None:
    """A pull that advances is not given up; one that stands still is."""
    life = Life().place().see(Seen.STARTING)
    for _ in range(10):
        life.wait(500).see(Seen.STARTING).deadline()
    assert life.state is S.STARTING
    assert life.wait(601).deadline().state is S.FAILED


def test_a_start_that_was_out_of_sight_has_a_deadline_again() -> None:
    """STARTING after UNKNOWN is bounded as any other."""
    life = Life(on_disconnect=OnDisconnect.KEEP).place().see(Seen.STARTING).node_down().see(Seen.STARTING)
    assert life.wait(601).deadline().state is S.FAILED


def test_a_move_makes_before_it_breaks() -> None:
    """The successor is deployed while the old copy runs; the old one stops when the successor runs."""
    life = Life().run()
    old = _generation(life)
    life.wait(1).move()
    assert life.state is S.RUNNING
    assert life.commands == [("deploy", "n2", _generation(life))]
    life.see(Seen.STARTING, "n2").see(Seen.RUNNING, "n2")
    assert life.instance.node_id == "n2"
    assert life.commands == [("delete", "n1", old)]
    assert life.see(Seen.STOPPED, "n1").state is S.RUNNING


def test_a_second_move_while_one_runs_is_a_fault_of_the_caller() -> None:
    """Its first successor would be lost without a word; the whole story is told, and nothing is changed."""
    life = Life().run().move()
    moving = life.instance
    with pytest.raises(IllegalTransitionError, match="MovePlanned"):
        life.move("n3")
    assert life.instance is moving


@pytest.mark.parametrize("spoil", ["end", "deadline", "down"])
def test_a_move_that_fails_leaves_the_old_copy_untouched(spoil: str) -> None:
    """The successor ends, misses its deadline or loses its node: it is dropped, and the history says why."""
    life = Life().run().move()
    if spoil == "end":
        life.see(Seen.FAILED, "n2", detail="no image")
    elif spoil == "deadline":
        life.wait(31).deadline()
    else:
        life.node_down("n2")
    assert (life.state, life.instance.node_id, life.instance.successor) == (S.RUNNING, "n1", None)
    assert life.instance.events[-1].kind == "move_failed"
    assert life.commands == []


@pytest.mark.parametrize("spoil", ["down", "end"])
def test_the_successor_takes_over_when_the_source_dies_during_a_move(spoil: str) -> None:
    """Nothing is lost: what was being started becomes the current copy."""
    life = Life().run().move()
    _ = life.node_down("n1") if spoil == "down" else life.see(Seen.FAILED, "n1")
    assert (life.state, life.instance.node_id) == (S.SCHEDULED, "n2")
    assert life.see(Seen.RUNNING, "n2").state is S.RUNNING


def test_a_deletion_during_a_move_stops_both_copies() -> None:
    """Both are deleted, and it is STOPPED when both are gone."""
    life = Life().run().move().delete()
    assert {node for _, node, _ in life.commands} == {"n1", "n2"}
    assert life.see(Seen.STOPPED, "n1").state is S.STOPPING
    assert life.see(Seen.STOPPED, "n2").state is S.STOPPED


def test_a_removed_node_gives_back_what_it_held() -> None:
    """What ran there is placed anew; what was being stopped there is gone."""
    life = Life().run().node_removed()
    assert life.state is S.LOST
    assert life.instance.current is None
    assert life.instance.retry_at_ms is not None
    assert Life().run().delete().node_removed().state is S.STOPPED


def test_the_successor_takes_over_when_the_source_of_a_move_is_removed() -> None:
    """Nothing is placed a third time: what was being started becomes the current copy."""
    life = Life().run().move()
    successor = life.instance.successor
    assert life.node_removed("n1").instance.current == successor
    assert (life.state, life.instance.successor, life.instance.retry_at_ms) == (S.SCHEDULED, None, None)
    assert life.instance.events[-1].kind == "promoted"
    assert life.see(Seen.RUNNING, "n2").state is S.RUNNING


def test_pending_says_why() -> None:
    """No capacity is a state with reasons and without a time; other reasons are told, in the history too."""
    life = Life().refuse()
    assert (life.state, life.instance.retry_at_ms) == (S.PENDING, None)
    assert wants_placement(life.instance)
    assert "2 nodes have too little memory free" in life.instance.detail
    life.refuse("cordoned")
    assert "2 nodes are cordoned" in life.instance.detail
    assert life.instance.event_count == 3


def test_the_same_reasons_again_are_no_change() -> None:
    """Whatever is said of the node that comes nearest: nothing is saved, and nobody is told."""
    life = Life().refuse(detail="edge-1 has 20 MiB free")
    assert life.instance is life.wait(1).refuse(detail="edge-1 has 21 MiB free").instance


def test_a_node_without_inventories_that_is_back_runs_what_it_ran() -> None:
    """What ran there is taken to run still; what never ran there is told anew, with its deadline."""
    ran = Life(on_disconnect=OnDisconnect.KEEP).run().node_down().node_back(is_mute=True)
    assert (ran.state, ran.commands) == (S.RUNNING, [])
    told = Life(on_disconnect=OnDisconnect.KEEP).place().node_down().node_back(deadline_ms=2_000_000, is_mute=True)
    assert told.state is S.SCHEDULED
    assert [verb for verb, _, _ in told.commands] == ["deploy"]
    assert told.instance.current is not None
    assert told.instance.current.deadline_ms == 2_000_000


@pytest.mark.parametrize("was_refused", [False, True])
def test_what_a_node_that_is_back_may_still_run_is_not_placed_elsewhere(was_refused: bool) -> None:
    """LOST or PENDING, nothing took its place: it is UNKNOWN until its node has told what it has."""
    life = Life().run().node_down()
    if was_refused:
        life.refuse()
    generation = _generation(life)
    life.node_back(deadline_ms=life.now_ms + 30_000)
    assert (life.state, life.instance.retry_at_ms, life.instance.refusals) == (S.UNKNOWN, None, ())
    assert not wants_placement(life.instance)
    assert life.see(Seen.RUNNING).state is S.RUNNING
    assert (_generation(life), life.commands) == (generation, [])


def test_what_a_node_that_is_back_does_not_tell_of_is_placed_anew() -> None:
    """Not for ever is waited for its word: after the deadline it is LOST, and wants a node at once."""
    life = Life().run().node_down().node_back(deadline_ms=1_030_000)
    assert life.wait(29).deadline().state is S.UNKNOWN
    assert life.wait(1).deadline().state is S.LOST
    assert wants_placement(life.instance)
    assert "does not tell of it" in life.instance.detail


def test_a_single_run_of_which_its_node_does_not_tell_is_not_run_again() -> None:
    """Nobody knows how it ended: it is told and left."""
    life = Life(restart_policy=RestartPolicy.NEVER).run().node_down().node_back(deadline_ms=1_030_000)
    assert life.wait(30).deadline().state is S.LOST
    assert (life.instance.current, life.instance.retry_at_ms) == (None, None)


def test_a_node_that_is_back_without_it_gives_it_up() -> None:
    """Its word that it is gone ends the waiting."""
    life = Life().run().node_down().node_back(deadline_ms=1_030_000).see(Seen.ABSENT)
    assert (life.state, life.instance.current) == (S.LOST, None)
    assert wants_placement(life.instance)


def test_a_node_that_is_back_before_its_copy_stopped_itself_keeps_it() -> None:
    """With `stop_after` the waiting for its own stop is over as soon as the node is heard."""
    life = Life(on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=60.0).run().node_down().wait(30)
    assert life.node_back(deadline_ms=life.now_ms + 30_000).state is S.UNKNOWN
    assert life.see(Seen.RUNNING).state is S.RUNNING
    assert life.wait(1000).deadline().state is S.RUNNING


def test_a_node_that_is_back_does_not_touch_what_is_elsewhere_or_still_runs() -> None:
    """Only what was out of sight there waits for its word."""
    for life in (Life().run("n2"), Life().run(), Life().run().node_down().place("n2"), Life().run().delete()):
        assert life.instance is life.node_back("n1", deadline_ms=9_000_000).instance
