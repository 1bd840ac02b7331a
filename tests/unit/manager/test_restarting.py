"""What ends and is started again is RESTARTING, to operator and root; and why it first failed is not lost."""

from dataclasses import replace

import pytest

from manager.domain.events import Seen
from manager.domain.model import InstanceState, Job, Update, UpdatePhase
from manager.domain.rolling import SETTLE_MS, step
from manager.domain.roots import Era
from manager.explain import summary
from manager.root.report import ReportedInstance, ReportedJob, instance_document, report_body
from manager.root.totals import totals_of
from manager.root.words import status_word
from manager.rpc.convert import instance_to_proto, job_to_proto
from simulation.lives import Life, spec

S = InstanceState
CRASH = "exited with status 3; next try in 62.9 s"


def _crashed(**facts: object) -> Life:
    return Life(**facts).run().see(Seen.STARTING, detail=CRASH, is_news=True)


# Between one run and the next


def test_a_crash_loop_is_not_running() -> None:
    """Its worker's words say what it ended of; when it runs again it is RUNNING in the same generation."""
    life = _crashed()
    generation = life.instance.generation
    assert (life.state, life.instance.detail, life.instance.events[-1].kind) == (S.RESTARTING, CRASH, "restarting")
    life.see(Seen.RUNNING, is_news=True)
    assert (life.state, life.instance.generation) == (S.RUNNING, generation)
    assert life.commands == []


def test_the_next_attempt_does_not_hide_what_it_ended_of() -> None:
    """ "try 2" tells no cause; another failure and an unreadiness do."""
    life = _crashed().see(Seen.STARTING, detail="try 2", is_news=True)
    assert life.instance.detail == CRASH
    life.see(Seen.STARTING, detail="started; not ready yet", is_news=True)
    assert life.instance.detail == CRASH
    life.see(Seen.STARTING, detail="not ready: refused", is_news=True)
    assert (life.instance.detail, life.instance.events[-1].cause) == ("not ready: refused", CRASH)
    life.see(Seen.STARTING, detail="exited with status 4; next try in 2.0 s", is_news=True)
    assert life.instance.events[-1].cause == "exited with status 4; next try in 2.0 s"


def test_failing_probes_are_not_mistaken_for_it() -> None:
    """What runs and is not ready, or fails its liveness and was not stopped yet, runs."""
    for words in ("not ready: HTTP 503", "liveness failed: HTTP 500"):
        life = Life().run().see(Seen.RUNNING, detail=words, is_news=True)
        assert (life.state, life.instance.detail, life.instance.restarts) == (S.RUNNING, words, 0)


def test_what_has_never_run_is_starting() -> None:
    """Its first start is no restart."""
    life = Life().place().see(Seen.STARTING, is_news=True).see(Seen.STARTING, detail=CRASH, is_news=True)
    assert (life.state, life.instance.detail, life.instance.restarts) == (S.STARTING, CRASH, 0)


@pytest.mark.parametrize("seen", [Seen.STARTING, Seen.RUNNING])
def test_a_late_word_changes_neither_direction(seen: Seen) -> None:
    """A doubled STARTING of before it ran, a doubled RUNNING of before it crashed."""
    running, crashed = Life().run(), _crashed()
    assert running.see(Seen.STARTING).instance is running.instance
    before = crashed.instance
    assert crashed.see(seen).instance is before


def test_engines_do_not_restart() -> None:
    """They tell no sequence, so nothing of theirs is news."""
    life = Life().run()
    assert life.see(Seen.STARTING, detail=CRASH).state is S.RUNNING


def test_a_node_that_is_back_may_find_it_restarting() -> None:
    """UNKNOWN in between."""
    life = Life().run().node_down()
    assert life.see(Seen.STARTING, detail=CRASH, is_news=True).state is S.RESTARTING


def test_it_ends_like_what_runs() -> None:
    """Deleted, moved, failed for good, lost with its node."""
    assert _crashed().delete().see(Seen.STOPPED).state is S.STOPPED
    assert _crashed().move().see(Seen.RUNNING, "n2").state is S.RUNNING
    assert _crashed(max_attempts=2).see(Seen.FAILED, has_given_up=True).state is S.FAILED
    assert _crashed().node_down().state is S.LOST


def test_a_long_pause_between_attempts_is_no_stable_run() -> None:
    """The attempts of what crashes again and again are counted on."""
    life = Life().place().see(Seen.FAILED).wait(10).run()
    life.see(Seen.STARTING, detail=CRASH, is_news=True).wait(300).see(Seen.FAILED)
    assert life.instance.attempts == 2


# Counted


def test_the_workers_own_count_is_shown() -> None:
    """From states and inventories, and from nothing that is late."""
    life = Life().run().see(Seen.STARTING, detail=CRASH, is_news=True, restarts=4)
    assert life.instance.restarts == 4
    life.see(Seen.RUNNING, is_news=True, restarts=5).see(Seen.RUNNING, restarts=2)
    assert life.instance.restarts == 5
    assert instance_to_proto(life.instance).restarts == 5


def test_of_a_worker_that_does_not_count_the_changes_are_counted() -> None:
    """Once for each time that it was seen to start again."""
    life = _crashed()
    life.see(Seen.STARTING, detail="try 2", is_news=True).see(Seen.RUNNING, is_news=True)
    assert life.instance.restarts == 1
    assert life.see(Seen.STARTING, detail=CRASH, is_news=True).instance.restarts == 2


def test_another_placement_after_a_failure_counts_as_well() -> None:
    """The worker's own restarts belong to the present copy; a new wish begins at none."""
    life = Life().run().see(Seen.STARTING, detail=CRASH, is_news=True, restarts=7).see(Seen.FAILED)
    life.wait(10).run("n2")
    assert life.instance.restarts == 1
    life.node_down("n2").run("n1")
    assert life.instance.restarts == 2
    assert life.deploy(image="new").run("n2").instance.restarts == 0


def test_a_move_is_no_restart() -> None:
    """Nor is waiting for a node."""
    assert Life().refuse().run().move().see(Seen.RUNNING, "n2").instance.restarts == 0


# To others


@pytest.mark.parametrize(("era", "word"), [(Era.R1, "ACTIVE"), (Era.R2, "NODE_SCHEDULED"), (Era.R3, "CREATED")])
def test_no_root_is_told_that_it_runs(era: Era, word: str) -> None:
    """It starts, in the word of the root's era, and the detail says what it ended of."""
    instance = _crashed().instance
    assert status_word(instance, era) == word
    document = instance_document(era, ReportedInstance(instance=instance))
    job = ReportedJob(id="j", name="web", status=word, detail=instance.detail, instances=[document])
    [told] = report_body(era, totals_of([], {}, {}), [job])["jobs"]
    assert (told["status"], told["status_detail"]) == (word, CRASH)
    assert [(item["status"], item["status_detail"]) for item in told["instance_list"]] == [(word, CRASH)]


def test_its_job_does_not_run_either() -> None:
    """One of its instances crashing makes the job RESTARTING, and it is not counted as running."""
    crashed, well = _crashed().instance, replace(Life().run().instance)
    shown = job_to_proto(Job(id="j", spec=crashed.spec, created_at_ms=0), [crashed, well])
    assert (shown.state, shown.running_count, shown.instance_count) == ("RESTARTING", 1, 2)


def test_explain_tells_it() -> None:
    """In words, with the count."""
    text = summary(_crashed().instance, str, None, 1_000_000)
    assert text.startswith(f"web (web/0) is RESTARTING: {CRASH}.")
    assert "It was started again once." in text
    assert "is started again by its worker, with growing pauses" in text


def test_a_health_gate_takes_it_for_unwell() -> None:
    """An update whose first instance crashes after its start is rolled back, also while it waits for its next try."""
    life = _crashed(image="new")
    job = Job(id="j", spec=life.instance.spec, created_at_ms=0, update=Update(old=spec(), phase=UpdatePhase.ROLLING))
    taken = step(job, [life.instance], life.now_ms + SETTLE_MS)
    assert taken.job.update is not None
    assert taken.job.update.phase is UpdatePhase.ROLLING_BACK
    assert "RESTARTING" in taken.job.update.detail


# The first cause


def test_the_first_cause_stays_visible_while_no_node_can_take_it() -> None:
    """PENDING says why there is no node, and what had gone wrong before."""
    life = Life().place().see(Seen.FAILED, detail="the image is not there").wait(10).refuse()
    assert life.state is S.PENDING
    assert life.instance.detail.startswith("no node can take it: 2 nodes ")
    assert life.instance.detail.endswith("; before that: the image is not there")
    text = summary(life.instance, str, None, 1_000_000)
    assert text.count("the image is not there") == 1


def test_a_later_consequence_does_not_hide_the_first_cause() -> None:
    """What never ran since keeps it; explain tells it beside what waits now."""
    life = Life().place().see(Seen.FAILED, detail="the image is not there").wait(10)
    life.place().wait(60).deadline().wait(10).refuse()
    assert life.instance.detail.endswith("before that: the image is not there")
    life.place("n2")
    assert "What went wrong before that: the image is not there." in summary(life.instance, str, None, 1_000_000)


def test_a_run_ends_the_story() -> None:
    """What goes wrong after it is another first cause; a new wish begins without any."""
    life = Life().place().see(Seen.FAILED, detail="first").wait(10).run()
    assert life.instance.failure == ""
    life.see(Seen.FAILED, detail="second").wait(10).refuse()
    assert life.instance.detail.endswith("before that: second")
    assert life.deploy(image="new").instance.failure == ""


def test_a_lost_node_is_a_first_cause_too() -> None:
    """No other node can take what was on it."""
    life = Life().run().node_down().refuse()
    assert "before that: its node is not heard: no telemetry for 15.0 s" in life.instance.detail


def test_the_same_refusal_again_is_told_once() -> None:
    """The cause of before does not make each look a new event."""
    life = Life().place().see(Seen.FAILED, detail="first").wait(10).refuse()
    count = len(life.instance.events)
    assert len(life.refuse().instance.events) == count
