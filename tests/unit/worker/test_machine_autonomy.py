"""The worker's pure machine: probes, lease, restart of the worker, reboot."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from testbed.machines import REF, Bench, newer, spec
from worker.machine import Machine
from worker.records import (
    Check,
    DeleteAsked,
    DeployAsked,
    Exit,
    Exited,
    Instance,
    LeaseAcknowledged,
    Phase,
    Probed,
    RunProbe,
    Start,
    Started,
    Status,
    Stop,
    Ticked,
    Vanished,
)

PROBE = {"http": {"port": 80}, "interval_s": 2, "failure_threshold": 2}
STOP_AFTER = {"on_disconnect": "stop_after", "stop_after_s": 10}


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.machine.check_invariants()


def restarted(*instances: Instance, is_new_boot: bool = False, lease_at: float | None = None) -> Bench:
    bench = Bench(Machine(seed=7, instances=instances, lease_at=lease_at))
    bench.out = bench.machine.resume(bench.now, is_new_boot=is_new_boot)
    return bench


def kept(phase: Phase = Phase.RUNNING, status: Status = Status.RUNNING, **document: object) -> Instance:
    return Instance(ref=REF, spec=spec(**document), phase=phase, status=status, has_run=status is Status.RUNNING)


def test_running_waits_for_readiness(bench: Bench) -> None:
    """With a readiness probe RUNNING is reported when it passes, not before."""
    bench.feed(DeployAsked(REF, spec(readiness=PROBE)))
    bench.feed(Started(REF))
    assert bench.reported == [(Status.STARTING, "started; not ready yet")]
    bench.feed(Ticked())
    assert [item.check for item in bench.said(RunProbe)] == [Check.READINESS]
    bench.feed(Probed(REF, Check.READINESS, is_passed=True))
    assert bench.reported == [(Status.RUNNING, "")]


def test_a_probe_under_way_is_not_run_twice(bench: Bench) -> None:
    """The next one comes an interval after the answer."""
    bench.running(liveness=PROBE)
    bench.feed(Ticked())
    assert bench.said(RunProbe)
    bench.at(100, Ticked())
    assert not bench.said(RunProbe)
    bench.feed(Probed(REF, Check.LIVENESS, is_passed=True))
    bench.at(2, Ticked())
    assert bench.said(RunProbe)


def test_initial_delay(bench: Bench) -> None:
    """The first check waits for it."""
    bench.running(liveness=PROBE | {"initial_delay_s": 5})
    assert not bench.feed(Ticked())
    assert bench.machine.next_due() == bench.now + 5


def test_failed_liveness_restarts(bench: Bench) -> None:
    """At the threshold it is stopped, and started again by policy with the reason."""
    bench.running(liveness=PROBE)
    bench.feed(Probed(REF, Check.LIVENESS, is_passed=False, detail="HTTP 500"))
    assert not bench.said(Stop)
    bench.feed(Probed(REF, Check.LIVENESS, is_passed=False, detail="HTTP 500"))
    assert bench.said(Stop)
    bench.feed(Exited(REF, Exit(code=0)))
    assert bench.reported[0][1].startswith("liveness failed: HTTP 500; next try in")
    bench.at(5, Ticked())
    assert bench.said(Start)


def test_passing_liveness_forgets_failures(bench: Bench) -> None:
    """Only failures in a row count."""
    bench.running(liveness=PROBE)
    for is_passed in (False, True, False):
        bench.feed(Probed(REF, Check.LIVENESS, is_passed=is_passed))
    assert not bench.said(Stop)


def test_lost_readiness_is_told_and_stays_running(bench: Bench) -> None:
    """Within a generation states only move forward: the detail says that it is not ready."""
    bench.running(readiness=PROBE)
    bench.feed(Probed(REF, Check.READINESS, is_passed=True))
    bench.feed(*[Probed(REF, Check.READINESS, is_passed=False, detail="HTTP 503")] * 2)
    assert bench.reported == [(Status.RUNNING, "not ready: HTTP 503")]
    bench.feed(Probed(REF, Check.READINESS, is_passed=True))
    assert bench.reported == [(Status.RUNNING, "")]


def test_late_probe_answers_are_ignored(bench: Bench) -> None:
    """A check that was under way when the instance stopped means nothing."""
    bench.running(liveness=PROBE)
    bench.feed(DeleteAsked(REF, spec()))
    assert bench.feed(Probed(REF, Check.LIVENESS, is_passed=False)) == []


def test_stop_after_counts_from_the_last_lease(bench: Bench) -> None:
    """Each acknowledged heartbeat prolongs; without one the copy is stopped in time."""
    bench.running(**STOP_AFTER)
    bench.at(8, LeaseAcknowledged(bench.now + 8))
    bench.at(9, Ticked())
    assert not bench.said(Stop)
    assert bench.machine.next_due() == bench.now + 1
    bench.at(1.1, Ticked())
    assert bench.said(Stop)
    bench.feed(Exited(REF, Exit(code=0)))
    assert bench.reported == [(Status.STOPPED, "no lease from the manager for 10 s")]


def test_a_late_lease_does_not_prolong(bench: Bench) -> None:
    """What counts is when the acknowledged heartbeat was sent; one from the future is no lease at all."""
    bench.running(**STOP_AFTER)
    bench.at(11, LeaseAcknowledged(bench.now + 0.5), LeaseAcknowledged(bench.now + 1e9), Ticked())
    assert bench.said(Stop)


def test_others_do_not_stop_without_a_lease(bench: Bench) -> None:
    """`replace` and `keep` run on, for ever."""
    bench.running(on_disconnect="keep").running(replace(REF, number=1))
    bench.at(1e7, Ticked())
    assert not bench.said(Stop)


def test_worker_restart_finds_the_workload_and_leaves_it_alone() -> None:
    """A healthy workload is not started again and not reported anew."""
    bench = restarted(kept())
    assert bench.out == []
    bench.feed(Started(REF))
    assert not bench.said(Start)
    assert bench.reported == []
    assert bench.get().phase is Phase.RUNNING


def test_worker_restart_keeps_a_ready_instance_ready() -> None:
    """An instance that was RUNNING does not fall back to STARTING while its probe is asked again."""
    bench = restarted(kept(readiness=PROBE))
    bench.feed(Started(REF))
    assert bench.reported == []


def test_reboot_starts_services_again() -> None:
    """What vanished with the machine is started at once where the policy says so."""
    bench = restarted(kept(), is_new_boot=True)
    bench.feed(Vanished(REF, "its process is gone"))
    assert bench.said(Start)
    assert bench.get().failures == 0


def test_reboot_never_runs_a_one_shot_again() -> None:
    """Its outcome is unknown: reported FAILED, not re-run."""
    bench = restarted(kept(one_shot=True), is_new_boot=True)
    bench.feed(Vanished(REF, "its process is gone"))
    assert bench.reported == [(Status.FAILED, "outcome unknown: its process is gone")]
    assert not bench.said(Start)


def test_a_start_that_the_crash_interrupted_is_made_up_for() -> None:
    """What never ran is started, one-shots too."""
    bench = restarted(kept(Phase.STARTING, Status.STARTING, one_shot=True))
    bench.feed(Vanished(REF, ""))
    assert bench.said(Start)


def test_a_stop_that_the_crash_interrupted_goes_on() -> None:
    """Found running, it is stopped; gone, it is STOPPED."""
    bench = restarted(replace(kept(Phase.STOPPING), cause="deleted"))
    bench.feed(Started(REF))
    assert bench.said(Stop)
    bench.feed(Vanished(REF, ""))
    assert bench.reported == [(Status.STOPPED, "stopped")]


def test_a_one_shot_that_ended_while_the_worker_was_away_has_its_outcome() -> None:
    """The noted exit status counts as if the worker had been there."""
    bench = restarted(kept(one_shot=True))
    bench.feed(Exited(REF, Exit(code=0)))
    assert bench.reported == [(Status.COMPLETED, "exited with status 0")]


def test_back_off_goes_on_after_a_restart() -> None:
    """The worker's own crash does not turn a crash loop into a hot loop."""
    waiting = replace(kept(Phase.WAITING, Status.STARTING), failures=4)
    bench = restarted(waiting)
    assert not bench.said(Start)
    assert bench.machine.next_due() == pytest.approx(bench.now + 8, rel=0.3)


def test_stop_after_waits_for_a_lease_after_a_reboot() -> None:
    """Nobody knows how long the machine was off: the copy may have been replaced meanwhile."""
    bench = restarted(replace(kept(**STOP_AFTER), leased_at=990.0), is_new_boot=True)
    bench.feed(Vanished(REF, "gone"))
    assert not bench.said(Start)
    bench.at(1, LeaseAcknowledged(bench.now + 1))
    assert bench.said(Start)


def test_stop_after_goes_on_counting_over_a_worker_restart() -> None:
    """The lease of the same boot still holds, and no longer."""
    bench = restarted(replace(kept(**STOP_AFTER), leased_at=900.0), lease_at=995.0)
    bench.feed(Started(REF))
    bench.at(4, Ticked())
    assert not bench.said(Stop)
    bench.at(2, Ticked())
    assert bench.said(Stop)


def test_successor_takes_over_when_the_lease_had_stopped_the_older(bench: Bench) -> None:
    """A new generation after a partition starts, and the stopped one is forgotten."""
    bench.running(**STOP_AFTER)
    bench.at(11, Ticked(), Exited(REF, Exit(code=0)))
    bench.feed(DeployAsked(newer(), spec(**STOP_AFTER)))
    assert [item.ref for item in bench.said(Start)] == [newer()]
    assert list(bench.machine.instances) == [newer()]
