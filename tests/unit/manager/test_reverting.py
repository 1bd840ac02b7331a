"""What was refused never happened: a state that goes back to what is saved is the one that a start would find."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.jobs import OnDisconnect, Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import StateReport
from manager.domain.aggregate import ClusterState
from manager.domain.events import PlanRefused
from manager.domain.model import InstanceKey, InstanceState, NodeState, Refusal, Update, UpdatePhase
from manager.domain.observation import came_ready, on_state
from manager.domain.policy import Policy
from manager.domain.reconciliation import lose_node
from simulation.invariants import check_state
from simulation.lives import spec

NOW = 1_000_000
NAMES = ("n1", "n2", "n3")
SPECS = (
    spec(),
    spec(image="new"),
    spec(name="other", on_disconnect=OnDisconnect.STOP_AFTER),
    spec(demand=Resources(gpus=1)),
)


class Play:
    """A state on which anything may happen; each step is a number of what, of whom, and of which kind."""

    def __init__(self) -> None:
        self.state = ClusterState(Policy())
        self.now_ms = NOW

    def take(self, step: tuple[int, int, int]) -> None:
        what, who, kind = step
        self.now_ms += 1
        steps: list[Callable[[int, int], Any]] = [
            self.register,
            self.ready,
            self.deploy,
            self.place,
            self.refuse,
            self.run,
            self.delete,
            self.lose,
            self.remove,
            self.purge,
            self.cordon,
            self.update,
        ]
        with contextlib.suppress(ClusterError):  # what the rules forbid changes nothing
            steps[what % len(steps)](who, kind)

    def _node_id(self, who: int) -> str:
        ids = list(self.state.nodes)
        return ids[who % len(ids)] if ids else ""

    def _key(self, who: int) -> InstanceKey:
        return InstanceKey(f"j{who % 2}", who % 3)

    def register(self, who: int, kind: int) -> None:
        """Under an id of its own, a given one, or another's."""
        dialect = (Dialect.WORKER, Dialect.SEED, Dialect.ENGINE_C)[kind % 3]
        capacity = Resources(cpu_millicores=1000 * (1 + kind), gpus=1)
        registration = Registration(
            name=NAMES[who % 3],
            ip="127.0.0.1",
            port=1,
            given_id=("", "17", "18")[kind % 3],
            dialect=dialect,
            technologies=("docker",),
            capacity=capacity,
        )
        self.state.register(registration, self.now_ms)

    def ready(self, who: int, kind: int) -> None:
        """Its telemetry arrives."""
        if node := self.state.nodes.get(self._node_id(who)):
            came_ready(self.state, node, self.now_ms)

    def deploy(self, who: int, kind: int) -> None:
        """Anew, again, or otherwise."""
        self.state.deploy([(self._key(who), SPECS[kind % len(SPECS)])], "root", self.now_ms)

    def place(self, who: int, kind: int) -> None:
        """Where it fits."""
        self.state.place(self._key(who), self._node_id(kind), self.now_ms)

    def refuse(self, who: int, kind: int) -> None:
        """No node was found."""
        if self._key(who) in self.state.instances:
            refusals = (Refusal(reason="cpu", node_count=kind),)
            self.state.apply(self._key(who), PlanRefused(refusals=refusals), self.now_ms)

    def run(self, who: int, kind: int) -> None:
        """Its node says how it is."""
        instance = self.state.instances.get(self._key(who))
        if instance is None or instance.current is None:
            return
        node = self.state.nodes.get(instance.node_id)
        report = StateReport(
            job_id=instance.key.job_id,
            job_name=instance.job_name,
            number=instance.key.number,
            generation=instance.current.generation,
            status=("RUNNING", "FAILED", "STOPPED")[kind % 3],
        )
        if node is not None:
            on_state(self.state, node, report, self.now_ms)

    def delete(self, who: int, kind: int) -> None:
        """One, or the whole job."""
        number = who % 3 if kind else -1
        self.state.delete([InstanceKey(f"j{who % 2}", number)], "root", self.now_ms)

    def lose(self, who: int, kind: int) -> None:
        """A node goes down."""
        if node_id := self._node_id(who):
            self.state.set_node_state(node_id, NodeState.DOWN, "it is lost", self.now_ms)
            lose_node(self.state, node_id, self.now_ms)

    def remove(self, who: int, kind: int) -> None:
        """Where it holds nothing."""
        if node_id := self._node_id(who):
            self.state.remove_node(node_id)

    def purge(self, who: int, kind: int) -> None:
        """What ended is forgotten."""
        instance = self.state.instances.get(self._key(who))
        if instance is not None and instance.state is InstanceState.STOPPED:
            self.state.purge(instance.key)

    def cordon(self, who: int, kind: int) -> None:
        """No more for this one."""
        if node_id := self._node_id(who):
            self.state.set_cordoned(node_id, bool(kind % 2), "operator", self.now_ms)

    def update(self, who: int, kind: int) -> None:
        """Its job begins to roll, or ends to."""
        job = self.state.jobs.get(f"j{who % 2}")
        if job is not None:
            update = Update(old=job.spec, phase=UpdatePhase.ROLLING) if kind else None
            self.state.put_job(replace(job, update=update))


STEPS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 5), st.integers(0, 3)), max_size=40)


def _indexes(state: ClusterState) -> dict[str, object]:
    return {
        "nodes": state.nodes,
        "jobs": state.jobs,
        "instances": state.instances,
        "ids": state._ids,
        "names": state._names,
        "states": +state._states,
        "live": set(state.live),
        "allocated": {node_id: held for node_id, held in state.allocated.items() if any(vars(held).values())},
        "on_node": {node_id: held for node_id, held in state.on_node.items() if held},
        "of_job": {job_id: set(numbers) for job_id, numbers in state.of_job.items()},
        "peers": {job_id: peers for job_id, peers in state._peers.items() if peers},
        "leased": +state.leased,
        "by_name": {name: set(keys) for name, keys in state._by_name.items()},
        "named": {name: set(keys) for name, keys in state._named.items()},
        "waiting": sorted(map(sorted, state.waiting.classes())),
        "updating": set(state.updating),
    }


def _restored(saved: ClusterState) -> ClusterState:
    state = ClusterState(Policy())
    state.restore(saved.nodes.values(), saved.jobs.values(), saved.instances.values())
    return state


def _revert(state: ClusterState, saved: ClusterState, order: list[int]) -> None:
    """Records go back in any order."""
    dirty = state.take_dirty()
    undo: list[Callable[[], None]] = []
    undo += [lambda name=name: state.revert_node(name, saved.nodes.get(name)) for name in dirty.nodes]
    undo += [lambda name=name: state.revert_job(name, saved.jobs.get(name)) for name in dirty.jobs]
    undo += [lambda key=key: state.revert_instance(key, saved.instances.get(key)) for key in dirty.instances]
    for position in order:
        if undo:
            undo.pop(position % len(undo))()
    for step in undo:
        step()


@settings(max_examples=300, deadline=None)
@given(before=STEPS, refused=STEPS, order=st.lists(st.integers(0, 20), max_size=10), after=STEPS)
def test_going_back_finds_what_a_start_would_find(
    before: list[tuple[int, int, int]],
    refused: list[tuple[int, int, int]],
    order: list[int],
    after: list[tuple[int, int, int]],
) -> None:
    """Records, indexes, reservations and queues; and life goes on from there."""
    play = Play()
    for step in before:
        play.take(step)
    saved = _restored(play.state)
    play.state.take_dirty()
    for step in refused:
        play.take(step)
    _revert(play.state, saved, order)
    assert _indexes(play.state) == _indexes(saved)
    for step in after:
        play.take(step)
        check_state(play.state)
