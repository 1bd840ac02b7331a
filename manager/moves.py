"""Moving instances: make before break, whoever asks (an operator, the root, a drain)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cluster.errors import ConflictError, InvalidInputError, NotFoundError
from cluster.nodes import Dialect
from manager.core import Core
from manager.domain.effects import Effect, Verb
from manager.domain.engines import exclusions
from manager.domain.events import MovePlanned
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeKind
from manager.domain.reconciliation import fenced_nodes
from manager.domain.refusals import phrase
from manager.planner import Request, Scheduler

_MOVABLE: Final = (InstanceState.RUNNING, InstanceState.RESTARTING)


class Mover:
    """Plans a successor, re-checks it and saves it; the life cycle does the rest."""

    def __init__(self, core: Core, planner: Scheduler) -> None:
        self._core = core
        self._planner = planner

    def find(self, job_id: str, number: int | None, source: str) -> Instance:
        """The instance that is meant. Raises NotFoundError, or InvalidInputError where several are."""
        state = self._core.state
        numbers = state.of_job.get(job_id)
        if not numbers and job_id in state.jobs:
            raise ConflictError(f"job {job_id} has no instances: scale it up first", field="job")
        if not numbers:
            raise NotFoundError(f"there is no job {job_id!r}", field="job")
        source_id = state.get_node(source, "node_from").id if source else ""
        found = [state.instances[InstanceKey(job_id, item)] for item in numbers if number in (None, item)]
        if not found:
            raise NotFoundError(f"there is no instance {job_id}/{number}", field="instance_number")
        here = [item for item in found if item.is_desired and source_id in ("", item.node_id)]
        if not here:
            raise ConflictError(
                f"no instance of job {job_id} is on node {source!r}: {', '.join(map(self._where, found[:8]))}",
                field="node_from",
            )
        if len(here) > 1:
            given = ", ".join(str(item.key.number) for item in here)
            raise InvalidInputError(f"several instances are meant: give one of {given}", field="instance_number")
        return here[0]

    def _where(self, instance: Instance) -> str:
        node = self._core.state.nodes.get(instance.node_id)
        return f"{instance.key} is {instance.state}" + (f" on {node.name}" if node else "")

    def already_moved(self, job_id: str, number: int | None, source: str, target: str) -> Instance | None:
        """The instance that a repeated call has moved before: it is, or is going to be, on the target."""
        state = self._core.state
        target_node, source_node = state.find_node(target), state.find_node(source)
        if target_node is None or source_node is target_node:
            return None
        for item in state.of_job.get(job_id, {}):
            instance = state.instances[InstanceKey(job_id, item)]
            going_to = (instance.successor or instance.current) if number in (None, item) else None
            left = source_node is None or instance.node_id != source_node.id or instance.successor
            if going_to and left and going_to.node_id == target_node.id:
                return instance
        return None

    async def move(self, instance: Instance, target: str, actor: str, *, excluded: Sequence[str] = ()) -> Instance:
        """Reserve the target and start the successor, durably. Raises ClusterError that says what stands in the way."""
        core = self._core
        core.require_store()
        self._check_movable(instance)
        target_id = core.state.get_node(target, "node_to").id if target else ""
        with core.sequences.plan() as plan:
            node_id = await self._plan(instance, target_id, tuple(excluded), plan.number)
            plan.node_ids.add(node_id)
            moved = self._start(instance.key, node_id, actor)
        await core.saved([moved.key])
        self._advise_source(moved)
        return core.state.instances.get(instance.key, moved)

    def _check_movable(self, instance: Instance) -> None:
        source = self._core.state.nodes.get(instance.node_id)
        if source is not None:
            self._check_reports(source, "node_from")
        if instance.state not in _MOVABLE or instance.current is None:
            raise ConflictError(f"{instance.key} is {instance.state}: only a RUNNING instance is moved", field="job")
        if instance.successor:
            raise ConflictError(f"{instance.key} is being moved to {instance.successor.node_id}", field="job")
        if instance.spec.runs_once:
            raise ConflictError(f"{instance.key} runs once: a move would run it twice", field="job")

    def _check_reports(self, node: Node, field: str) -> None:
        if node.registration.dialect is Dialect.SEED and not node.has_reported:
            raise ConflictError(
                f"node {node.name} never reported a state: a move could not be seen to work", field=field
            )

    async def _plan(self, instance: Instance, target_id: str, excluded: tuple[str, ...], sequence: int) -> str:
        core = self._core
        if target_id == instance.node_id:
            raise ConflictError(f"{instance.key} is on that node already", field="node_to")
        if target_id:
            self._check_reports(core.state.nodes[target_id], "node_to")
        unfit = exclusions(core.state, instance)
        if target_id and (refusal := unfit.of(core.state.nodes[target_id])):
            raise ConflictError(f"{instance.key} cannot go there: {phrase(refusal)}", field="node_to")
        fenced = self._fenced(instance, target_id)
        request = Request(
            key=instance.key,
            spec=instance.spec,
            excluded_node_ids=(instance.node_id, *excluded, *unfit.nodes, *fenced),
            excluded_kinds=(NodeKind.MUTE, *unfit.kinds),
            target_node_id=target_id,
        )
        peers = {instance.key.job_id: core.state.peers(instance.key.job_id)}
        [result] = await self._planner.plan([request], peers, sequence)
        if not result.node_id:
            reasons = ", ".join(map(phrase, result.refusals))
            raise ConflictError(
                f"no node can take {instance.key}: {reasons or 'there is no other node'}", field="node_to"
            )
        return result.node_id

    def _fenced(self, instance: Instance, target_id: str) -> list[str]:
        """Nodes where a copy that ended may still be in the way. Raises ConflictError where one of them is asked for.

        Who does what he is told in order, as the documented dialect does, may be asked for.
        """
        core = self._core
        fenced = [item for item in fenced_nodes(core.state, instance, core.now_ms()) if item != instance.node_id]
        if target_id not in fenced:
            return fenced
        if core.state.nodes[target_id].registration.dialect.is_engine:
            raise ConflictError(
                f"{instance.key} cannot go there yet: an older copy of it may still be there; try again soon",
                field="node_to",
            )
        return [item for item in fenced if item != target_id]

    def _start(self, key: InstanceKey, node_id: str, actor: str) -> Instance:
        """Re-check on the present state and reserve."""
        core = self._core
        core.require_store()
        instance = core.state.instances.get(key)
        if instance is None or not instance.is_desired:
            raise ConflictError(f"{key} was deleted meanwhile", field="job")
        self._check_movable(instance)
        reason = core.state.unfit_reason(node_id, instance.spec)
        if reason:
            raise ConflictError(f"the target was taken meanwhile: {reason}; move it again", field="node_to")
        event = MovePlanned(
            actor=actor,
            node_id=node_id,
            generation=max(instance.generation + 1, core.now_ms()),
            deadline_ms=core.state.first_deadline_ms(node_id, core.now_ms()),
            is_live=self._can_move_live(instance, node_id),
        )
        return core.state.apply(key, event, core.now_ms())

    def _can_move_live(self, instance: Instance, node_id: str) -> bool:
        """Both ends run our worker on the same kind of machine, and nothing but the guest has to move."""
        nodes = self._core.state.nodes
        source, target = nodes[instance.node_id].registration, nodes[node_id].registration
        is_ours = source.dialect is Dialect.WORKER and target.dialect is Dialect.WORKER
        is_alike = source.architecture == target.architecture and instance.state is InstanceState.RUNNING
        return is_ours and is_alike and instance.spec.technology == "unikernel" and not instance.spec.volumes

    def _advise_source(self, instance: Instance) -> None:
        """The source may prepare the hand-over; nothing depends on it."""
        current, successor = instance.current, instance.successor
        if current is None or successor is None:
            return
        source = self._core.state.nodes.get(current.node_id)
        if source is None or source.registration.dialect.is_engine:
            return
        self._core.dispatcher.send_once(
            Effect(
                verb=Verb.MOVE,
                key=instance.key,
                node_id=current.node_id,
                generation=current.generation,
                spec=current.spec,
                target_id=successor.node_id,
            )
        )
