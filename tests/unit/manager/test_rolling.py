"""The control of a rolling update by hand."""

import pytest

from cluster.errors import ConflictError
from cluster.jobs import JobSpec
from manager.domain.events import Seen
from manager.domain.model import InstanceState, Job, Update, UpdatePhase
from manager.domain.rolling import SETTLE_MS, controlled, step
from simulation.lives import Life

OLD = JobSpec(name="web", image="demo/web:1", technology="docker")
NEW = JobSpec(name="web", image="demo/web:2", technology="docker")


def _job(phase: UpdatePhase) -> Job:
    return Job(id="j", spec=NEW, created_at_ms=0, update=Update(old=OLD, phase=phase))


@pytest.mark.parametrize("phase", [UpdatePhase.PAUSED, UpdatePhase.ROLLING])
def test_a_roll_back_is_neither_paused_nor_turned_round(phase: UpdatePhase) -> None:
    """Resumed, it would bring back the specification that was given up."""
    with pytest.raises(ConflictError) as caught:
        controlled(_job(UpdatePhase.ROLLING_BACK), phase, "operator", 1)
    assert caught.value.field == "control"


def test_a_paused_update_is_resumed_or_rolled_back() -> None:
    """Both say who asked for it."""
    for phase in (UpdatePhase.ROLLING, UpdatePhase.ROLLING_BACK):
        job = controlled(_job(UpdatePhase.PAUSED), phase, "operator", 1)
        assert job.update is not None
        assert (job.update.phase, job.update.detail) == (phase, "operator asked for it")


def _running() -> tuple[Life, Job]:
    life = Life(image="new").run()
    job = Job(id="j", spec=life.instance.spec, created_at_ms=0, update=Update(old=OLD, phase=UpdatePhase.ROLLING))
    return life, job


def test_what_has_only_just_started_is_not_yet_healthy() -> None:
    """The update ends once the last batch has run for a moment."""
    life, job = _running()
    assert step(job, [life.instance], life.now_ms).job.update is not None
    assert step(job, [life.instance], life.now_ms + SETTLE_MS).job.update is None


def test_an_update_under_way_says_how_far_it_is() -> None:
    """To whoever asks, with each step."""
    life, job = _running()
    update = step(job, [life.instance], life.now_ms).job.update
    assert update is not None
    assert update.detail == "0 of 1 are changed and healthy"


def test_an_image_that_crashes_after_its_start_is_rolled_back() -> None:
    """Its worker goes on trying, so that it is RUNNING, but it is not healthy."""
    life, job = _running()
    life.see(Seen.STARTING, detail="it trapped; next try in 1.0 s", is_news=True).see(Seen.RUNNING, is_news=True)
    assert life.state is InstanceState.RUNNING
    taken = step(job, [life.instance], life.now_ms + SETTLE_MS)
    assert taken.job.update is not None
    assert taken.job.update.phase is UpdatePhase.ROLLING_BACK
