"""What must hold of the manager's state at every moment, whatever happened."""

from collections import Counter, defaultdict

from cluster.jobs import Resources
from manager.domain.aggregate import NOTHING, ClusterState
from manager.domain.model import MAX_EVENTS, Instance, InstanceState, Placement, Role
from manager.domain.tombstones import MAX_ENDED, owing

S = InstanceState
OPEN = {
    Role.CURRENT: {S.SCHEDULED, S.STARTING, S.RUNNING, S.RESTARTING, S.UNKNOWN, S.STOPPING},
    Role.SUCCESSOR: {S.SCHEDULED, S.STARTING, S.STOPPING},
    Role.RETIRING: {S.STOPPING},
}
ORDER = {S.SCHEDULED: 0, S.STARTING: 1, S.RUNNING: 2, S.RESTARTING: 2, S.STOPPING: 3}
FOLLOWS_CURRENT = {S.SCHEDULED, S.STARTING, S.RUNNING, S.RESTARTING, S.UNKNOWN}
WITHOUT_CURRENT = {S.REQUESTED, S.STOPPED, S.COMPLETED, S.FAILED}
AMOUNTS = ("cpu_millicores", "memory_bytes", "storage_bytes", "gpus")


def check_instance(instance: Instance) -> None:
    """Raise AssertionError with the whole instance where it contradicts itself."""
    story = repr(instance)
    current = instance.current
    for role, placement in instance.placements():
        assert placement.state in OPEN[role], story
        assert placement.generation <= instance.generation, story
    generations = [placement.generation for _, placement in instance.placements()]
    assert len(generations) == len(set(generations)), story
    assert all(item.generation <= instance.generation for item in instance.ended), story
    owed = owing(instance.ended)
    assert len(instance.ended) - len(owed) <= MAX_ENDED, story
    assert len({item.node_id for item in owed}) == len(owed), story
    assert instance.is_desired == (instance.state not in (S.STOPPING, S.STOPPED)), story
    if instance.state in FOLLOWS_CURRENT:
        assert current is not None, story
        assert current.state is instance.state, story
    if instance.state in WITHOUT_CURRENT:
        assert current is None, story
    if instance.state in (S.PENDING, S.LOST):
        assert current is None or current.state is S.UNKNOWN, story
    if instance.state is S.STOPPING:
        assert any(instance.placements()), story
    assert not instance.successor or not instance.is_desired or current is not None, story
    _check_history(instance)


def _check_history(instance: Instance) -> None:
    story = repr(instance)
    assert len(instance.events) == min(MAX_EVENTS, instance.event_count) >= 1, story
    assert all(event.cause and event.actor and event.kind for event in instance.events), story
    assert instance.events[-1].state == instance.state, story


def check_step(before: Instance, after: Instance) -> None:
    """Raise AssertionError where one event did what no event may do."""
    story = f"{before} -> {after}"
    assert after.generation >= before.generation, story
    assert after.event_count >= before.event_count, story
    if after.state is not before.state:
        assert after.event_count > before.event_count, story
    known = {placement.generation: placement for _, placement in before.placements()}
    for _, placement in after.placements():
        old = known.get(placement.generation)
        if old:
            assert placement.node_id == old.node_id, story
            assert not _is_backward(old, placement), story
    check_instance(after)


def _is_backward(old: Placement, new: Placement) -> bool:
    if S.UNKNOWN in (old.state, new.state):
        return old.state is S.STOPPING
    return ORDER[new.state] < ORDER[old.state]


def check_state(state: ClusterState) -> None:
    """Raise AssertionError where an instance, an index or a reservation is wrong."""
    allocated: defaultdict[str, Resources] = defaultdict(lambda: NOTHING)
    held: Counter[tuple[str, object]] = Counter()
    for key, instance in state.instances.items():
        assert instance.key == key
        check_instance(instance)
        assert key.number in state.of_job[key.job_id], key
        for _, placement in instance.placements():
            allocated[placement.node_id] += placement.spec.demand
            held[placement.node_id, key] += 1
            found = state.find_reported(placement.node_id, placement.spec.name, key.number)
            assert found is not None, key
    for node_id in set(allocated) | set(state.allocated):
        assert state.allocated[node_id] == allocated[node_id], node_id
    owed = {(item.node_id, key) for key, instance in state.instances.items() for item in owing(instance.ended)}
    assert {(node_id, key) for node_id, keys in state.owing.items() for key in keys} == owed
    for job_id, job in state.jobs.items():
        members = (state.instances[key] for key in state.instances if key.job_id == job_id)
        assert state.is_living(job_id) == (job.is_kept or any(item.is_desired for item in members)), job_id
    indexed = Counter({(node_id, key): n for node_id, keys in state.on_node.items() for key, n in keys.items()})
    assert indexed == held
    _check_capacity(state)


def _check_capacity(state: ClusterState) -> None:
    """No node promises more than it has; copies of one instance there follow each other, so the largest counts."""
    for node_id, keys in state.on_node.items():
        node = state.nodes.get(node_id)
        if node is None:
            continue
        for amount in AMOUNTS:
            have = getattr(node.capacity, amount)
            taken = sum(_largest(state.instances[key], node_id, amount) for key in keys)
            assert have is None or taken <= have, f"{node_id} promises {taken} of {have} {amount}"


def _largest(instance: Instance, node_id: str, amount: str) -> int:
    return max(getattr(p.spec.demand, amount) or 0 for _, p in instance.placements() if p.node_id == node_id)
