"""Jobs as a whole: the number of their instances, and rolling changes of their specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from cluster.errors import ConflictError, InvalidInputError, NotFoundError
from cluster.jobs import JobSpec
from manager.core import Core
from manager.domain.model import Instance, InstanceKey, Job, Update, UpdatePhase
from manager.domain.replicas import scale
from manager.domain.rolling import MOVING, begin, controlled, ended_early, fallback_of, is_there, step, target_of

MAX_INSTANCES: Final = 10_000
LOOK_MS: Final = 1_000


class Jobs:
    """Changes jobs; the caller waits for the core's commit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._looked_ms: dict[str, int] = {}

    def get(self, job_id: str) -> Job:
        """The job. Raises NotFoundError."""
        job = self._core.state.jobs.get(job_id)
        if job is None:
            raise NotFoundError(f"there is no job {job_id!r}", field="job")
        return job

    def instances(self, job_id: str) -> list[Instance]:
        """Its instances by number."""
        state = self._core.state
        return [state.instances[InstanceKey(job_id, number)] for number in sorted(state.of_job.get(job_id, {}))]

    def replicating(self, job_id: str, wanted: int, actor: str) -> Iterator[Instance]:
        """Make it `wanted` instances, one after the other. Raises NotFoundError or InvalidInputError.

        With none it is kept until it is deleted.
        """
        if not 0 <= wanted <= MAX_INSTANCES:
            raise InvalidInputError(f"a job has 0 to {MAX_INSTANCES} instances", field="int_replicas")
        job = self.get(job_id)
        scaling = scale(job, self.instances(job_id), wanted)
        at_ms = self._core.now_ms()
        state = self._core.state
        was_living = state.is_living(job_id)
        added = [(InstanceKey(job_id, number), job.spec) for number in scaling.added]
        for instance in state.deploying(added, actor, at_ms):
            yield instance if instance.is_replica else state.put(replace(instance, is_replica=True))
        yield from state.deleting([InstanceKey(job_id, number) for number in scaling.deleted], actor, at_ms)
        if wanted == 0 and was_living:
            state.keep_job(job_id, actor, at_ms)

    def updating(self, job_id: str, spec: JobSpec, update: Update, actor: str) -> Iterator[object]:
        """Begin a rolling change to `spec`, or begin it again where it failed, instance by instance.

        Where it is under way, or every wanted instance has `spec` already, nothing is done. Raises NotFoundError or
        ConflictError.
        """
        job = self.get(job_id)
        if not self._core.state.is_living(job_id):
            raise ConflictError(f"job {job_id} was deleted: deploy it again", field="job")
        if job.spec.one_shot or spec.one_shot:
            raise ConflictError("one-shot jobs are not updated: deploy a new one", field="spec")
        if spec.name != job.spec.name:
            raise ConflictError(f"the name of a job cannot change (it is {job.spec.name!r})", field="spec.name")
        instances = self.instances(job_id)
        if is_there(job, instances, spec):
            return
        fallback = fallback_of(job, instances, spec)
        at_ms = self._core.now_ms()
        yield from self._setting_off(
            job_id, lambda current: begin(current, spec, replace(update, old=fallback), actor, at_ms)
        )

    def controlling(self, job_id: str, phase: UpdatePhase, actor: str) -> Iterator[object]:
        """Pause, resume or roll back an update, instance by instance. Raises NotFoundError or ConflictError."""
        job, at_ms = self.get(job_id), self._core.now_ms()
        if controlled(job, phase, actor, at_ms) is not job:
            yield from self._setting_off(job_id, lambda current: controlled(current, phase, actor, at_ms))

    def _setting_off(self, job_id: str, change: Callable[[Job], Job]) -> Iterator[object]:
        """Try again what failed on the specification that the job is brought to, and take the first step."""
        job = change(self.get(job_id))
        if job.update is not None:
            target = target_of(job, job.update)
            for number in ended_early(job, self.instances(job_id)):
                yield self._core.state.redeploy(InstanceKey(job_id, number), target, self._core.now_ms())
        self._core.state.put_job(change(self.get(job_id)))
        yield self.advance(job_id)

    def advance(self, job_id: str) -> Job:
        """Take the next step of an update under way."""
        job = self._core.state.jobs[job_id]
        at_ms = self._core.now_ms()
        taken = step(job, self.instances(job_id), at_ms)
        if taken.job is not job:
            self._core.state.put_job(taken.job)
        if taken.spec is not None:
            for number in taken.numbers:
                self._core.state.redeploy(InstanceKey(job_id, number), taken.spec, at_ms)
        return self._core.state.jobs[job_id]

    def advance_due(self) -> None:
        """Take the next step of the updates under way of which something changed, or that were not looked at lately."""
        at_ms = self._core.now_ms()
        for job_id in tuple(self._core.state.updating):
            if self._core.state.touched.pop(job_id, None) or at_ms - self._looked_ms.get(job_id, 0) >= LOOK_MS:
                self._looked_ms[job_id] = at_ms
                self._advance_moving(job_id)
        self._core.state.touched.clear()
        for job_id in self._looked_ms.keys() - self._core.state.updating.keys():
            del self._looked_ms[job_id]

    def _advance_moving(self, job_id: str) -> None:
        update = self._core.state.jobs[job_id].update
        if update is not None and update.phase in MOVING:
            self.advance(job_id)
