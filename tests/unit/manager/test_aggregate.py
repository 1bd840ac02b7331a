"""The cluster in memory: admission of nodes, re-checks of plans, deletions, and what a restart finds."""

from typing import Any

import pytest

from cluster.errors import AlreadyExistsError, ConflictError
from cluster.jobs import OnDisconnect, Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import ResourceList, StateReport
from manager.domain.aggregate import ClusterState
from manager.domain.model import InstanceKey, InstanceState, Node, NodeState
from manager.domain.observation import LATE_INVENTORIES, came_ready, on_resources, on_state
from manager.domain.policy import Policy
from manager.domain.reconciliation import Rung, fenced_nodes, lose_node, lose_removed_nodes, ring
from simulation.invariants import check_state
from simulation.lives import spec

S = InstanceState
KEY = InstanceKey("job", 0)
NOW = 1_000_000


def _registration(name: str = "n1", given_id: str = "", cpu: int | None = 1000, **facts: Any) -> Registration:
    capacity = Resources(cpu_millicores=cpu)
    known = {"dialect": Dialect.WORKER, "technologies": ("docker",), "capacity": capacity, **facts}
    return Registration(name=name, ip="127.0.0.1", port=1, given_id=given_id, **known)


def _state() -> ClusterState:
    return ClusterState(Policy())


def _ready(state: ClusterState, name: str = "n1", **facts: Any) -> Node:
    node = state.register(_registration(name, **facts), NOW)
    came_ready(state, node, NOW)
    return state.nodes[node.id]


def _down(state: ClusterState, node: Node) -> None:
    state.set_node_state(node.id, NodeState.DOWN, "no telemetry", NOW)
    lose_node(state, node.id, NOW)


@pytest.mark.parametrize("has_run", [False, True])
def test_a_deploy_under_way_is_still_under_way_when_its_node_returns(has_run: bool) -> None:
    """Its inventory cannot hold it yet, so nothing is placed elsewhere beside it; what ran and is missing is gone."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec(on_disconnect=OnDisconnect.STOP_AFTER))], "root", NOW)
    assert state.place(KEY, node.id, NOW) == ""
    placed = state.instances[KEY].current
    assert placed is not None
    if has_run:
        report = StateReport(job_id="job", job_name="job", number=0, generation=placed.generation, status="RUNNING")
        on_state(state, node, report, NOW)
    _down(state, node)
    assert state.instances[KEY].state is S.UNKNOWN
    came_ready(state, node, NOW)
    on_resources(state, node, ResourceList(entries=(), is_inventory=True, sequence=1), NOW)
    found = state.instances[KEY]
    if has_run:
        assert (found.state, found.current) == (S.LOST, None)
    else:
        assert found.current is not None
        assert (found.state, found.current.generation) == (S.SCHEDULED, placed.generation)
        assert found.current.deadline_ms == NOW + state.policy.schedule_deadline_ms


@pytest.mark.parametrize("late", [LATE_INVENTORIES - 1, LATE_INVENTORIES])
def test_a_worker_that_counts_anew_is_believed_after_some_inventories(late: int) -> None:
    """A few that come late tell nothing; so many in a row are those of a new disk, which has nothing of ours."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    assert state.place(KEY, node.id, NOW) == ""
    known = {"job_id": "job", "job_name": "job", "number": 0, "generation": state.instances[KEY].generation}
    on_state(state, node, StateReport(**known, status="RUNNING", sequence=7), NOW)
    for _ in range(late):
        on_resources(state, node, ResourceList(entries=(), is_inventory=True, sequence=0), NOW)
    assert state.instances[KEY].state is (S.LOST if late == LATE_INVENTORIES else S.RUNNING)
    assert state.live[node.id].last_sequence == (0 if late == LATE_INVENTORIES else 7)


def test_an_inventory_in_between_says_that_the_others_were_only_late() -> None:
    """They are counted in a row."""
    state = _state()
    node = _ready(state)
    known = {"job_id": "job", "job_name": "job", "number": 0, "generation": 1}
    on_state(state, node, StateReport(**known, status="RUNNING", sequence=7), NOW)
    for sequence in (*[0] * (LATE_INVENTORIES - 1), 7, 7, *[0] * (LATE_INVENTORIES - 1)):
        on_resources(state, node, ResourceList(entries=(), is_inventory=True, sequence=sequence), NOW)
    assert state.live[node.id].last_sequence == 7


def test_an_id_is_stable_by_name() -> None:
    """A machine keeps its id when it registers again, and even when the store is lost."""
    one, other = _state(), _state()
    first = one.register(_registration(), NOW)
    assert one.register(_registration(), NOW).id == first.id == other.register(_registration(), NOW).id
    assert len(first.id) == 24
    assert one.register(_registration("n2"), NOW).id != first.id


def test_registering_the_same_again_saves_nothing() -> None:
    """An unchanged registration leaves the record as it is."""
    state = _state()
    state.register(_registration(), NOW)
    state.take_dirty()
    state.register(_registration(), NOW + 1)
    assert not state.dirty


def test_an_id_of_ours_is_kept_and_another_becomes_an_alias() -> None:
    """24 hex digits are taken as they are; anything else is an alias whose topics work too."""
    state = _state()
    ours = state.register(_registration("n1", "a" * 24), NOW)
    assert ours.id == "a" * 24
    theirs = state.register(_registration("n2", "edge-7"), NOW)
    assert theirs.aliases == ("edge-7",)
    assert state.node_of_topic("edge-7") is state.nodes[theirs.id]


def test_the_id_of_a_live_node_under_another_name_is_refused() -> None:
    """Two machines cannot share an id while the first one lives; once it is down its successor takes it over."""
    state = _state()
    first = _ready(state)
    with pytest.raises(AlreadyExistsError):
        state.register(_registration("n2", first.id), NOW)
    _down(state, first)
    assert state.register(_registration("n2", first.id), NOW).id == first.id


def test_the_id_of_a_dead_node_does_not_become_an_alias_of_another() -> None:
    """A known machine that sends a dead one's id stays itself, and the dead one stays to be found."""
    state = _state()
    dead, other = _ready(state), _ready(state, "n2")
    _down(state, dead)
    assert state.register(_registration("n2", dead.id), NOW).id == other.id
    assert state.find_node(dead.id) is state.nodes[dead.id]


def test_a_plan_is_checked_again_before_it_counts() -> None:
    """Not READY, cordoned, without the technology, or full meanwhile: the plan is refused with the reason."""
    state = _state()
    node = _ready(state, cpu=900)
    state.deploy([(InstanceKey("job", n), spec()) for n in range(2)], "root", NOW)
    assert state.place(KEY, "nowhere", NOW) == "the node is unknown"
    state.set_cordoned(node.id, True, "operator", NOW)
    assert "cordoned" in state.place(KEY, node.id, NOW)
    state.set_cordoned(node.id, False, "operator", NOW)
    assert state.place(KEY, node.id, NOW) == ""
    assert "cpu" in state.place(InstanceKey("job", 1), node.id, NOW)
    assert "wasm" in state.unfit_reason(node.id, spec(technology="wasm"))
    state.doubt(node.id, "late")
    assert "SUSPECT" in state.unfit_reason(node.id, spec())
    check_state(state)


def test_a_generation_grows_even_across_a_purge() -> None:
    """It is at least the time: a redeployed instance is newer than whatever a node remembers."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    state.place(KEY, node.id, NOW)
    first = state.instances[KEY].generation
    state.delete([KEY], "root", NOW)
    _down(state, node)
    later = NOW + state.policy.retention_ms
    assert ring(state, KEY, later) is Rung.OWED
    came_ready(state, state.nodes[node.id], later)
    on_resources(state, state.nodes[node.id], ResourceList(entries=(), is_inventory=True, sequence=1), later)
    assert ring(state, KEY, later) is Rung.CHANGED
    assert KEY not in state.instances
    assert "job" not in state.jobs
    state.deploy([(KEY, spec())], "root", later)
    state.place(KEY, node.id, later)
    assert state.instances[KEY].generation > first
    check_state(state)


@pytest.mark.parametrize("passed_ms", [0, 1, -3_600_000])
def test_a_generation_grows_whatever_the_clock_does(passed_ms: int) -> None:
    """Placed again within the same millisecond, or by a clock that was set back: each copy is newer than the last."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    for _ in range(3):
        before = state.instances[KEY].generation
        assert state.place(KEY, node.id, NOW + passed_ms if before else NOW) == ""
        assert state.instances[KEY].generation > before
        state.delete([KEY], "root", NOW)
        on_resources(state, node, ResourceList(entries=(), is_inventory=True, sequence=1), NOW)
        state.deploy([(KEY, spec())], "root", NOW)


def test_a_purge_takes_the_instance_and_its_job_out_of_the_store() -> None:
    """Both are among what is saved next, and neither is there any more: the store removes them."""
    state = _state()
    state.deploy([(KEY, spec())], "root", NOW)
    state.delete([KEY], "root", NOW)
    state.take_dirty()
    assert ring(state, KEY, NOW + state.policy.retention_ms) is Rung.CHANGED
    dirty = state.take_dirty()
    assert (list(dirty.instances), list(dirty.jobs)) == ([KEY], ["job"])
    assert not state.instances
    assert not state.jobs


def test_an_alarm_that_rings_early_ends_no_back_off() -> None:
    """What failed waits for its time, whatever else rang."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    assert state.place(KEY, node.id, NOW) == ""
    late = NOW + state.policy.schedule_deadline_ms
    assert ring(state, KEY, late) is Rung.CHANGED
    retry_at_ms = state.instances[KEY].retry_at_ms
    assert retry_at_ms is not None
    assert retry_at_ms > late
    assert ring(state, KEY, retry_at_ms - 1) is Rung.NOTHING
    assert ring(state, KEY, retry_at_ms) is Rung.WANTS_NODE


def test_minus_one_deletes_every_instance_of_a_job() -> None:
    """-1 means all; unknown ones are passed over."""
    state = _state()
    state.deploy([(InstanceKey("job", n), spec()) for n in range(3)] + [(InstanceKey("other", 0), spec())], "r", NOW)
    deleted = state.delete([InstanceKey("job", -1), InstanceKey("job", 99), InstanceKey("ghost", -1)], "root", NOW)
    assert len(deleted) == 3
    assert {item.key.job_id for item in state.instances.values() if item.is_desired} == {"other"}


def test_deleting_what_is_on_a_dead_or_removed_node_ends_at_once() -> None:
    """Nobody waits for a machine that is gone."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    state.place(KEY, node.id, NOW)
    _down(state, node)
    [deleted] = state.delete([KEY], "root", NOW)
    assert state.instances[deleted.key].state is S.STOPPED
    assert not state.on_node[node.id]


def test_a_node_that_holds_something_is_not_forgotten() -> None:
    """Removal is refused while something counts there."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    state.place(KEY, node.id, NOW)
    with pytest.raises(ConflictError):
        state.remove_node(node.id)


def test_the_removal_of_a_node_that_a_crash_cut_in_two_is_completed() -> None:
    """The node was saved as gone, its instances were not: what is first done at a start sees to them."""
    before, state = _state(), _state()
    node = _ready(before)
    before.deploy([(KEY, spec())], "root", NOW)
    before.place(KEY, node.id, NOW)
    state.restore([], before.jobs.values(), before.instances.values())
    lose_removed_nodes(state, (), NOW)
    assert (state.instances[KEY].state, state.instances[KEY].current) == (S.LOST, None)
    check_state(state)


def test_only_a_node_that_is_down_is_given_up() -> None:
    """A verdict that came to nothing, or a node that is gone by now, costs no instance."""
    state = _state()
    node = _ready(state)
    state.deploy([(KEY, spec())], "root", NOW)
    state.place(KEY, node.id, NOW)
    placed = state.instances[KEY]
    for node_id in (node.id, "gone"):
        lose_node(state, node_id, NOW)
    assert state.instances[KEY] is placed


def test_suspicion_is_never_saved() -> None:
    """A node that is late is SUSPECT, gets nothing and is told the scheduler; its record stays as it is."""
    state = _state()
    node = _ready(state)
    state.take_dirty()
    state.dirty_views.clear()
    state.doubt(node.id, "late")
    assert (state.state_of(node), state.is_ready(node.id), state.ready_count) == (NodeState.SUSPECT, False, 1)
    assert (state.nodes[node.id], bool(state.dirty), list(state.dirty_views)) == (node, False, [node.id])
    state.trust(node.id)
    assert state.state_of(node) is NodeState.READY


def test_a_restart_finds_the_same() -> None:
    """Records that are restored give the same indexes and reservations."""
    state = _state()
    node = _ready(state)
    state.deploy([(InstanceKey("job", n), spec()) for n in range(3)], "root", NOW)
    for number in range(2):
        state.place(InstanceKey("job", number), node.id, NOW)
    other = _state()
    other.restore(state.nodes.values(), state.jobs.values(), state.instances.values())
    check_state(other)
    assert other.allocated[node.id] == state.allocated[node.id]
    assert other.instances == state.instances
    assert not other.dirty


def test_a_node_without_generations_is_fenced_by_time() -> None:
    """The same instance does not return to an engine until its predecessor is closed and ten seconds have passed."""
    state = _state()
    node = _ready(state, dialect=Dialect.ENGINE_C)
    state.deploy([(KEY, spec())], "root", NOW)
    state.place(KEY, node.id, NOW)
    state.delete([KEY], "root", NOW)
    assert fenced_nodes(state, state.instances[KEY], NOW + 60_000) == [node.id]
    _down(state, node)
    assert fenced_nodes(state, state.instances[KEY], NOW + 9_999) == [node.id]
    assert fenced_nodes(state, state.instances[KEY], NOW + 10_000) == []
