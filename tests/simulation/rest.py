"""What must be true once nothing goes wrong any more: the cluster comes to rest, and is as its clients want it."""

from __future__ import annotations

from cluster.jobs import RestartPolicy
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState
from manager.domain.rolling import MOVING
from simulation.book import mismatch
from simulation.invariants import check_state
from simulation.room import is_full
from simulation.seed import SimSeed
from simulation.truth import Copy, mark_of
from simulation.world import World

S = InstanceState
STEP_S = 5.0
OVER = (S.COMPLETED, S.FAILED, S.LOST)


def settle(world: World, limit_s: float) -> float:
    """Let time pass until all is at rest; answers after how many seconds. Raises AssertionError."""
    began_s = world.now_s()
    while problems := problems_of(world):
        waited_s = world.now_s() - began_s
        assert waited_s < limit_s, f"not settled after {waited_s:.0f} s:\n" + "\n".join(problems)
        world.run(STEP_S)
    return world.now_s() - began_s


def problems_of(world: World) -> list[str]:
    """What is not yet as it must be in the end."""
    core = world.manager.core
    if core is None or not world.manager.is_serving or core.writer.failure:
        return ["the manager does not work"]
    check_state(core.state)
    found = [f"{node.name} owes {node.debts}" for node in world.nodes.values() if node.is_powered and node.debts]
    found += [problem for job_id in world.clients.books for problem in _job(world, job_id)]
    found += [problem for name in world.nodes for problem in _node(world, name)]
    if core.writer.backlog:
        found.append(f"{core.writer.backlog} records wait")
    strangers = [copy for copy in world.copies.all() if copy.slot[0] not in world.clients.books]
    return found + [f"{copy} runs and is nobody's" for copy in strangers]


def _node(world: World, name: str) -> list[str]:
    core = world.manager.core
    assert core is not None
    node, simulated = core.state.find_node(name), world.nodes[name]
    if not simulated.is_powered:
        is_silent = node is None or core.state.state_of(node) is NodeState.DOWN
        return [] if is_silent else [f"{name} has no power and is {core.state.state_of(node)}"]  # type: ignore[arg-type]
    if node is None:
        return [f"{name} is not registered"]
    state = core.state.state_of(node)
    return [] if state is NodeState.READY else [f"{name} is {state} ({node.detail})"]


def _job(world: World, job_id: str) -> list[str]:
    core = world.manager.core
    assert core is not None
    book = world.clients.book(job_id)
    job = core.state.jobs.get(job_id)
    instances = {
        number: core.state.instances[InstanceKey(job_id, number)] for number in core.state.of_job.get(job_id, ())
    }
    # the health gate never opens for what finds no room, or for a node that never reports: it stays where it is
    do_run = all(item.state is S.RUNNING for item in instances.values() if item.is_desired)
    if job is not None and job.update is not None and job.update.phase in MOVING and do_run:
        return [f"{job_id} is being updated: {job.update.detail}"]
    desired = {number: mark_of(item.spec.image) for number, item in instances.items() if item.is_desired}
    allowed = book.allowed(may_limbo=False)
    wrong = [mismatch(state, desired) for state in sorted(allowed, key=repr)]
    if "" not in wrong:
        return [f"{job_id}: {wrong[0]}; {book.story()}"]
    running = {copy.slot[1] for copy in world.copies.all() if copy.slot[0] == job_id}
    found = []
    for number in sorted({*instances, *running}):
        problem = _instance(world, instances.get(number), world.copies.of((job_id, number)))
        if problem:
            found.append(f"{job_id}/{number}: {problem}; {instances.get(number)}; {book.story()}")
    return found


def _instance(world: World, instance: Instance | None, copies: list[Copy]) -> str:
    words = [str(copy) for copy in copies]
    if instance is None or not instance.is_desired:
        is_gone = instance is None or instance.state is S.STOPPED
        return "" if is_gone and not copies else f"it is to be gone, and {words} run"
    if instance.successor or instance.retiring:
        return "a move or a change is under way"
    if instance.state is S.RUNNING or (instance.state is S.STARTING and _is_mute(world, instance)):
        return _running(world, instance, copies)
    if instance.state is S.UNKNOWN and not world.nodes[world.name_of(instance.node_id)].is_powered:
        return "" if not copies else f"{words} run beside it"
    if copies:
        return f"{words} run and do not count"
    if instance.state is S.PENDING:
        return "" if is_full(world, instance) else "there is room for it"
    is_final = instance.state in OVER and instance.retry_at_ms is None
    is_allowed = is_final and instance.spec.restart_policy is not RestartPolicy.ALWAYS
    return "" if is_allowed else f"it is on its way; {words} run"


def _is_mute(world: World, instance: Instance) -> bool:
    node = world.nodes.get(world.name_of(instance.node_id))
    return isinstance(node, SimSeed) and not node.reports


def _running(world: World, instance: Instance, copies: list[Copy]) -> str:
    assert instance.current is not None
    node = world.name_of(instance.node_id)
    mark = mark_of(instance.spec.image)
    if not copies and not world.can_tell(node):
        return ""
    is_right = [
        copy.node == node and copy.generation in (None, instance.current.generation) and copy.mark == mark
        for copy in copies
    ]
    if is_right == [True]:
        return ""
    return f"exactly the current copy on {node} is to run, not {[str(copy) for copy in copies]}"
