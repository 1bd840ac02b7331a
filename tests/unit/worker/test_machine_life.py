"""The worker's pure machine: deploy, run, end, restart by policy."""

from collections.abc import Iterator

import pytest

from testbed.machines import REF, Bench, newer, spec
from worker.policy import BACK_OFF_CAP_S, STABLE_RUN_S, back_off_s
from worker.records import (
    Cause,
    DeleteAsked,
    DeployAsked,
    Exit,
    Exited,
    Fence,
    Forget,
    Kill,
    MoveAnnounced,
    Phase,
    Progressed,
    Publish,
    Save,
    Start,
    Started,
    StartFailed,
    StateAcknowledged,
    Status,
    Stop,
    Ticked,
)


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.machine.check_invariants()


def test_deploy_saves_reports_and_starts(bench: Bench) -> None:
    """A deploy is saved, reported STARTING and started."""
    bench.feed(DeployAsked(REF, spec()))
    assert [item.ref for item in bench.said(Start)] == [REF]
    assert bench.reported == [(Status.STARTING, "starting")]
    assert bench.said(Save)


def test_deploy_again_sends_the_present_state_only(bench: Bench) -> None:
    """A repeated deploy of a generation that is there starts nothing."""
    bench.running()
    assert bench.feed(DeployAsked(REF, spec())) == [Publish(REF, "web", Status.RUNNING)]


def test_started_is_running_without_a_readiness_probe(bench: Bench) -> None:
    """RUNNING follows the start at once."""
    bench.feed(DeployAsked(REF, spec()))
    bench.feed(Started(REF))
    assert bench.reported == [(Status.RUNNING, "")]


def test_progress_repeats_starting(bench: Bench) -> None:
    """Each advance of a pull is a STARTING of its own; after the start it is not reported."""
    bench.feed(DeployAsked(REF, spec()))
    bench.feed(Progressed(REF, "pulling: 5 of 10 bytes"))
    assert bench.reported == [(Status.STARTING, "pulling: 5 of 10 bytes")]
    bench.feed(Started(REF))
    assert bench.feed(Progressed(REF, "late")) == []


def test_newer_generation_waits_for_the_older_to_stop(bench: Bench) -> None:
    """Two generations of a slot never run together."""
    bench.running()
    bench.feed(DeployAsked(newer(), spec()))
    assert [item.ref for item in bench.said(Stop)] == [REF]
    assert not bench.said(Start)
    bench.feed(Exited(REF, Exit(code=0)))
    assert [item.ref for item in bench.said(Start)] == [newer()]
    assert (Status.STOPPED, "replaced by a newer generation") in bench.reported


def test_newest_of_several_waiting_generations_wins(bench: Bench) -> None:
    """A waiting generation that is itself superseded never starts."""
    bench.running()
    bench.feed(DeployAsked(newer(), spec()), DeployAsked(newer(by=2), spec()))
    bench.feed(Exited(REF, Exit(code=0)))
    assert [item.ref for item in bench.said(Start)] == [newer(by=2)]
    assert bench.get(newer()).status is Status.STOPPED


def test_older_generation_is_ignored(bench: Bench) -> None:
    """A late deploy of an older generation changes nothing."""
    bench.running(newer())
    assert bench.feed(DeployAsked(REF, spec())) == []


def test_delete_stops_by_grace_then_kills(bench: Bench) -> None:
    """After stop_grace_s comes the kill, again and again until the exit."""
    bench.running(stop_grace_s=4)
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.said(Stop)
    assert bench.machine.next_due() == pytest.approx(bench.now + 4)
    bench.at(3.9, Ticked())
    assert not bench.said(Kill)
    bench.at(0.2, Ticked())
    assert bench.said(Kill)
    bench.at(6, Ticked())
    assert bench.said(Kill)
    bench.feed(Exited(REF, Exit(code=137)))
    assert bench.reported == [(Status.STOPPED, "stopped")]


def test_delete_without_grace_kills_at_once(bench: Bench) -> None:
    """A grace of zero leaves out the polite stop."""
    bench.running(stop_grace_s=0)
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.said(Kill)
    assert not bench.said(Stop)


def test_deleted_is_forgotten_when_the_broker_has_its_stopped(bench: Bench) -> None:
    """Until then it is remembered, and other acknowledgements do not count."""
    bench.running()
    bench.feed(DeleteAsked(REF, spec()), Exited(REF, Exit(code=0)))
    bench.feed(StateAcknowledged(REF, Status.RUNNING))
    assert REF in bench.machine.instances
    assert bench.feed(StateAcknowledged(REF, Status.STOPPED)) == [Forget(REF, spec())]
    assert not bench.machine.instances


def test_delete_of_something_unknown_is_answered_at_once(bench: Bench) -> None:
    """It answers STOPPED, and fences the generation off."""
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.reported == [(Status.STOPPED, "not known here")]
    assert bench.said(Fence)


def test_delete_of_a_newer_generation_waits_for_the_older_to_end(bench: Bench) -> None:
    """STOPPED of the asked generation comes only when nothing of the slot runs."""
    bench.running()
    bench.feed(DeleteAsked(newer(), spec()))
    assert bench.reported == []
    bench.feed(Exited(REF, Exit(code=0)))
    assert [item.ref for item in bench.said(Publish)] == [REF, newer()]


def test_delete_leaves_newer_generations_alone(bench: Bench) -> None:
    """A late delete of an older generation does not stop the newer one."""
    bench.running(newer())
    bench.feed(DeleteAsked(REF, spec()))
    assert not bench.said(Stop)
    assert bench.get(newer()).status is Status.RUNNING


def test_a_deleted_generation_never_starts_again(bench: Bench) -> None:
    """A doubled, late deploy of a deleted generation is answered STOPPED."""
    bench.running()
    bench.feed(DeleteAsked(REF, spec()), Exited(REF, Exit()), StateAcknowledged(REF, Status.STOPPED))
    bench.feed(DeployAsked(REF, spec()))
    assert not bench.said(Start)
    assert bench.reported == [(Status.STOPPED, "this generation was deleted before")]


def test_delete_of_an_ended_instance_answers_stopped(bench: Bench) -> None:
    """A completed one-shot is deleted without touching the runtime."""
    bench.running(one_shot=True)
    bench.feed(Exited(REF, Exit(code=0)))
    bench.feed(DeleteAsked(REF, spec()))
    assert not bench.said(Stop)
    assert bench.said(Publish)[0].status is Status.STOPPED


def test_delete_during_the_start_ends_it(bench: Bench) -> None:
    """A start under way is asked to stop; if it started all the same, it is stopped then."""
    bench.feed(DeployAsked(REF, spec()))
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.said(Stop)
    bench.feed(Started(REF))
    assert bench.said(Stop)
    bench.feed(Exited(REF, Exit(code=143)))
    assert bench.reported == [(Status.STOPPED, "stopped")]


def test_a_start_that_fails_while_being_deleted_is_stopped(bench: Bench) -> None:
    """The failure of a start that nobody wants any more is no failure."""
    bench.feed(DeployAsked(REF, spec()), DeleteAsked(REF, spec()))
    bench.feed(StartFailed(REF, "no such image"))
    assert bench.reported == [(Status.STOPPED, "stopped")]


@pytest.mark.parametrize(("code", "status"), [(0, Status.COMPLETED), (3, Status.FAILED)])
def test_one_shot_ends_once_and_for_all(bench: Bench, code: int, status: Status) -> None:
    """COMPLETED or FAILED with the exit code, and never started again."""
    bench.running(one_shot=True)
    bench.feed(Exited(REF, Exit(code=code)))
    state = bench.said(Publish)[0]
    assert (state.status, state.exit_code) == (status, code)
    bench.at(1e6, Ticked(), DeployAsked(REF, spec(one_shot=True)))
    assert not bench.said(Start)


@pytest.mark.parametrize(
    ("policy", "code", "is_restarted"),
    [
        ("never", 1, False),
        ("never", 0, False),
        ("on-failure", 1, True),
        ("on-failure", 0, False),
        ("always", 0, True),
        ("always", 1, True),
    ],
)
def test_restart_policy(bench: Bench, policy: str, code: int, is_restarted: bool) -> None:
    """The table of the policy."""
    bench.running(restart_policy=policy)
    bench.feed(Exited(REF, Exit(code=code)))
    bench.at(2, Ticked())
    assert bool(bench.said(Start)) is is_restarted
    assert bench.get().is_ended is not is_restarted


def test_crash_loop_backs_off_ever_longer_with_jitter_up_to_the_cap() -> None:
    """1 s doubles up to 300 s, a quarter up or down, the same for the same seed."""
    waits = [back_off_s(failures, REF, seed=1) for failures in range(1, 15)]
    for failures, wait_s in enumerate(waits):
        plain = min(BACK_OFF_CAP_S, 2.0**failures)
        assert 0.75 * plain <= wait_s <= 1.25 * plain
    assert waits == [back_off_s(failures, REF, seed=1) for failures in range(1, 15)]
    assert waits != [back_off_s(failures, REF, seed=2) for failures in range(1, 15)]


def test_a_stable_run_resets_the_back_off(bench: Bench) -> None:
    """After a minute of running, the next end counts as the first."""
    bench.running()
    for _ in range(5):
        bench.feed(Exited(REF, Exit(code=1)))
        bench.at(100, Ticked())
        bench.feed(Started(REF))
    assert bench.get().failures == 5
    bench.at(STABLE_RUN_S + 1, Exited(REF, Exit(code=1)))
    assert bench.get().failures == 1


def test_attempts_are_limited(bench: Bench) -> None:
    """After max_attempts in a row it is FAILED, with the exit code and the count."""
    bench.running(max_attempts=2)
    bench.feed(Exited(REF, Exit(code=9)))
    bench.at(5, Ticked(), Started(REF))
    bench.feed(Exited(REF, Exit(code=9)))
    assert bench.reported == [(Status.FAILED, "exited with status 9; gave up after 2 attempts")]
    assert bench.said(Publish)[0].exit_code == 9


def test_a_start_that_never_succeeded_is_tried_three_times(bench: Bench) -> None:
    """Then it is FAILED, so that the manager can place it elsewhere."""
    bench.feed(DeployAsked(REF, spec()))
    for _ in range(2):
        bench.feed(StartFailed(REF, "cannot pull"))
        assert bench.reported[-1][0] is Status.STARTING
        bench.at(10, Ticked())
        assert bench.said(Start)
    bench.feed(StartFailed(REF, "cannot pull"))
    assert bench.reported == [(Status.FAILED, "cannot pull")]


def test_a_hopeless_start_fails_at_once(bench: Bench) -> None:
    """Where no further try can succeed there is none."""
    bench.feed(DeployAsked(REF, spec()))
    bench.feed(StartFailed(REF, "no such image", is_final=True))
    assert bench.reported == [(Status.FAILED, "no such image")]


def test_move_is_advisory(bench: Bench) -> None:
    """The source goes on, and says what it has."""
    bench.running()
    bench.feed(MoveAnnounced(REF, "other"), MoveAnnounced(newer(), "other"))
    assert bench.reported == [(Status.RUNNING, "")]
    assert bench.get().phase is Phase.RUNNING


def test_late_reports_of_the_runtime_change_nothing(bench: Bench) -> None:
    """Exits, starts and failures of ended or unknown instances are ignored."""
    bench.running(one_shot=True)
    bench.feed(Exited(REF, Exit(code=0)))
    before = bench.get()
    late = (Exited(REF, Exit(code=1)), StartFailed(REF, "x"), Progressed(REF, "x"), Exited(newer(), Exit()))
    assert bench.feed(*late) == []
    assert bench.get() == before


def test_a_start_nobody_waits_for_is_killed(bench: Bench) -> None:
    """Something that turns out to run although its record has ended is killed."""
    bench.running(one_shot=True)
    bench.feed(Exited(REF, Exit(code=0)))
    bench.feed(Started(REF))
    assert bench.said(Kill)


def test_deleting_during_a_back_off_ends_at_once(bench: Bench) -> None:
    """Nothing runs, so that nothing is to be waited for."""
    bench.running()
    bench.feed(Exited(REF, Exit(code=1)))
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.reported == [(Status.STOPPED, "stopped")]
    assert bench.get().cause is Cause.DELETED
