"""Jobs live and end: one scaled to none is kept, one that was deleted gives its name away."""

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import InvalidInputError, NotFoundError
from manager.domain.aggregate import ClusterState
from manager.domain.model import Instance, InstanceKey, InstanceState
from manager.domain.policy import Policy
from manager.domain.reconciliation import Rung, ring
from manager.jobs import Jobs
from manager.rpc.convert import job_to_proto
from simulation.invariants import check_state
from simulation.lives import spec

S = InstanceState
NOW = 1_000_000
LATER = NOW + 30 * 86_400_000


class Book:
    """A cluster's jobs, and who scales them."""

    def __init__(self) -> None:
        self.state = ClusterState(Policy())
        core: Any = SimpleNamespace(state=self.state, now_ms=lambda: NOW)
        self.jobs = Jobs(core)

    def deploy(self, job_id: str, count: int = 1, *, actor: str = "operator", at_ms: int = NOW, **facts: Any) -> None:
        wanted = [(InstanceKey(job_id, number), spec(**facts)) for number in range(count)]
        self.state.deploy(wanted, actor, at_ms)

    def scale(self, job_id: str, wanted: int, actor: str) -> list[Instance]:
        """Answers those that should run."""
        list(self.jobs.replicating(job_id, wanted, actor))
        return [item for item in self.jobs.instances(job_id) if item.is_desired]

    def delete(self, job_id: str, number: int = -1, actor: str = "operator") -> list[Instance]:
        return self.state.delete([InstanceKey(job_id, number)], actor, NOW)

    def forget_the_dead(self) -> None:
        """Long after: whatever ended is purged."""
        for key in tuple(self.state.instances):
            if self.state.instances[key].state is S.STOPPED:
                assert ring(self.state, key, LATER) is Rung.CHANGED
        check_state(self.state)

    def restart(self) -> None:
        """Another manager on what was saved."""
        self.state.restore([], list(self.state.jobs.values()), list(self.state.instances.values()))
        check_state(self.state)


# A job that was scaled to none


def test_a_job_scaled_to_none_is_kept() -> None:
    """Over the retention and a restart; it is listed without instances and not called deleted."""
    book = Book()
    book.deploy("j", 3)
    assert book.scale("j", 0, "operator") == []
    book.forget_the_dead()
    book.restart()
    assert not book.state.instances
    shown = job_to_proto(book.jobs.get("j"), [])
    assert (shown.id, shown.instance_count, shown.state, shown.is_deleted) == ("j", 0, "STOPPED", False)
    assert [event.kind for event in book.jobs.get("j").events] == ["scaled_to_0"]


def test_a_job_scaled_to_none_is_scaled_up_again() -> None:
    """With the specification that it had; and from then on it ends with its last instance."""
    book = Book()
    book.deploy("j", 2, image="mine")
    book.scale("j", 0, "operator")
    book.forget_the_dead()
    again = book.scale("j", 2, "operator")
    assert [(item.key.number, item.spec.image) for item in again] == [(0, "mine"), (1, "mine")]
    book.delete("j", 0)
    book.delete("j", 1)
    book.forget_the_dead()
    assert not book.state.jobs


def test_a_delete_of_all_ends_a_job_without_instances() -> None:
    """At once where none is remembered, else with the last of them."""
    for has_instances in (False, True):
        book = Book()
        book.deploy("j", 2)
        book.scale("j", 0, "operator")
        if not has_instances:
            book.forget_the_dead()
        book.delete("j")
        assert not book.state.is_living("j")
        book.forget_the_dead()
        assert not book.state.jobs


def test_a_delete_of_the_last_wanted_instance_ends_its_job() -> None:
    """As ever: only scaling to none keeps it."""
    book = Book()
    book.deploy("j", 2)
    book.delete("j", 0)
    assert book.state.is_living("j")
    book.delete("j", 1)
    assert not book.state.is_living("j")
    book.forget_the_dead()
    assert not book.state.jobs


def test_a_repeated_delete_of_one_instance_does_not_end_a_kept_job() -> None:
    """It is about an instance that is gone already."""
    book = Book()
    book.deploy("j", 2)
    book.delete("j", 0)
    book.scale("j", 0, "operator")
    book.delete("j", 0)
    assert book.state.is_living("j")


def test_a_root_that_deletes_its_service_ends_it() -> None:
    """It names only some of the numbers, all of them gone here, and is told nothing of a job without instances."""
    book = Book()
    book.deploy("j", 3, actor="root")
    book.scale("j", 0, "operator")
    book.forget_the_dead()
    book.delete("j", 0, actor="root")
    assert not book.state.jobs


def test_a_deploy_into_a_kept_job_makes_it_an_ordinary_one() -> None:
    """Its last instance ends it."""
    book = Book()
    book.deploy("j")
    book.scale("j", 0, "operator")
    book.deploy("j")
    book.delete("j", 0)
    assert not book.state.is_living("j")


def test_scaling_a_deleted_job_to_none_does_not_bring_it_back() -> None:
    """It was deleted, and stays so."""
    book = Book()
    book.deploy("j")
    book.delete("j")
    book.scale("j", 0, "operator")
    assert not book.state.is_living("j")


# Names


def test_a_name_means_the_living_job() -> None:
    """Deployed again after a delete, the name is the new job's at once, whatever is remembered of the old one."""
    book = Book()
    book.deploy("first")
    book.delete("first")
    book.deploy("second", at_ms=NOW + 1)
    assert book.state.find_job("web").id == "second"
    assert book.state.find_job("first").id == "first"
    book.restart()
    assert book.state.find_job("web").id == "second"


def test_a_name_that_no_living_job_has_means_the_last_one_that_had_it() -> None:
    """So that a delete may be repeated, and what happened be read."""
    book = Book()
    for position, job_id in enumerate(("b", "a", "c")):
        book.deploy(job_id, at_ms=NOW + position)
        book.delete(job_id)
    assert book.state.find_job("web").id == "c"
    assert job_to_proto(book.state.find_job("web"), book.jobs.instances("c")).is_deleted


def test_a_job_scaled_to_none_keeps_its_name() -> None:
    """It lives."""
    book = Book()
    book.deploy("kept")
    book.scale("kept", 0, "operator")
    book.deploy("gone", at_ms=NOW + 1)
    book.delete("gone")
    assert book.state.find_job("web").id == "kept"


def test_two_living_jobs_of_one_name_are_told_apart_by_id() -> None:
    """The refusal names the living ones, not those that are remembered."""
    book = Book()
    for job_id in ("one", "two", "three"):
        book.deploy(job_id)
    book.delete("two")
    with pytest.raises(InvalidInputError, match="2 jobs are called 'web': use an id of one, three"):
        book.state.find_job("web")


def test_an_unknown_name_is_not_found() -> None:
    """Nor is one that a job had before it was given another."""
    book = Book()
    book.deploy("j")
    with pytest.raises(NotFoundError):
        book.state.find_job("other")
    book.deploy("j", name="other")
    assert book.state.find_job("other").id == "j"
    with pytest.raises(NotFoundError):
        book.state.find_job("web")
    book.delete("j")
    book.forget_the_dead()
    with pytest.raises(NotFoundError):
        book.state.find_job("other")


def test_a_job_that_is_deployed_after_its_deletion_is_of_who_asks_for_it() -> None:
    """A root that deleted a service is told nothing of the operator's job of that id, and the other way round."""
    book = Book()
    book.deploy("j", actor="root")
    book.delete("j", actor="root")
    book.deploy("j", actor="operator", at_ms=NOW + 1)
    assert book.jobs.get("j").owner == "operator"
    book.deploy("j", 2, actor="root", at_ms=NOW + 2)
    assert book.jobs.get("j").owner == "operator"
