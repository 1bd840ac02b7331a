"""A rolling change of a job's specification, batch by batch behind a health gate. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cluster.errors import ConflictError
from cluster.jobs import JobSpec
from manager.domain.model import Event, Instance, InstanceState, Job, Update, UpdatePhase, with_event

SETTLE_MS: Final = 2_000
CRASH_MEMORY_MS: Final = 60_000
MOVING = (UpdatePhase.ROLLING, UpdatePhase.ROLLING_BACK)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The job after one look, and the instances that now get `spec`."""

    job: Job
    spec: JobSpec | None = None
    numbers: tuple[int, ...] = ()


def begin(job: Job, spec: JobSpec, update: Update, actor: str, now_ms: int) -> Job:
    """The job with its new specification and an update under way."""
    started = replace(job, spec=spec, update=update)
    return _noted(started, actor, "update_started", f"{spec.image}, {update.batch_size} at a time", now_ms)


def step(job: Job, instances: Sequence[Instance], now_ms: int) -> Step:
    """What to do next: change further instances, finish, fail or roll back."""
    update = job.update
    if update is None or update.phase not in MOVING:
        return Step(job=job)
    target = target_of(job, update)
    desired = [item for item in instances if item.is_desired]
    waiting = [item for item in desired if not _has(item, target)]
    unhealthy = [item for item in desired if _has(item, target) and not _is_healthy(item, now_ms)]
    began = {number: at_ms for number, at_ms in update.began if number in {item.key.number for item in unhealthy}}
    late = [item for item in unhealthy if _is_bad(item, began.get(item.key.number, now_ms), update, now_ms)]
    if late and update.phase is UpdatePhase.ROLLING:
        return Step(job=_failed(job, update, late[0], now_ms))
    if not waiting and not unhealthy:
        return Step(job=_finished(job, update, target, now_ms))
    room = update.batch_size - len(unhealthy)
    chosen = sorted(item.key.number for item in waiting)[: max(room, 0)]
    began.update(dict.fromkeys(chosen, now_ms))
    progress = f"{len(desired) - len(waiting) - len(unhealthy)} of {len(desired)} are changed and healthy"
    detail = progress if update.phase is UpdatePhase.ROLLING else update.detail  # rolling back, it says why
    next_update = replace(update, began=tuple(sorted(began.items())), detail=detail)
    return Step(
        job=job if next_update == update else replace(job, update=next_update), spec=target, numbers=tuple(chosen)
    )


def target_of(job: Job, update: Update) -> JobSpec:
    """The specification that the instances are being brought to."""
    return update.old if update.phase is UpdatePhase.ROLLING_BACK else job.spec


def _has(instance: Instance, target: JobSpec) -> bool:
    return instance.spec is target or instance.spec == target


def _is_healthy(instance: Instance, now_ms: int) -> bool:
    """It has run for a moment, so that what ends as soon as it starts is not taken for well."""
    current = instance.current
    if current is None or instance.state is not InstanceState.RUNNING or now_ms - current.since_ms < SETTLE_MS:
        return False
    return not _has_crashed(instance, now_ms)


def _has_crashed(instance: Instance, now_ms: int) -> bool:
    """Its worker had to start this copy again, not long ago."""
    since_ms = max(instance.current.since_ms if instance.current else now_ms, now_ms - CRASH_MEMORY_MS)
    return any(event.kind == "restarting" and event.at_ms >= since_ms for event in instance.events)


def _is_bad(instance: Instance, began_ms: int, update: Update, now_ms: int) -> bool:
    has_failed = instance.state is InstanceState.FAILED
    return has_failed or _has_crashed(instance, now_ms) or now_ms - began_ms > update.health_deadline_ms


def _failed(job: Job, update: Update, instance: Instance, now_ms: int) -> Job:
    cause = f"instance {instance.key.number} did not become healthy: {instance.state}, {instance.detail}"
    phase = UpdatePhase.ROLLING_BACK if update.rollback_on_failure else UpdatePhase.FAILED
    failed = replace(job, update=replace(update, phase=phase, began=(), detail=cause))
    kind = "update_rolling_back" if update.rollback_on_failure else "update_failed"
    return _noted(failed, "manager", kind, cause, now_ms)


def _finished(job: Job, update: Update, target: JobSpec, now_ms: int) -> Job:
    if update.phase is UpdatePhase.ROLLING:
        return _noted(replace(job, update=None), "manager", "updated", "every instance is changed and healthy", now_ms)
    detail = f"rolled back: {update.detail}"
    ended = replace(update, phase=UpdatePhase.FAILED, old=job.spec, began=(), detail=detail)
    return _noted(replace(job, spec=target, update=ended), "manager", "rolled_back", detail, now_ms)


def _noted(job: Job, actor: str, kind: str, cause: str, now_ms: int) -> Job:
    state = job.update.phase.value if job.update else ""
    event = Event(at_ms=now_ms, actor=actor, kind=kind, state=state, cause=cause)
    return replace(job, **with_event(job, event))


def controlled(job: Job, phase: UpdatePhase, actor: str, now_ms: int) -> Job:
    """The job with its update paused, resumed or rolled back by hand. Raises ConflictError while it is rolled back."""
    if job.update is None or job.update.phase is phase:
        return job
    if job.update.phase is UpdatePhase.ROLLING_BACK:
        raise ConflictError(
            f"job {job.id} is being rolled back, which is neither paused nor resumed: update it anew", field="control"
        )
    cause = f"{actor} asked for it"
    changed = replace(job, update=replace(job.update, phase=phase, began=(), detail=cause))
    return _noted(changed, actor, f"update_{phase.value}", cause, now_ms)
