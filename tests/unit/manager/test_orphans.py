"""Orphans are taken in as they run, or ended until their node confirms it."""

import pytest

from cluster.errors import ConflictError, InvalidInputError
from cluster.jobs import OnDisconnect, Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import ResourceEntry, ResourceList
from manager.domain import orphans
from manager.domain.aggregate import ClusterState
from manager.domain.effects import effects_of
from manager.domain.model import InstanceKey, InstanceState, Node, NodeState
from manager.domain.observation import Findings, came_ready, on_resources
from manager.domain.policy import Policy
from manager.domain.reconciliation import Rung, lose_node, ring
from simulation.invariants import check_state
from simulation.lives import spec
from standins.engines.judged import NAME, Judged

S = InstanceState
KEY = InstanceKey("web", 0)
NOW = 1_000_000
RUNS_SINCE = 500_000


class Scene:
    """A worker that runs what this cluster does not know."""

    def __init__(self) -> None:
        self.state = ClusterState(Policy())
        registration = Registration(
            name="n1",
            ip="127.0.0.1",
            port=1,
            dialect=Dialect.WORKER,
            technologies=("docker",),
            capacity=Resources(cpu_millicores=600),
        )
        self.node_id = self.state.register(registration, NOW).id
        came_ready(self.state, self.node, NOW)

    @property
    def node(self) -> Node:
        return self.state.nodes[self.node_id]

    def entry(self, number: int = 0, status: str = "RUNNING", generation: int = RUNS_SINCE) -> ResourceEntry:
        return ResourceEntry(
            job_name="web",
            job_id="web",
            number=number,
            technology="docker",
            status=status,
            generation=generation,
            restarts=2,
        )

    def tell(self, *entries: ResourceEntry) -> Findings:
        resources = ResourceList(entries=entries, is_inventory=True, sequence=1)
        return on_resources(self.state, self.node, resources, NOW)

    def adopt(self, entry: ResourceEntry) -> None:
        orphans.adopt(self.state, self.node, entry, InstanceKey("web", entry.number), spec(), "operator", NOW)
        self.check()

    def end(self, entry: ResourceEntry) -> None:
        orphans.end(self.state, self.node, entry, "operator", NOW)
        self.check()

    def check(self) -> None:
        if sum(len(held) for held in self.state.on_node.values()) < 2:  # what runs there already may be too much
            check_state(self.state)


def test_an_adopted_orphan_is_an_instance_in_the_generation_that_runs() -> None:
    """Nothing is sent, what it needs is reserved, its next inventory is about it, and the history says who did it."""
    scene = Scene()
    [found] = scene.tell(scene.entry()).orphans
    scene.adopt(found)
    instance = scene.state.instances[KEY]
    assert (instance.state, instance.generation, instance.node_id) == (S.RUNNING, RUNS_SINCE, scene.node_id)
    assert instance.restarts == 2
    assert (instance.events[-1].kind, instance.events[-1].actor) == ("adopted", "operator")
    assert scene.state.allocated[scene.node_id].cpu_millicores == 500
    assert effects_of(instance) == []
    findings = scene.tell(scene.entry())
    assert (findings.orphans, findings.stale, findings.unknown_count) == ([], [], 0)
    assert scene.state.instances[KEY].generation == RUNS_SINCE


def test_an_adopted_job_belongs_to_the_operator() -> None:
    """A root is told nothing of what it may not know."""
    scene = Scene()
    scene.adopt(scene.entry())
    assert scene.state.jobs["web"].owner == "operator"
    assert scene.state.find_job("web").id == "web"


def test_what_is_starting_is_adopted_as_that() -> None:
    """With a deadline like any other start."""
    scene = Scene()
    scene.adopt(scene.entry(status="STARTING"))
    current = scene.state.instances[KEY].current
    assert current is not None
    assert (current.state, current.deadline_ms) == (S.STARTING, NOW + scene.state.policy.start_deadline_ms)


def test_more_than_a_node_has_is_adopted_all_the_same() -> None:
    """It runs there already; nothing more is placed beside it."""
    scene = Scene()
    scene.adopt(scene.entry(0))
    scene.adopt(scene.entry(1))
    assert scene.state.allocated[scene.node_id].cpu_millicores == 1000
    assert scene.state.unfit_reason(scene.node_id, spec())


def test_an_adopted_instance_lives_like_any_other() -> None:
    """Deleted, it is stopped where it runs; lost, it is placed anew in a greater generation."""
    scene = Scene()
    scene.adopt(scene.entry())
    scene.state.delete([KEY], "operator", NOW)
    [order] = effects_of(scene.state.instances[KEY])
    assert (order.verb.value, order.generation) == ("delete", RUNS_SINCE)


def test_an_orphan_of_a_key_that_is_in_use_is_not_adopted() -> None:
    """The refusal says what to do; nothing is changed."""
    scene = Scene()
    scene.state.deploy([(KEY, spec(on_disconnect=OnDisconnect.KEEP))], "root", NOW)
    before = scene.state.instances[KEY]
    for change in (scene.adopt, scene.end):
        with pytest.raises(ConflictError, match="delete that one first, or delete the orphan"):
            change(scene.entry())
    assert scene.state.instances[KEY] is before


def test_a_remembered_instance_is_taken_up_again() -> None:
    """STOPPED long ago, found running in another generation: its history goes on."""
    scene = Scene()
    scene.state.deploy([(KEY, spec())], "root", NOW)
    scene.state.delete([KEY], "root", NOW)
    scene.adopt(scene.entry(generation=NOW + 5))
    instance = scene.state.instances[KEY]
    assert (instance.state, instance.is_desired, instance.generation) == (S.RUNNING, True, NOW + 5)
    assert [event.kind for event in instance.events] == ["requested", "deleted", "stopped", "adopted"]


def test_a_specification_must_be_able_to_be_that_of_what_runs() -> None:
    """Name and runtime are known; the rest is believed."""
    entry = Scene().entry()
    orphans.check_fits(entry, spec())
    for facts, field in (({"name": "other"}, "spec.name"), ({"technology": "wasm"}, "spec.technology")):
        with pytest.raises(InvalidInputError) as caught:
            orphans.check_fits(entry, spec(**facts))
        assert caught.value.field == field


def test_an_orphan_is_deleted_until_its_node_confirms_it() -> None:
    """Like any deletion: the order stands in the record, over restarts, and is forgotten after the retention."""
    scene = Scene()
    [found] = scene.tell(scene.entry()).orphans
    scene.end(found)
    state = scene.state
    state.restore(list(state.nodes.values()), [], list(state.instances.values()))
    instance = state.instances[KEY]
    assert (instance.state, instance.is_desired, instance.events[-1].kind) == (S.STOPPING, False, "orphan_deleted")
    [order] = effects_of(instance)
    assert (order.verb.value, order.node_id, order.generation) == ("delete", scene.node_id, RUNS_SINCE)
    assert scene.tell(scene.entry()).orphans == []
    scene.tell()
    assert state.instances[KEY].state is S.STOPPED
    assert ring(state, KEY, NOW * 1000) is Rung.CHANGED


def test_an_orphan_deleted_while_its_node_goes_away_is_owed() -> None:
    """The node comes back with it: it is deleted there, and never an orphan again."""
    scene = Scene()
    scene.end(scene.entry())
    scene.state.set_node_state(scene.node_id, NodeState.DOWN, "silent", NOW)
    lose_node(scene.state, scene.node_id, NOW)
    assert scene.state.instances[KEY].state is S.STOPPED
    assert ring(scene.state, KEY, NOW * 1000) is Rung.OWED
    came_ready(scene.state, scene.node, NOW)
    findings = scene.tell(scene.entry())
    assert [order.generation for order in findings.stale] == [RUNS_SINCE]
    assert findings.orphans == []


def test_a_deployment_after_the_deletion_of_an_orphan_is_the_roots_own() -> None:
    """The orphan's record made no job that would belong to somebody else."""
    scene = Scene()
    scene.end(scene.entry())
    scene.state.deploy([(KEY, spec())], "root", NOW)
    assert scene.state.jobs["web"].owner == "root"


def test_repetitions_find_what_was_done() -> None:
    """By node and name, whichever of them it was."""
    scene = Scene()
    scene.adopt(scene.entry(0))
    scene.end(scene.entry(1))
    adopted = orphans.already_adopted(scene.state, scene.node, "web", None)
    ended = orphans.already_ended(scene.state, scene.node, "web", None)
    assert ([item.key.number for item in adopted], [item.key.number for item in ended]) == ([0], [1])
    assert orphans.already_adopted(scene.state, scene.node, "web", 1) == []
    assert orphans.already_ended(scene.state, scene.node, "web", 0) == []


def test_an_orphan_of_an_engine_is_adopted_by_name() -> None:
    """It tells no generation: its lists are about the instance from then on."""
    engine = Judged()
    engine.run(4, NAME)
    key = InstanceKey("job", 0)
    entry = engine.state.live[engine.node_id].listing.listed[NAME, 0].entry
    wanted = spec(name=NAME)
    orphans.adopt(engine.state, engine.node, entry, key, wanted, "operator", engine.now_ms)
    engine.run(60, NAME)
    assert engine.state.instances[key].state is S.RUNNING
    assert engine.stale == []
    engine.run(30)
    assert engine.state.instances[key].state is S.LOST


def test_an_orphan_of_an_engine_is_deleted_beside_the_job_of_its_name() -> None:
    """It gets an id of its own; the job's instance, which runs elsewhere, is not touched."""
    engine = Judged()
    engine.state.deploy([(InstanceKey("job", 0), spec(name=NAME))], "root", engine.now_ms)
    engine.run(4, NAME)
    entry = engine.state.live[engine.node_id].listing.listed[NAME, 0].entry
    ended = orphans.end(engine.state, engine.node, entry, "operator", engine.now_ms)
    assert ended.key.job_id.startswith(f"orphan-{engine.node_id}-")
    assert engine.state.instances[InstanceKey("job", 0)].state is S.REQUESTED
    [order] = effects_of(ended)
    assert (order.spec.name, order.spec.technology, order.key.number) == (NAME, "docker", 0)
    engine.run(20)
    assert engine.state.instances[ended.key].state is S.STOPPED
