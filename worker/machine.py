"""The worker's pure state machine: events and the time go in, instructions come out; it does no IO and reads no clock.

Each (job, instance) is a slot; several generations of a slot may be known, at most one of them runs. Phases:

    WAITING → STARTING → RUNNING → STOPPING → ENDED
       ↑__________|__________|__________|        (restarts by policy, after a back-off)

An ENDED instance is kept until the manager deletes it, and a deleted one until the broker has its STOPPED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from cluster.jobs import OnDisconnect, RestartPolicy
from worker.handover import OVER, Handovers, cause_after_move, stop_grace_s
from worker.policy import (
    KILL_REPEAT_S,
    STABLE_RUN_S,
    START_TRIES,
    back_off_s,
    describe,
    final_status,
    has_attempts_left,
    is_run_again,
    why_stopped,
)
from worker.records import (
    Cause,
    Check,
    DeleteAsked,
    DeployAsked,
    Event,
    Exit,
    Exited,
    GuestAwaited,
    GuestMissed,
    HandOverFailed,
    Instance,
    Instruction,
    Kill,
    LeaseAcknowledged,
    MoveAnnounced,
    Phase,
    Probed,
    ProbeState,
    Progressed,
    Publish,
    Ref,
    RunProbe,
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
from worker.slots import ACTIVE


class Machine(Handovers):
    """All instances of one worker. `seed` makes the jitter; `lease_at` is the last lease, on the clock of `now`."""

    def __init__(
        self,
        *,
        seed: int = 0,
        instances: Iterable[Instance] = (),
        fences: Mapping[tuple[str, int], int] | None = None,
        lease_at: float | None = None,
    ) -> None:
        super().__init__(instances, fences or {})
        self.lease_at = lease_at
        self._seed = seed
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            DeployAsked: self._deploy_asked,
            DeleteAsked: self._delete_asked,
            MoveAnnounced: self._move_announced,
            Progressed: self._progressed,
            GuestAwaited: self._guest_awaited,
            GuestMissed: self._guest_missed,
            HandOverFailed: self._hand_over_failed,
            Started: self._started,
            StartFailed: self._start_failed,
            Exited: self._exited,
            Vanished: self._vanished,
            Probed: self._probed,
            LeaseAcknowledged: self._lease_acknowledged,
            StateAcknowledged: self._state_acknowledged,
            WorkerEnded: self._worker_ended,
            Ticked: self._ticked,
        }

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event; the instructions that follow, in order."""
        self._handlers[type(event)](event, now)
        return self._taken()

    def resume(self, now: float, *, is_new_boot: bool) -> list[Instruction]:
        """After a restart of the worker: take up waiting instances; the shell reports what it found of the others."""
        for item in list(self.instances.values()):
            if is_new_boot:
                item = self._put(item, leased_at=None)
            if item.phase is Phase.STOPPING:
                self._put(item, wake_at=now + item.spec.stop_grace_s)
            elif item.phase is Phase.WAITING and item.failures:
                self._put(item, wake_at=now + back_off_s(item.failures, item.ref, self._seed))
        self._begin_waiting(now)
        return self._taken()

    def next_due(self) -> float | None:
        """When `Ticked` is next needed."""
        times = [time for item in self.instances.values() for time in self._times(item)]
        return min(times, default=None)

    # -- commands -----------------------------------------------------------------------------------------------

    def _deploy_asked(self, event: DeployAsked, now: float) -> None:
        ref = event.ref
        known = self.instances.get(ref)
        if known:
            self._publish(known)
        elif event.leased_at is not None and event.leased_at + event.spec.stop_after_s <= now:
            return  # so late that its replacement may run elsewhere: the manager repeats what it still wants
        elif ref.generation <= self.fences.get(ref.slot, -1):
            self._emit(Publish(ref, event.spec.name, Status.STOPPED, "this generation was deleted before"))
        elif not any(item.ref.generation > ref.generation for item in self.by_slot(ref.slot)):
            self._accept(event, now)

    def _accept(self, event: DeployAsked, now: float) -> None:
        ref = event.ref
        for older in self.by_slot(ref.slot):
            if older.is_ended:
                self._forget(older)
            else:
                self._stop(older, Cause.REPLACED, now)
        leased_at = now if event.leased_at is None else min(event.leased_at, now)
        fresh = Instance(ref=ref, spec=event.spec, leased_at=leased_at, is_live=event.is_live)
        self._put(fresh, is_new=True)
        self._begin_waiting(now)
        if self.instances[ref].phase is Phase.WAITING:
            self._report(self.instances[ref], Status.STARTING, "waiting for the older copy to stop")

    def _delete_asked(self, event: DeleteAsked, now: float) -> None:
        ref = event.ref
        self._fence(ref)
        for item in self.by_slot(ref.slot):
            if item.ref.generation > ref.generation:
                continue
            if item.is_ended:
                item = self._put(item, cause=Cause.DELETED, status=Status.STOPPED)
                self._publish(item)
            else:
                self._stop(item, Cause.DELETED, now)
        if ref not in self.instances:
            self._put(Instance(ref=ref, spec=event.spec, cause=Cause.DELETED, detail="not known here"), is_new=True)
            self._begin_waiting(now)

    # -- what the runtime reports ---------------------------------------------------------------------------------

    def _started(self, event: Started, now: float) -> None:
        item = self.instances.get(event.ref)
        if item is None or item.is_ended or item.phase is Phase.WAITING:
            spec = item.spec if item else None
            if spec:
                self._emit(Kill(event.ref, spec))
        elif item.phase is Phase.STOPPING:
            self._emit(Stop(item.ref, item.spec))
        else:
            self._run(item, event.detail, now)

    def _run(self, item: Instance, detail: str, now: float) -> None:
        is_ready = item.spec.readiness is None or item.status is Status.RUNNING
        is_restart = item.has_run and item.phase is Phase.STARTING  # a running one was found again only
        item = self._put(
            item,
            phase=Phase.RUNNING,
            has_run=True,
            restarts=item.restarts + is_restart,
            running_since=now,
            is_ready=is_ready,
            liveness=_first_probe(item, Check.LIVENESS, now),
            readiness=_first_probe(item, Check.READINESS, now),
        )
        if is_ready and item.status is not Status.RUNNING:
            self._report(item, Status.RUNNING, detail)
        elif not is_ready:
            self._report(item, Status.STARTING, "started; not ready yet")

    def _start_failed(self, event: StartFailed, now: float) -> None:
        item = self.instances.get(event.ref)
        if item is None or item.phase not in (Phase.STARTING, Phase.STOPPING):
            return
        if item.phase is Phase.STOPPING:
            self._after_stop(item, Exit(reason=event.reason), now)
            return
        item = self._put(item, failures=item.failures + 1)
        is_last = (
            event.is_final
            or item.spec.restart_policy is RestartPolicy.NEVER
            or (not item.has_run and item.failures >= START_TRIES)
            or not has_attempts_left(item.spec, item.failures)
        )
        if is_last:
            self._end(item, Status.FAILED, event.reason, None, now)
        else:
            self._back_off(item, event.reason, now)

    def _exited(self, event: Exited, now: float) -> None:
        item = self.instances.get(event.ref)
        if item is None or item.phase not in ACTIVE:
            return
        if event.exit.is_moved:
            self._end(self._put(item, cause=cause_after_move(item)), Status.STOPPED, event.exit.reason, None, now)
        elif item.phase is Phase.STOPPING:
            self._after_stop(item, event.exit, now)
        else:
            self._after_exit(item, event.exit, now)

    def _vanished(self, event: Vanished, now: float) -> None:
        """What never ran, and what is to run always, is started at once: that is no failure of its own."""
        item = self.instances.get(event.ref)
        if item is None or item.phase not in ACTIVE:
            return
        unknown = Exit(reason=event.reason, is_outcome_known=False)
        if item.phase is Phase.STOPPING:
            self._after_stop(item, unknown, now)
        elif item.has_run and not is_run_again(item.spec, unknown):
            self._end(item, Status.FAILED, describe(unknown), None, now)
        else:
            self._put(item, phase=Phase.WAITING)
            self._begin_waiting(now)

    def _after_stop(self, item: Instance, exit_: Exit, now: float) -> None:
        if item.cause is Cause.UNHEALTHY:
            self._after_exit(item, Exit(code=exit_.code or None, reason=item.detail), now)
            return
        self._end(item, Status.STOPPED, why_stopped(item), None, now)

    def _after_exit(self, item: Instance, exit_: Exit, now: float) -> None:
        is_stable = item.running_since is not None and now - item.running_since >= STABLE_RUN_S
        item = self._put(item, failures=(0 if is_stable else item.failures) + 1)
        words = describe(exit_)
        if not is_run_again(item.spec, exit_):
            self._end(item, final_status(exit_), words, exit_.code, now)
        elif not has_attempts_left(item.spec, item.failures):
            tries = f"{item.failures} attempt{'' if item.failures == 1 else 's'}"
            self._end(item, Status.FAILED, f"{words}; gave up after {tries}", exit_.code, now)
        else:
            self._back_off(item, words, now)

    def _back_off(self, item: Instance, why: str, now: float) -> None:
        wait_s = back_off_s(item.failures, item.ref, self._seed)
        item = self._put(item, phase=Phase.WAITING, cause=Cause.NONE, wake_at=now + wait_s)
        self._report(item, Status.STARTING, f"{why}; next try in {wait_s:.1f} s")

    # -- probes -----------------------------------------------------------------------------------------------------

    def _probed(self, event: Probed, now: float) -> None:
        item = self.instances.get(event.ref)
        state = item.probe_state(event.check) if item else None
        probe = item.probe(event.check) if item else None
        if item is None or state is None or probe is None or item.phase is not Phase.RUNNING:
            return
        failures = 0 if event.is_passed or item.handing_over_to else state.failures + 1
        after = ProbeState(due_at=now + probe.interval_s, failures=failures)
        if event.check is Check.LIVENESS:
            item = self._put(item, liveness=after)
            if failures >= probe.failure_threshold:
                self._stop(self._put(item, detail=f"liveness failed: {event.detail}"), Cause.UNHEALTHY, now)
        else:
            self._judge_readiness(self._put(item, readiness=after), event, failures >= probe.failure_threshold)

    def _judge_readiness(self, item: Instance, event: Probed, is_over_threshold: bool) -> None:
        if event.is_passed and not item.is_ready:
            self._report(self._put(item, is_ready=True), Status.RUNNING, "")
        elif is_over_threshold:
            words = f"not ready: {event.detail}"
            if item.is_ready or item.detail != words:
                self._report(self._put(item, is_ready=False), item.status, words)

    # -- lease, acknowledgements, time ------------------------------------------------------------------------------

    def _lease_acknowledged(self, event: LeaseAcknowledged, now: float) -> None:
        if event.at <= now and (self.lease_at is None or event.at > self.lease_at):
            self.lease_at = event.at
            self._begin_waiting(now)

    def _state_acknowledged(self, event: StateAcknowledged, now: float) -> None:
        del now
        item = self.instances.get(event.ref)
        is_over = item and item.is_ended and item.cause in OVER
        if item and is_over and event.status is Status.STOPPED:
            self._forget(item)

    def _worker_ended(self, event: WorkerEnded, now: float) -> None:
        """All of them end before any of them says so: nothing may begin in the place of another."""
        del now
        ended = [item for ref in event.refs if (item := self.instances.get(ref)) and not item.is_ended]
        for item in ended:
            cause = item.cause if item.cause in OVER else Cause.WORKER_ENDED
            self._put(item, phase=Phase.ENDED, cause=cause, exit_code=None, wake_at=None)
        for item in ended:
            self._close(self.instances[item.ref], Status.STOPPED, why_stopped(self.instances[item.ref]))

    def _ticked(self, event: Ticked, now: float) -> None:
        del event
        for item in list(self.instances.values()):
            if item.phase is Phase.STOPPING and item.wake_at is not None and item.wake_at <= now:
                self._put(item, wake_at=now + KILL_REPEAT_S)
                self._emit(Kill(item.ref, item.spec))
            elif not item.is_ended and (ends := self._lease_ends(item)) is not None and ends <= now:
                self._stop(item, Cause.CUT_OFF, now)
            elif item.phase is Phase.RUNNING:
                self._run_due_probes(item, now)
        self._begin_waiting(now)

    def _run_due_probes(self, item: Instance, now: float) -> None:
        for check in Check:
            state, probe = item.probe_state(check), item.probe(check)
            if state and probe and state.due_at is not None and state.due_at <= now:
                started = replace(state, due_at=None)
                changes: dict[str, Any] = {check.value: started}
                item = self._put(item, **changes)
                self._emit(RunProbe(item.ref, check, probe))

    def _times(self, item: Instance) -> list[float]:
        if item.is_ended:
            return []
        times = [item.wake_at]
        if item.phase is not Phase.STOPPING:
            times.append(self._lease_ends(item))
        times.extend(state.due_at for state in (item.liveness, item.readiness) if state)
        return [time for time in times if time is not None]

    def _lease_ends(self, item: Instance) -> float | None:
        """When `stop_after` is over; None where it does not apply, or after a reboot, until a lease comes."""
        leases = [at for at in (item.leased_at, self.lease_at) if at is not None]
        if item.spec.on_disconnect is not OnDisconnect.STOP_AFTER or not leases:
            return None
        return max(leases) + item.spec.stop_after_s

    # -- transitions ------------------------------------------------------------------------------------------------

    def _begin_waiting(self, now: float) -> None:
        for ref in sorted(self.instances):
            item = self.instances[ref]  # as it is now: what began before may have ended or begun this one
            if item.phase is not Phase.WAITING:
                continue
            if item.wake_at is not None and item.wake_at <= now:
                item = self._put(item, wake_at=None)  # what it waits for now is not time: nothing is due
            if not self._is_slot_taken(ref):
                self._begin(item, now)

    def _is_slot_taken(self, ref: Ref) -> bool:
        """Whether an older generation still runs; a newer one ends its elders when it comes."""
        return any(item.phase in ACTIVE and item.ref < ref for item in self.by_slot(ref.slot))

    def _begin(self, item: Instance, now: float) -> None:
        if item.cause is Cause.DELETED:
            self._end(item, Status.STOPPED, item.detail, None, now)
        elif item.wake_at is not None and item.wake_at > now:
            return
        elif item.spec.on_disconnect is OnDisconnect.STOP_AFTER and self._lease_ends(item) is None:
            self._report(item, Status.STARTING, "waiting for a lease from the manager after a reboot")
        else:
            start = Start(item.ref, item.spec, item.is_live)
            item = self._put(item, phase=Phase.STARTING, wake_at=None, is_live=False)
            self._report(item, Status.STARTING, "starting" if not item.failures else f"try {item.failures + 1}")
            self._emit(start)

    def _stop(self, item: Instance, cause: Cause, now: float) -> None:
        """Begin to stop; a second reason only replaces the first, but a deletion is never taken back."""
        if item.phase is Phase.WAITING:
            item = self._put(item, cause=cause, wake_at=None)
            self._after_stop(item, Exit(), now)
        elif item.phase is Phase.STOPPING:
            if item.cause is not Cause.DELETED:
                self._put(item, cause=cause)
        else:
            grace_s = stop_grace_s(item)
            self._put(
                item,
                phase=Phase.STOPPING,
                cause=cause,
                wake_at=now + (grace_s or KILL_REPEAT_S),
                liveness=None,
                readiness=None,
            )
            self._emit(Stop(item.ref, item.spec) if grace_s else Kill(item.ref, item.spec))

    def _end(self, item: Instance, status: Status, detail: str, exit_code: int | None, now: float) -> None:
        self._close(self._put(item, phase=Phase.ENDED, exit_code=exit_code, wake_at=None), status, detail)
        self._begin_waiting(now)

    def _close(self, item: Instance, status: Status, detail: str) -> None:
        self._report(item, status, detail)
        if item.cause in OVER:
            self._fence(item.ref)


def _first_probe(item: Instance, check: Check, now: float) -> ProbeState | None:
    probe = item.probe(check)
    return ProbeState(due_at=now + probe.initial_delay_s) if probe else None
