"""The jobs of the cluster in memory, by id and name, and which of them live. Pure; part of `ClusterState`.

A job lives while one of its instances is wanted, or while it is kept without any. One whose instances were all deleted
is remembered with them for a while, but its name means it no longer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from cluster.errors import InvalidInputError, NotFoundError
from cluster.jobs import JobSpec
from manager.domain.model import Event, Job, with_event
from manager.domain.registry import NodeRegistry


class JobRegistry(NodeRegistry):
    """Jobs and their names; every change marks its record dirty."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.updating: dict[str, None] = {}
        self._wanted: defaultdict[str, int] = defaultdict(int)
        self._job_names: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def is_living(self, job_id: str) -> bool:
        """Whether an instance of it is wanted, or it is kept without any."""
        job = self.jobs.get(job_id)
        return job is not None and (job.is_kept or self._wanted.get(job_id, 0) > 0)

    def find_job(self, reference: str) -> Job:
        """The job of an id, the living one of a name, or the last one that had it.

        Raises NotFoundError, or InvalidInputError where several living jobs have the name.
        """
        if job := self.jobs.get(reference):
            return job
        named = [self.jobs[job_id] for job_id in self._job_names.get(reference, ())]
        if not named:
            raise NotFoundError(f"there is no job {reference!r}", field="job")
        living = [job for job in named if self.is_living(job.id)]
        if len(living) > 1:
            ids = ", ".join(sorted(job.id for job in living))
            raise InvalidInputError(f"{len(living)} jobs are called {reference!r}: use an id of {ids}", field="job")
        return living[0] if living else max(named, key=lambda job: (job.created_at_ms, job.id))

    def put_job_spec(self, job_id: str, spec: JobSpec, actor: str, now_ms: int) -> Job:
        """Create a job, or give it a newer specification; an update of it under way ends with that.

        One that is only remembered begins a new life: it is of whoever asks for it now.
        """
        job = self.jobs.get(job_id)
        if job is None:
            return self.put_job(Job(id=job_id, spec=spec, created_at_ms=now_ms, owner=actor))
        if not self.is_living(job_id):
            return self.put_job(replace(job, spec=spec, update=None, created_at_ms=now_ms, owner=actor))
        if job.spec != spec:
            if job.update is not None:
                cause = "an instance was deployed with another specification"
                job = noted(job, actor, "update_ended", cause, now_ms)
            return self.put_job(replace(job, spec=spec, update=None, is_kept=False))
        return self.put_job(replace(job, is_kept=False)) if job.is_kept else job

    def put_job(self, job: Job) -> Job:
        """Replace a job and mark it dirty."""
        old = self.jobs.get(job.id)
        job = replace(job, version=(old.version if old else 0) + 1)
        self._index_job(job.id, job)
        self.dirty.jobs[job.id] = None
        self._log(f"job:{job.id}", old, job)
        return job

    def revert_job(self, job_id: str, saved: Job | None) -> None:
        """Go back to what is saved of a job (None: nothing)."""
        self._index_job(job_id, saved)

    def _drop_job(self, job_id: str) -> None:
        if job_id in self.jobs:
            self._index_job(job_id, None)
            self.dirty.jobs[job_id] = None

    def _index_job(self, job_id: str, job: Job | None) -> None:
        old = self.jobs.pop(job_id, None)
        self.updating.pop(job_id, None)
        if old is not None:
            named = self._job_names[old.spec.name]
            named.pop(job_id)
            if not named:
                del self._job_names[old.spec.name]
        if job is not None:
            self.jobs[job_id] = job
            self._job_names[job.spec.name][job_id] = None
            if job.update is not None:
                self.updating[job_id] = None

    def _count_wanted(self, job_id: str, change: int) -> None:
        self._wanted[job_id] += change
        if not self._wanted[job_id]:
            del self._wanted[job_id]


def noted(job: Job, actor: str, kind: str, cause: str, now_ms: int) -> Job:
    """The job with one more entry of history."""
    state = job.update.phase.value if job.update else ""
    event = Event(at_ms=now_ms, actor=actor, kind=kind, state=state, cause=cause)
    return replace(job, **with_event(job, event))
