"""What tells a repetition from a new wish: nothing that has run to its end runs again by mistake."""

from collections.abc import Callable

import pytest

from cluster.errors import InvalidInputError
from cluster.jobs import RestartPolicy
from manager.domain.aggregate import ClusterState
from manager.domain.events import DeployRequested, Seen
from manager.domain.machine import is_run_only_by_wish
from manager.domain.model import Instance, InstanceKey, InstanceState
from manager.domain.policy import Policy
from manager.explain import summary
from manager.rpc.checks import checked_rerun_id
from simulation.lives import Life, spec

S = InstanceState
ONCE = {"one_shot": True, "restart_policy": RestartPolicy.NEVER}
KEY = InstanceKey("web", 0)
NOW = 1_000_000


def _once(end: Seen, **facts: object) -> Life:
    return Life(**ONCE).run().see(end, **facts)


ENDED_ONCE: dict[str, Callable[[], Life]] = {
    "completed": lambda: _once(Seen.COMPLETED, exit_code=0),
    "failed": lambda: _once(Seen.FAILED, exit_code=3),
    "outcome unknown": lambda: _once(Seen.DEAD),
    "lost": lambda: _once(Seen.ABSENT),
    "node removed": lambda: Life(**ONCE).run().node_removed(),
    "a service that runs once": lambda: Life(restart_policy=RestartPolicy.NEVER).run().see(Seen.FAILED, exit_code=1),
    "a service that has done its work": lambda: (
        Life(restart_policy=RestartPolicy.ON_FAILURE).run().see(Seen.COMPLETED, exit_code=0)
    ),
}


def _again(life: Life, request_id: str = "", **facts: object) -> Life:
    wanted = life.instance.spec if not facts else spec(**facts)
    event = DeployRequested(actor="root", spec=wanted, is_rerun=bool(request_id), request_id=request_id)
    return life.apply(event)


@pytest.mark.parametrize("name", ENDED_ONCE)
def test_a_deploy_repeated_after_its_only_run_starts_nothing(name: str) -> None:
    """Whether it completed, failed or nobody knows: the record stays as it is, to the version."""
    life = ENDED_ONCE[name]()
    assert life.state in (S.COMPLETED, S.FAILED, S.LOST)
    assert _again(life).instance is life.instance


@pytest.mark.parametrize("name", ENDED_ONCE)
def test_another_run_takes_the_wish_and_a_request_of_its_own(name: str) -> None:
    """The first request with the wish starts it; the same one again, whenever it comes, starts nothing."""
    life = _again(ENDED_ONCE[name](), "first")
    assert (life.state, life.instance.events[-1].cause) == (S.REQUESTED, "root asked for another run")
    life.run().see(Seen.COMPLETED, exit_code=0)
    generation = life.instance.generation
    assert _again(life, "first").state in (S.COMPLETED, S.FAILED)
    assert life.instance.generation == generation
    assert _again(life, "second").state is S.REQUESTED


def test_a_wish_for_another_run_of_what_runs_changes_nothing_then_or_later() -> None:
    """It was answered while the first run lasted: its repetition after that run is no new wish."""
    life = _again(Life(**ONCE).run(), "early")
    assert (life.state, life.instance.rerun_id) == (S.RUNNING, "early")
    life.see(Seen.COMPLETED, exit_code=0)
    assert _again(life, "early").state is S.COMPLETED
    assert _again(life, "later").state is S.REQUESTED


def test_a_deploy_after_a_delete_starts_at_once() -> None:
    """A number is used again after a delete, as roots do: no wish beyond that is needed."""
    life = _once(Seen.COMPLETED, exit_code=0).delete()
    assert life.state is S.STOPPED
    assert _again(life).state is S.REQUESTED


def test_a_deploy_during_a_delete_starts_at_once() -> None:
    """The old copy goes on stopping."""
    assert _again(Life(**ONCE).run().delete()).state is S.REQUESTED


@pytest.mark.parametrize("name", ENDED_ONCE)
def test_another_specification_is_a_new_wish(name: str) -> None:
    """The same number with another image runs, whatever became of the old one."""
    life = _again(ENDED_ONCE[name](), image="another", **ONCE)
    assert (life.state, life.instance.spec.image) == (S.REQUESTED, "another")


def test_a_roots_own_bookkeeping_in_the_document_is_no_new_wish() -> None:
    """Its status and its list of instances change from call to call."""
    life = _once(Seen.COMPLETED, exit_code=0)
    assert _again(life, document='{"status": "CLUSTER_SCHEDULED"}', **ONCE).instance is life.instance


def test_what_is_to_run_on_is_tried_again() -> None:
    """A service that failed for good starts anew when it is asked for again."""
    life = Life(max_attempts=1).run().see(Seen.FAILED)
    assert (life.state, life.instance.retry_at_ms) == (S.FAILED, None)
    assert _again(life).state is S.REQUESTED


def test_a_repetition_takes_nothing_from_a_copy_whose_node_may_be_back() -> None:
    """LOST, its placement is open until a replacement has a node: asked for again, the old copy is not stopped."""
    life = Life().run().node_down()
    assert life.state is S.LOST
    assert _again(life).instance is life.instance


def test_the_last_wish_survives_a_restart_and_a_batch() -> None:
    """It is part of the record, and holds for each instance of a call on its own."""
    state, once = ClusterState(Policy()), spec(**ONCE)
    keys = [InstanceKey("web", number) for number in range(2)]
    state.deploy([(key, once) for key in keys], "root", NOW)
    for key in keys:
        state.put(_ended(state.instances[key]))
    state.deploy([(keys[0], once)], "root", NOW, rerun_id="r")
    state.put(_ended(state.instances[keys[0]]))
    state.restore([], list(state.jobs.values()), list(state.instances.values()))
    after = state.deploy([(key, once) for key in keys], "root", NOW, rerun_id="r")
    assert [item.state for item in after] == [S.COMPLETED, S.REQUESTED]


def test_a_first_deploy_with_the_wish_runs_once() -> None:
    """What is not known yet is simply started, and the same request starts it no second time."""
    state, once = ClusterState(Policy()), spec(**ONCE)
    assert state.deploy([(KEY, once)], "root", NOW, rerun_id="r")[0].state is S.REQUESTED
    state.put(_ended(state.instances[KEY]))
    assert state.deploy([(KEY, once)], "root", NOW, rerun_id="r")[0].state is S.COMPLETED


def _ended(instance: Instance) -> Instance:
    life = Life()
    life.instance = instance
    return life.run().see(Seen.COMPLETED, exit_code=0).instance


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_another_run_needs_a_request_id(request_id: str) -> None:
    """Without one a repetition could not be told; the refusal names the field."""
    with pytest.raises(InvalidInputError) as caught:
        checked_rerun_id(request_id)
    assert caught.value.field == "request_id"


@pytest.mark.parametrize(
    ("life", "is_over"),
    [
        (lambda: _once(Seen.COMPLETED, exit_code=0), True),
        (lambda: Life(**ONCE).run(), False),
        (lambda: Life(**ONCE).run().delete().see(Seen.STOPPED), False),
        (lambda: Life(restart_policy=RestartPolicy.ON_FAILURE).run().see(Seen.FAILED, exit_code=1), False),
        (lambda: Life(restart_policy=RestartPolicy.ON_FAILURE).run().see(Seen.COMPLETED, exit_code=0), True),
        (
            lambda: Life(one_shot=True, restart_policy=RestartPolicy.ON_FAILURE).run().see(Seen.FAILED, exit_code=1),
            False,
        ),
    ],
)
def test_only_what_ended_for_good_takes_a_wish_to_run(life: Callable[[], Life], is_over: bool) -> None:
    """Not what runs, was deleted, or is tried again by itself."""
    assert is_run_only_by_wish(life().instance) is is_over


def test_explain_says_how_it_is_run_once_more() -> None:
    """A plain deploy would start nothing."""
    assert "deploy it with --rerun" in summary(_once(Seen.COMPLETED, exit_code=0).instance, str, None, NOW)
    assert "deploy it again" in summary(Life(max_attempts=1).run().see(Seen.FAILED).instance, str, None, NOW)
