"""An update that failed is repeated, resumed or rolled back; nothing but an update that is done is a no-op."""

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ConflictError
from cluster.jobs import JobSpec
from manager.domain.aggregate import ClusterState
from manager.domain.events import Observed, Planned, Seen
from manager.domain.model import InstanceKey, InstanceState, Job, Update, UpdatePhase
from manager.domain.policy import Policy
from manager.domain.rolling import SETTLE_MS
from manager.jobs import Jobs
from simulation.invariants import check_state
from simulation.lives import spec

S = InstanceState
P = UpdatePhase
OLD, NEW, THIRD = spec(image="old"), spec(image="new"), spec(image="third")


class Rollout:
    """A job with three instances of the old image that run, and somebody who updates it."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.state = ClusterState(Policy())
        core: Any = SimpleNamespace(state=self.state, now_ms=lambda: self.now_ms)
        self.jobs = Jobs(core)
        self.state.deploy([(InstanceKey("web", number), OLD) for number in range(3)], "operator", self.now_ms)
        self.settle()

    def see(self, number: int, seen: Seen, **facts: Any) -> None:
        instance = self.state.instances[InstanceKey("web", number)]
        event = Observed(node_id=instance.node_id, generation=None, seen=seen, actor="worker:n", **facts)
        self.state.apply(instance.key, event, self.now_ms)

    def place(self, *numbers: int) -> None:
        """What wants a node gets one."""
        for number in numbers:
            life = self.state.instances[InstanceKey("web", number)]
            generation = max(life.generation + 1, self.now_ms)
            planned = Planned(node_id=f"n{number}", generation=generation, deadline_ms=None)
            self.state.apply(life.key, planned, self.now_ms)

    def settle(self, *, broken: JobSpec | None = None) -> None:
        """Let time pass: whatever waits for a node starts, and runs unless its specification is broken."""
        for _ in range(12):
            self.now_ms += SETTLE_MS
            for key, instance in list(self.state.instances.items()):
                if instance.state in (S.REQUESTED, S.PENDING):
                    self.place(key.number)
                    if instance.spec == broken:
                        self.see(key.number, Seen.FAILED, detail="it is broken")
                    else:
                        self.see(key.number, Seen.RUNNING)
                if (retiring := self.state.instances[key].retiring) is not None:
                    gone = Observed(
                        node_id=retiring.node_id, generation=retiring.generation, seen=Seen.STOPPED, actor="worker:n"
                    )
                    self.state.apply(key, gone, self.now_ms)
            self.jobs.advance_due()
            check_state(self.state)

    def update(self, wanted: JobSpec, **facts: Any) -> Job:
        list(self.jobs.updating("web", wanted, Update(old=wanted, phase=P.ROLLING, **facts), "operator"))
        return self.jobs.get("web")

    def control(self, phase: UpdatePhase) -> Job:
        list(self.jobs.controlling("web", phase, "operator"))
        return self.jobs.get("web")

    def images(self) -> list[str]:
        return [item.spec.image for item in self.jobs.instances("web")]

    @property
    def job(self) -> Job:
        return self.jobs.get("web")

    @property
    def phase(self) -> UpdatePhase | None:
        return self.job.update.phase if self.job.update else None


def _stopped() -> Rollout:
    """An update to the new image that failed at its first instance and was not rolled back."""
    rollout = Rollout()
    rollout.update(NEW, rollback_on_failure=False)
    rollout.settle(broken=NEW)
    assert (rollout.phase, rollout.images()) == (P.FAILED, ["new", "old", "old"])
    return rollout


def _rolled_back() -> Rollout:
    """The same, rolled back by itself."""
    rollout = Rollout()
    rollout.update(NEW)
    rollout.settle(broken=NEW)
    assert (rollout.phase, rollout.images()) == (P.FAILED, ["old"] * 3)
    return rollout


@pytest.mark.parametrize("make", [_stopped, _rolled_back])
def test_a_failed_update_is_repeated(make: Any) -> None:
    """The same call again begins it again, tries what had failed, and ends it."""
    rollout = make()
    assert rollout.update(NEW).update is not None
    rollout.settle()
    assert (rollout.phase, rollout.images()) == (None, ["new"] * 3)


def test_a_failed_update_is_resumed() -> None:
    """With new attempts for what had failed."""
    rollout = _stopped()
    rollout.control(P.ROLLING)
    rollout.settle()
    assert (rollout.phase, rollout.images()) == (None, ["new"] * 3)


def test_a_resumed_update_fails_again_on_what_is_still_broken() -> None:
    """What failed before does not count, what fails now does."""
    rollout = _stopped()
    rollout.control(P.ROLLING)
    rollout.settle(broken=NEW)
    assert (rollout.phase, rollout.images()) == (P.FAILED, ["new", "old", "old"])


def test_a_failed_update_is_rolled_back() -> None:
    """To what the job had before it, also when the update was repeated in between."""
    rollout = _stopped()
    rollout.update(NEW, rollback_on_failure=False)
    rollout.settle(broken=NEW)
    rollout.control(P.ROLLING_BACK)
    rollout.settle()
    assert (rollout.phase, rollout.images(), rollout.job.spec) == (P.FAILED, ["old"] * 3, OLD)


def test_an_update_after_a_failed_one_falls_back_to_what_worked() -> None:
    """Not to the specification that had failed."""
    rollout = _stopped()
    rollout.update(THIRD)
    rollout.settle(broken=THIRD)
    assert rollout.images() == ["old"] * 3


def test_a_rolled_back_update_has_nothing_to_resume() -> None:
    """The refusal says what happened and what to do; rolling it back once more changes nothing."""
    rollout = _rolled_back()
    for phase in (P.ROLLING, P.PAUSED):
        with pytest.raises(ConflictError, match=r"was rolled back .* update it again") as caught:
            rollout.control(phase)
        assert caught.value.field == "control"
    before = rollout.job
    assert rollout.control(P.ROLLING_BACK) is before


def test_a_failed_update_is_not_paused() -> None:
    """It goes no further anyway."""
    with pytest.raises(ConflictError, match="resume it, roll it back or update it again"):
        _stopped().control(P.PAUSED)


def test_without_an_update_there_is_nothing_to_control() -> None:
    """And the refusal says what to do."""
    with pytest.raises(ConflictError, match="begin one with a new specification"):
        Rollout().control(P.PAUSED)


def test_deploying_one_instance_with_a_newer_specification_leaves_the_rest_to_be_updated() -> None:
    """The job has the specification, two of its instances do not: the update changes them."""
    rollout = Rollout()
    rollout.state.deploy([(InstanceKey("web", 1), NEW)], "root", rollout.now_ms)
    rollout.settle()
    assert rollout.images() == ["old", "new", "old"]
    rollout.update(NEW)
    rollout.settle()
    assert (rollout.phase, rollout.images()) == (None, ["new"] * 3)


def test_that_update_is_rolled_back_to_what_the_rest_had() -> None:
    """Most of those that are changed had the old image."""
    rollout = Rollout()
    rollout.state.deploy([(InstanceKey("web", 1), NEW)], "root", rollout.now_ms)
    rollout.settle()
    rollout.update(NEW)
    rollout.settle(broken=NEW)
    assert rollout.images() == ["old"] * 3


def test_an_update_that_is_done_is_a_no_op() -> None:
    """Every wanted instance has it, and none failed or is under way."""
    rollout = Rollout()
    before = rollout.job
    assert rollout.update(OLD) is before
    rollout.update(NEW)
    rollout.settle()
    before = rollout.job
    assert rollout.update(NEW) is before


def test_the_update_under_way_again_changes_nothing() -> None:
    """Rolling or paused, it is answered as it stands; instances that are not wanted do not count."""
    rollout = Rollout()
    rollout.update(NEW)
    before = rollout.job
    assert rollout.update(NEW) is before
    paused = rollout.control(P.PAUSED)
    assert paused.update is not None
    assert "resume it or roll it back" in paused.update.detail
    assert rollout.update(NEW) is paused


def test_the_update_that_is_being_rolled_back_is_refused() -> None:
    """Turned round by a mere repetition it would fail a second time; the refusal says why and what to do."""
    rollout = Rollout()
    rollout.update(NEW)
    rollout.control(P.ROLLING_BACK)
    with pytest.raises(ConflictError, match=r"is being rolled back .* update it again once"):
        rollout.update(NEW)


def test_a_failed_update_says_what_can_be_done() -> None:
    """Beside what went wrong."""
    update = _stopped().job.update
    assert update is not None
    assert update.detail.startswith("instance 0 did not become healthy: FAILED, it is broken")
    assert update.detail.endswith("; update it again, resume the update or roll it back")


def test_an_update_that_a_deploy_ends_is_in_the_history() -> None:
    """One instance with a third specification makes that the job's own."""
    rollout = Rollout()
    rollout.update(NEW)
    rollout.state.deploy([(InstanceKey("web", 2), THIRD)], "root", rollout.now_ms)
    assert rollout.phase is None
    assert [event.kind for event in rollout.job.events][-1] == "update_ended"


def test_a_deleted_job_is_not_updated() -> None:
    """The refusal says that it was deleted, and what to do."""
    rollout = Rollout()
    rollout.state.delete([InstanceKey("web", -1)], "operator", rollout.now_ms)
    with pytest.raises(ConflictError, match="was deleted: deploy it again"):
        rollout.update(NEW)


def test_a_batch_that_never_becomes_healthy_fails_though_it_was_healthy_once() -> None:
    """The deadline counts from when an instance is first seen unhealthy."""
    rollout = Rollout()
    rollout.update(NEW, health_deadline_ms=60_000, rollback_on_failure=False, batch_size=3)
    for _ in range(3):
        rollout.now_ms += SETTLE_MS
        rollout.place(*[key.number for key, item in rollout.state.instances.items() if item.state is S.REQUESTED])
        rollout.jobs.advance_due()
    assert rollout.phase is P.ROLLING
    rollout.now_ms += 61_000
    rollout.jobs.advance_due()
    assert rollout.phase is P.FAILED
