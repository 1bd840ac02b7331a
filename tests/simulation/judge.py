"""No healthy instance was restarted: every end of a copy that really ran needs a reason that the schedule knows."""

from __future__ import annotations

from math import inf
from typing import Protocol

from cluster.jobs import OnDisconnect
from manager.domain.model import Instance, InstanceState, Job, Node, NodeState, Placement, Record, Role
from manager.domain.rolling import MOVING
from manager.ports import Kind, RecordId
from simulation.clients import Clients
from simulation.invariants import check_instance, check_step
from simulation.manager import SimManager
from simulation.network import Quality
from simulation.node import SimNode
from simulation.storage import Disk
from simulation.story import Story
from simulation.timeline import Timeline
from simulation.truth import Copies, Copy, End, Slot, mark_of

UNDECIDED = (InstanceState.STOPPING,)
GIVEN_UP = (InstanceState.UNKNOWN, InstanceState.LOST)
MESSAGE_S = 1.0


class Surroundings(Protocol):
    """What the judge looks at."""

    manager: SimManager
    disk: Disk
    clients: Clients
    copies: Copies
    nodes: dict[str, SimNode]
    timeline: Timeline
    quality: Quality
    quality_since_s: float
    story: Story
    epoch_s: int

    def name_of(self, node_id: str) -> str:
        """The name of the node of an id, "" where it is unknown."""

    def now_s(self) -> float:
        """Virtual seconds."""

    def was_helpless(self, copy: Copy) -> bool:
        """Whether its worker could not have stopped a copy, or the manager could not have waited for it."""


class Judge:
    """Watches what becomes durable and what really happens; `problems` are never forgotten."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self.problems: list[str] = []
        self._placed_s: dict[tuple[Slot, int], float] = {}
        self._updated_s: dict[str, float] = {}
        self._given_up_s: dict[tuple[Slot, int], float] = {}
        world.disk.listeners.append(self._saved)
        world.copies.on_begin = self._began
        world.copies.on_end = self._ended

    def _complain(self, what: str) -> None:
        self.problems.append(f"{self._world.now_s():.3f} s: {what}")
        self._world.story.tell("PROBLEM", what)

    # What becomes durable

    def _saved(self, record_id: RecordId, before: Record | None, after: Record | None) -> None:
        if record_id[0] is Kind.JOB:
            self._note_update(record_id[1], before, after)
        elif record_id[0] is Kind.NODE:
            self._tell_node(before, after)
        if record_id[0] is not Kind.INSTANCE:
            return
        old = before if isinstance(before, Instance) else None
        new = after if isinstance(after, Instance) else None
        if new is not None:
            self._check(old, new)
            self._note(old, new)
            self._note_loss(old, new)
            self._tell(old, new)
        is_taken_back = old is not None and new is not None and new.event_count < old.event_count
        current = None if old is None or is_taken_back else old.current
        if old and current and current.state not in UNDECIDED and not _holds(new, current):
            self._abandoned(old, current, new)

    def _check(self, old: Instance | None, new: Instance) -> None:
        try:
            check_instance(new)
            if old is not None and new.version == old.version + 1 and new.event_count > old.event_count:
                check_step(old, new)
        except AssertionError as error:
            self._complain(f"{new.key} contradicts itself: {error}")

    def _note_update(self, job_id: str, before: Record | None, after: Record | None) -> None:
        for job in (before, after):
            if isinstance(job, Job) and job.update is not None:
                is_moving = isinstance(after, Job) and after.update is not None and after.update.phase in MOVING
                self._updated_s[job_id] = inf if is_moving else self._world.now_s()

    def _note(self, old: Instance | None, new: Instance) -> None:
        """When each placement was decided, and that moves have been asked for."""
        slot = tuple(new.key)
        for role, placement in new.placements():
            if (slot, placement.generation) in self._placed_s:
                continue
            self._placed_s[slot, placement.generation] = self._when(placement.generation)
            source = self._world.name_of(new.node_id)
            clients = self._world.clients
            if role is Role.SUCCESSOR and slot not in clients.moved and source not in clients.drained:
                self._complain(f"{new.key} is moved and nobody asked for it")

    def _note_loss(self, old: Instance | None, new: Instance) -> None:
        """What was given up rightly stays so while its node is silent, however long it takes to find another node."""
        timeline, current = self._world.timeline, new.current
        if current is None or new.state not in GIVEN_UP or (old and old.state is new.state):
            return
        node, lost_s = self._world.name_of(current.node_id), self._when(new.updated_at_ms)
        silence = timeline.silence_at(node, lost_s)
        if silence and not timeline.why_not_lost(node, lost_s):
            self._given_up_s[tuple(new.key), current.generation] = silence[0]

    def _when(self, at_ms: int) -> float:
        """The virtual time of the manager's present clock."""
        return self._world.now_s() - max(0.0, (self._world.manager.clock.now_ms() - at_ms) / 1000)

    def _tell(self, old: Instance | None, new: Instance) -> None:
        if old is None or (old.state, old.generation, old.node_id) != (new.state, new.generation, new.node_id):
            name = self._world.name_of(new.node_id)
            self._world.story.tell("saved", new.key, new.state, f"on {name}" if name else "", f"({new.detail})")

    def _tell_node(self, old: Record | None, new: Record | None) -> None:
        if isinstance(new, Node) and (not isinstance(old, Node) or old.state is not new.state):
            self._world.story.tell("saved", new.name, new.state, f"({new.detail})")
            if new.state is NodeState.DOWN:
                self._world.timeline.down_s[new.name] = self._world.now_s()

    def _abandoned(self, old: Instance, placement: Placement, new: Instance | None) -> None:
        """The cluster does not count on a placement any more: was there a healthy copy of it?"""
        world = self._world
        node = world.name_of(placement.node_id)
        victims = [
            copy
            for copy in world.copies.of(tuple(old.key))
            if copy.node == node and copy.generation in (None, placement.generation)
        ]
        decided_s = self._when(new.updated_at_ms) if new else world.now_s()
        for copy in victims:
            world.story.check("a copy was given up")
            if copy.began_s > decided_s:
                continue
            why = self._why_not(old, copy, placement, decided_s)
            if why:
                state = f"{new.state} ({new.detail})" if new else "forgotten"
                self._complain(f"the healthy {copy} was given up: now {state}; {why}")

    def _why_not(self, old: Instance, copy: Copy, placement: Placement, decided_s: float) -> str:
        """Why a healthy copy may not be given up; "" where it may."""
        world, clients = self._world, self._world.clients
        placed_s = self._placed_s[copy.slot, placement.generation]
        if clients.was_touched(copy.slot, placed_s) or self._updated_s.get(copy.slot[0], 0.0) > placed_s:
            return ""
        if self._was_told_twice(copy):
            return ""
        if old.successor is not None or any(at_s >= placed_s for at_s in clients.removed.get(copy.node, ())):
            return ""
        silence = world.timeline.silence_at(copy.node, decided_s)
        if silence and self._given_up_s.get((copy.slot, placement.generation)) == silence[0]:
            return ""
        orders = (*clients.given_up.get(copy.node, ()), *clients.given_up.get("*", ()))
        if silence and any(silence[0] <= at_s <= decided_s for at_s in orders):
            return ""
        return world.timeline.why_not_lost(copy.node, decided_s)

    def _was_told_twice(self, copy: Copy) -> bool:
        """A node that knows no generations may end once and run once: its word about the first of both counts."""
        if copy.generation is not None:
            return False
        ended = self._world.copies.last_end.get((copy.node, copy.slot))
        has_ended = ended is not None and ended.end in (End.EXITED, End.CRASHED)
        return has_ended or self._world.nodes[copy.node].has_failing_starts

    # What really happens

    def _began(self, copy: Copy) -> None:
        world = self._world
        world.story.tell("runs", copy)
        others = [other for other in world.copies.of(copy.slot) if other is not copy]
        if copy.spec is not None and copy.spec.one_shot:
            runs = world.copies.runs_of[copy.slot, copy.generation]
            if runs > 1 and not world.timeline.account(copy.node).has_new_disk:
                self._complain(f"the one-shot {copy} ran {runs} times")
        if copy.spec is not None and copy.spec.on_disconnect is OnDisconnect.STOP_AFTER and others:
            self._check_single(copy, others)

    def _check_single(self, copy: Copy, others: list[Copy]) -> None:
        """With stop_after at most one copy runs, unless somebody asked for a change, or a worker could not stop it."""
        clients = self._world.clients
        for other in others:
            is_newer = other.generation is not None and copy.generation is not None
            if not is_newer or (other.generation or 0) > (copy.generation or 0):
                continue
            if self._updated_s.get(copy.slot[0], 0.0) > other.began_s:
                continue
            if (
                clients.was_touched(copy.slot, other.began_s - MESSAGE_S)
                or copy.slot in clients.moved
                or other.node in clients.drained
                or self._world.was_helpless(other)
            ):
                continue
            self._complain(f"{copy} runs beside {other} although stop_after promises one copy")

    def _ended(self, copy: Copy) -> None:
        world = self._world
        world.story.tell("ends:", copy, copy.end)
        if copy.end is End.COMMANDED:
            self._check_command(copy)
        elif copy.end is End.CUT_OFF:
            self._check_lease(copy)

    def _check_command(self, copy: Copy) -> None:
        """What the saved state counts on is never told to stop."""
        world = self._world
        world.story.check("a copy was told to stop")
        record = world.disk.records.get((Kind.INSTANCE, f"{copy.slot[0]}/{copy.slot[1]}"))
        current = record.current if isinstance(record, Instance) and record.is_desired else None
        if current is None or current.state in UNDECIDED or world.name_of(current.node_id) != copy.node:
            return
        is_counted = copy.generation == current.generation or (
            copy.generation is None and copy.mark == mark_of(current.spec.image)
        )
        if is_counted:
            self._complain(f"{copy} was told to stop, and is what counts: {record}")

    def _check_lease(self, copy: Copy) -> None:
        """A worker stops a copy for want of leases only where none could get through."""
        world = self._world
        world.story.check("a copy had no lease")
        assert copy.spec is not None
        window_s = copy.spec.stop_after_s - 2 * MESSAGE_S
        account = world.timeline.accounts.get(copy.node)
        now_s = world.now_s()
        is_deaf = (
            max(world.timeline.deaf_until_s, world.timeline.late_until_s) > now_s - window_s - copy.spec.stop_grace_s
        )
        is_faulty = account is not None and any(last_s > now_s - window_s - 20.0 for _, last_s in account.faults)
        is_bad = world.quality.loss or world.quality.delay_s > 1.0 or now_s - world.quality_since_s < 30.0
        if account is None or is_deaf or is_faulty or is_bad:
            return
        if now_s - account.beats.heard_s < 10.0:
            self._complain(f"{copy} was stopped for want of leases though its node was heard all the time")


def _holds(instance: Instance | None, placement: Placement) -> bool:
    """Whether an instance still counts on a placement."""
    current = instance.current if instance is not None else None
    return current is not None and current.generation == placement.generation and current.state not in UNDECIDED
