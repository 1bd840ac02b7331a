"""A rolling change of a job's specification, batch by batch behind a health gate. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cluster.errors import ConflictError
from cluster.jobs import JobSpec
from manager.domain.job_registry import noted
from manager.domain.model import Instance, InstanceState, Job, Update, UpdatePhase

SETTLE_MS: Final = 2_000
CHANGED_AT_ONCE: Final = 200
CRASH_MEMORY_MS: Final = 60_000
MOVING = (UpdatePhase.ROLLING, UpdatePhase.ROLLING_BACK)
_PLACED: Final = ("placed", "move_started")


@dataclass(frozen=True, kw_only=True)
class Step:
    """The job after one look, and the instances that now get `spec`."""

    job: Job
    spec: JobSpec | None = None
    numbers: tuple[int, ...] = ()


def is_there(job: Job, instances: Iterable[Instance], spec: JobSpec) -> bool:
    """Whether an update to `spec` has nothing to do: it is under way, or every wanted instance has it already.

    Raises ConflictError while the job is taken back from that very specification.
    """
    if spec != job.spec:
        return False
    phase = job.update.phase if job.update else None
    if phase is UpdatePhase.ROLLING_BACK and job.update:
        raise ConflictError(
            f"job {job.id} is being rolled back from that specification ({job.update.detail}): "
            "update it again once it is rolled back, or to another specification now",
            field="spec",
        )
    if phase is None:
        return all(item.spec == spec for item in instances if item.is_desired)
    return phase is not UpdatePhase.FAILED


def fallback_of(job: Job, instances: Iterable[Instance], spec: JobSpec) -> JobSpec:
    """What an update to `spec` is rolled back to: the last specification that the job had without trouble."""
    update = job.update
    if update is not None and not update.is_rolled_back:
        return update.old
    if spec != job.spec:
        return job.spec
    others = Counter(item.spec for item in instances if item.is_desired and item.spec != spec)
    return others.most_common(1)[0][0] if others else spec


def begin(job: Job, spec: JobSpec, update: Update, actor: str, now_ms: int) -> Job:
    """The job with its new specification and an update under way."""
    started = replace(job, spec=spec, update=replace(update, since_ms=now_ms))
    return noted(started, actor, "update_started", f"{spec.image}, {update.batch_size} at a time", now_ms)


def ended_early(job: Job, instances: Iterable[Instance]) -> list[int]:
    """The instances that failed on the specification that an update, begun again or resumed, brings them to."""
    if job.update is None or job.update.phase not in MOVING:
        return []
    target, over = target_of(job, job.update), (InstanceState.FAILED, InstanceState.LOST)
    return [i.key.number for i in instances if i.is_desired and i.spec == target and i.state in over and not i.current]


def step(job: Job, instances: Sequence[Instance], now_ms: int) -> Step:
    """What to do next: change further instances, finish, fail or roll back. Of a large batch it changes a part."""
    update = job.update
    if update is None or update.phase not in MOVING:
        return Step(job=job)
    target = target_of(job, update)
    desired = [item for item in instances if item.is_desired]
    waiting = [item for item in desired if not _has(item, target)]
    unhealthy = [item for item in desired if _has(item, target) and not _is_healthy(item, now_ms)]
    known = dict(update.began)
    began = {item.key.number: known.get(item.key.number, now_ms) for item in unhealthy}
    late = [item for item in unhealthy if _is_bad(item, began[item.key.number], update, now_ms)]
    if late and update.phase is UpdatePhase.ROLLING:
        return Step(job=_failed(job, update, late[0], now_ms))
    if not waiting and not unhealthy:
        return Step(job=_finished(job, update, target, now_ms))
    room = min(update.batch_size - len(unhealthy), CHANGED_AT_ONCE)
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
    return not _has_crashed(instance, now_ms - CRASH_MEMORY_MS)


def _has_crashed(instance: Instance, since_ms: int) -> bool:
    """Its worker had to start this copy again since then."""
    for event in reversed(instance.events):
        if event.at_ms < since_ms or (event.kind in _PLACED and event.node_id == instance.node_id):
            return False
        if event.kind == "restarting":
            return True
    return False


def _is_bad(instance: Instance, began_ms: int, update: Update, now_ms: int) -> bool:
    has_failed = instance.state is InstanceState.FAILED
    has_crashed = _has_crashed(instance, max(update.since_ms, now_ms - CRASH_MEMORY_MS))
    return has_failed or has_crashed or now_ms - began_ms > update.health_deadline_ms


def _failed(job: Job, update: Update, instance: Instance, now_ms: int) -> Job:
    cause = f"instance {instance.key.number} did not become healthy: {instance.state}, {instance.detail}"
    phase = UpdatePhase.ROLLING_BACK if update.rollback_on_failure else UpdatePhase.FAILED
    hint = "" if update.rollback_on_failure else "; update it again, resume the update or roll it back"
    failed = replace(job, update=replace(update, phase=phase, began=(), detail=f"{cause}{hint}"))
    kind = "update_rolling_back" if update.rollback_on_failure else "update_failed"
    return noted(failed, "manager", kind, cause, now_ms)


def _finished(job: Job, update: Update, target: JobSpec, now_ms: int) -> Job:
    if update.phase is UpdatePhase.ROLLING:
        return noted(replace(job, update=None), "manager", "updated", "every instance is changed and healthy", now_ms)
    detail = f"rolled back: {update.detail}"
    ended = replace(update, phase=UpdatePhase.FAILED, old=job.spec, began=(), is_rolled_back=True, detail=detail)
    return noted(replace(job, spec=target, update=ended), "manager", "rolled_back", detail, now_ms)


def controlled(job: Job, phase: UpdatePhase, actor: str, now_ms: int) -> Job:
    """The job with its update paused, resumed or rolled back by hand.

    Raises ConflictError that says how the update stands where that cannot be.
    """
    update = job.update
    if update is None:
        raise ConflictError(f"job {job.id} has no update under way: begin one with a new specification", field="job")
    if update.phase is phase or (update.is_rolled_back and phase is UpdatePhase.ROLLING_BACK):
        return job
    if problem := _uncontrollable(update, phase):
        raise ConflictError(f"job {job.id} {problem}", field="control")
    cause = f"{actor} asked for it"
    detail = f"{cause}; resume it or roll it back" if phase is UpdatePhase.PAUSED else cause
    changed = replace(job, update=replace(update, phase=phase, began=(), since_ms=now_ms, detail=detail))
    return noted(changed, actor, f"update_{phase.value}", cause, now_ms)


def _uncontrollable(update: Update, phase: UpdatePhase) -> str:
    """Why an update is neither paused nor resumed now; "" where it can be."""
    if update.phase is UpdatePhase.ROLLING_BACK:
        return "is being rolled back, which is neither paused nor resumed: update it anew"
    if update.is_rolled_back:
        return f"was rolled back ({update.detail}): there is nothing to pause or resume, update it again"
    if update.phase is UpdatePhase.FAILED and phase is UpdatePhase.PAUSED:
        return "has an update that failed and goes no further: resume it, roll it back or update it again"
    return ""
