"""Live moves in the worker's pure machine: a guest that is sent away, and one that is waited for."""

from collections.abc import Iterator

import pytest

from testbed.machines import REF, Bench, newer, spec
from worker.handover import LEAVE_GRACE_S
from worker.records import (
    Cause,
    Check,
    DeleteAsked,
    DeployAsked,
    Exit,
    Exited,
    Fence,
    Forget,
    GuestAwaited,
    GuestMissed,
    HandOver,
    HandOverFailed,
    Kill,
    MoveAnnounced,
    Phase,
    Probed,
    Progressed,
    Publish,
    Start,
    Started,
    StartFailed,
    StateAcknowledged,
    Status,
    Stop,
    Ticked,
)

URI = "tcp:127.0.0.3:4711"
WORDS = "moved live to edge-b, paused 12 ms"
MOVE = MoveAnnounced(REF, "edge-b", URI)
MOVED = Exited(REF, Exit(reason=WORDS, is_moved=True))


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.machine.check_invariants()


def test_the_guest_is_sent_where_it_is_awaited(bench: Bench) -> None:
    """A move with an address hands the running guest over, once, however often it is asked."""
    bench.running()
    assert HandOver(REF, bench.get(REF).spec, "edge-b", URI) in bench.feed(MOVE)
    bench.feed(MOVE)
    assert not bench.said(HandOver)


def test_a_move_without_an_address_is_advice(bench: Bench) -> None:
    """The present state is sent again, and nothing else happens."""
    bench.running()
    assert bench.feed(MoveAnnounced(REF, "edge-b")) == [Publish(REF, "web", Status.RUNNING)]


def test_only_what_runs_is_handed_over(bench: Bench) -> None:
    """Neither an instance that starts nor one that is unknown has a guest to send."""
    bench.feed(DeployAsked(REF, spec()))
    bench.feed(MOVE, MoveAnnounced(newer(), "edge-b", URI))
    assert not bench.said(HandOver)


def test_a_guest_that_has_gone_is_stopped_here_for_good(bench: Bench) -> None:
    """STOPPED with the pause, whatever the restart policy; fenced, and forgotten once the broker has it."""
    bench.running(restart_policy="always")
    bench.feed(MOVE)
    bench.feed(MOVED)
    assert bench.reported == [(Status.STOPPED, WORDS)]
    assert bench.said(Fence)
    assert not bench.said(Start)
    bench.at(1000, Ticked(), DeployAsked(REF, spec()))
    assert not bench.said(Start)
    bench.feed(StateAcknowledged(REF, Status.STOPPED))
    assert bench.said(Forget)


def test_the_ordinary_delete_after_the_hand_over(bench: Bench) -> None:
    """It is answered, before the broker has the STOPPED and after."""
    bench.running()
    bench.feed(MOVE, MOVED)
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.reported == [(Status.STOPPED, WORDS)]
    bench.feed(StateAcknowledged(REF, Status.STOPPED), DeleteAsked(REF, spec()))
    assert (Status.STOPPED, "not known here") in bench.reported


def test_a_delete_that_overtakes_the_end_of_the_hand_over(bench: Bench) -> None:
    """Even without grace it is not killed at once, so that the pause is still told."""
    bench.running(stop_grace_s=0)
    bench.feed(MOVE, DeleteAsked(REF, spec()))
    assert bench.said(Stop)
    assert not bench.said(Kill)
    bench.feed(MOVED)
    assert bench.reported == [(Status.STOPPED, WORDS)]
    assert bench.get(REF).cause is Cause.DELETED


def test_a_delete_that_the_hand_over_never_ends_kills(bench: Bench) -> None:
    """The grace is short."""
    bench.running(stop_grace_s=0)
    bench.feed(MOVE, DeleteAsked(REF, spec()))
    bench.at(LEAVE_GRACE_S, Ticked())
    assert bench.said(Kill)


def test_a_failed_hand_over_leaves_it_running(bench: Bench) -> None:
    """It is told, and another one may be tried."""
    bench.running()
    bench.feed(MOVE)
    bench.feed(HandOverFailed(REF, "connection refused"))
    words = "the live move to edge-b failed: connection refused; it runs on here"
    assert bench.reported == [(Status.RUNNING, words)]
    bench.feed(MOVE)
    assert bench.said(HandOver)


def test_a_failed_hand_over_of_what_is_gone_says_nothing(bench: Bench) -> None:
    """Its end has been told already."""
    bench.running()
    bench.feed(MOVE, Exited(REF, Exit(code=1)))
    assert bench.feed(HandOverFailed(REF, "QEMU ended")) == []


def test_a_liveness_probe_never_restarts_a_guest_on_its_way(bench: Bench) -> None:
    """Failures while it is paused do not count; those after a failed hand-over do."""
    probe = {"tcp": {"port": 1}, "failure_threshold": 1}
    bench.running(liveness=probe)
    bench.feed(MOVE)
    bench.feed(Probed(REF, Check.LIVENESS, is_passed=False))
    assert not bench.said(Stop)
    bench.feed(HandOverFailed(REF, "no"))
    bench.feed(Probed(REF, Check.LIVENESS, is_passed=False))
    assert bench.said(Stop)


def test_progress_of_the_hand_over_is_told(bench: Bench) -> None:
    """RUNNING repeats with what is sent."""
    bench.running()
    bench.feed(MOVE)
    bench.feed(Progressed(REF, "moving live: 5 of 16 MB sent"))
    assert bench.reported == [(Status.RUNNING, "moving live: 5 of 16 MB sent")]


def test_the_target_says_where_it_waits(bench: Bench) -> None:
    """STARTING carries the address, also when it is repeated, until the guest runs."""
    bench.feed(DeployAsked(REF, spec(), is_live=True))
    assert [item.is_live for item in bench.said(Start)] == [True]
    bench.feed(GuestAwaited(REF, URI))
    assert [(item.status, item.incoming) for item in bench.said(Publish)] == [(Status.STARTING, URI)]
    bench.feed(DeployAsked(REF, spec(), is_live=True))
    assert [item.incoming for item in bench.said(Publish)] == [URI]
    bench.feed(Started(REF, "its running guest arrived"))
    assert [(item.status, item.incoming) for item in bench.said(Publish)] == [(Status.RUNNING, "")]


def test_an_arrived_guest_passes_its_probe_first(bench: Bench) -> None:
    """With a readiness probe the arrival alone is not RUNNING."""
    bench.feed(DeployAsked(REF, spec(readiness={"tcp": {"port": 1}}), is_live=True), GuestAwaited(REF, URI))
    bench.feed(Started(REF))
    assert [status for status, _ in bench.reported] == [Status.STARTING]
    bench.feed(Probed(REF, Check.READINESS, is_passed=True))
    assert bench.reported == [(Status.RUNNING, "")]


def test_a_target_without_a_guest_boots_afresh(bench: Bench) -> None:
    """The detail says so and the address is gone; a later try is an ordinary one."""
    bench.feed(DeployAsked(REF, spec(), is_live=True), GuestAwaited(REF, URI))
    bench.feed(GuestMissed(REF, "no running guest came within 20 s"))
    (told,) = bench.said(Publish)
    assert (told.status, told.incoming) == (Status.STARTING, "")
    assert told.detail == "no running guest came within 20 s; booting the image afresh"
    bench.feed(StartFailed(REF, "no"))
    bench.at(10, Ticked())
    assert [item.is_live for item in bench.said(Start)] == [False]


def test_a_deleted_target_stops_waiting(bench: Bench) -> None:
    """What is said of the guest afterwards changes nothing."""
    bench.feed(DeployAsked(REF, spec(), is_live=True), GuestAwaited(REF, URI), DeleteAsked(REF, spec()))
    assert bench.said(Stop)
    assert bench.feed(GuestAwaited(REF, URI), GuestMissed(REF, "late")) == []
    bench.feed(Exited(REF, Exit(reason="stopped before it was started")))
    assert bench.get(REF).phase is Phase.ENDED
