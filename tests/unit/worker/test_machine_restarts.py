"""The worker's pure machine: how often it started again, and what is left of workloads that ended with their worker."""

from testbed.machines import REF, Bench, newer, spec
from worker.machine import Machine
from worker.records import (
    Cause,
    DeleteAsked,
    DeployAsked,
    Exit,
    Exited,
    Fence,
    Forget,
    Phase,
    Publish,
    Ref,
    Save,
    Start,
    Started,
    StartFailed,
    StateAcknowledged,
    Status,
    Stop,
    Ticked,
    Vanished,
    WorkerEnded,
)

WORDS = "stopped with its worker"


def test_each_start_after_the_first_counts() -> None:
    """Every state says how often it was started again, a try that failed not counted; it is saved with it."""
    bench = Bench().running()
    assert [item.restarts for item in bench.said(Publish)] == [0, 0]
    for count in (1, 2):
        bench.at(1, Exited(REF, Exit(code=1)))
        assert [item.restarts for item in bench.said(Publish)] == [count - 1]
        bench.at(10, Ticked())
        bench.feed(StartFailed(REF, "no room"))
        bench.at(30, Ticked(), Started(REF))
        assert [(item.status, item.restarts) for item in bench.said(Publish)][-1] == (Status.RUNNING, count)
        assert bench.said(Save)[-1].instance.restarts == count
    assert bench.get().restarts == 2


def test_what_never_ran_was_not_restarted() -> None:
    """Tries of a first start are none."""
    bench = Bench()
    bench.feed(DeployAsked(REF, spec()), StartFailed(REF, "no image"))
    bench.at(10, Ticked(), Started(REF))
    assert bench.get().restarts == 0


def test_what_is_found_again_was_not_restarted() -> None:
    """A worker that starts anew takes up what runs; what has vanished and is started again counts."""
    bench = Bench().running()
    again = Bench(Machine(seed=7, instances=[bench.get()]))
    again.feed(Started(REF))
    assert again.get().restarts == 0
    again.feed(Vanished(REF, "its process is gone"), Started(REF))
    assert again.get().restarts == 1


def test_each_generation_counts_anew() -> None:
    """A newer one was never started before."""
    bench = Bench().running()
    bench.at(1, Exited(REF, Exit(code=1)))
    bench.at(10, Ticked(), Started(REF))
    bench.feed(DeployAsked(newer(), spec()), Exited(REF, Exit()), Started(newer()))
    assert bench.get(newer()).restarts == 0


def test_a_workload_that_ended_with_its_worker_is_stopped_for_good() -> None:
    """It is saved and told as STOPPED, a later start begins nothing, and a newer generation runs."""
    bench = Bench().running(one_shot=True)
    bench.feed(WorkerEnded(frozenset({REF})))
    assert bench.reported == [(Status.STOPPED, WORDS)]
    assert bench.said(Save)[-1].instance.phase is Phase.ENDED
    again = Bench(Machine(seed=7, instances=[bench.get()]))
    assert again.machine.resume(again.now, is_new_boot=False) == []
    again.at(1000, Ticked())
    assert again.out == []
    again.feed(DeployAsked(REF, spec()))
    assert again.reported == [(Status.STOPPED, WORDS)]
    again.feed(DeployAsked(newer(), spec()))
    assert [item.ref for item in again.said(Start)] == [newer()]


def test_nothing_begins_while_the_worker_ends() -> None:
    """Neither the newer generation that waited for this one, nor what waited for its next try."""
    bench = Bench().running()
    bench.feed(DeployAsked(newer(), spec()))
    other = Ref("j2", 0, 1)
    bench.feed(DeployAsked(other, spec()), Started(other), Exited(other, Exit(code=1)))
    bench.now += 1000
    bench.feed(WorkerEnded(frozenset(bench.machine.instances)))
    assert bench.said(Start) == []
    assert {item.phase for item in bench.machine.instances.values()} == {Phase.ENDED}
    assert sorted(detail for _, detail in bench.reported) == ["replaced by a newer generation", WORDS, WORDS]


def test_a_deletion_under_way_stays_one() -> None:
    """What was being deleted is fenced, told as that, and forgotten once that is acknowledged."""
    bench = Bench().running()
    bench.feed(DeleteAsked(REF, spec()))
    bench.feed(WorkerEnded(frozenset({REF})))
    assert bench.reported == [(Status.STOPPED, "stopped")]
    assert bench.get().cause is Cause.DELETED
    bench.feed(StateAcknowledged(REF, Status.STOPPED))
    assert bench.said(Forget)


def test_what_could_not_be_ended_is_left_as_it_is() -> None:
    """Only those that are named ended; the others are found again at the next start."""
    bench = Bench().running()
    bench.feed(WorkerEnded(frozenset({newer()})))
    assert bench.out == []
    assert bench.get().phase is Phase.RUNNING


def test_what_had_ended_before_stays_as_it_ended() -> None:
    """Its outcome is not overwritten."""
    bench = Bench().running(one_shot=True)
    bench.feed(Exited(REF, Exit(code=0)))
    bench.feed(WorkerEnded(frozenset({REF})))
    assert bench.out == []
    assert bench.get().status is Status.COMPLETED
    assert not bench.said(Stop) + bench.said(Fence)
