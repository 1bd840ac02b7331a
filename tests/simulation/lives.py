"""Instances led through their life by hand: each event is applied by the real life cycle and checked at once."""

from typing import Any

from cluster.jobs import JobSpec, Resources
from manager.domain.effects import effects_of
from manager.domain.events import (
    DeadlinePassed,
    DeleteRequested,
    DeployRequested,
    InstanceEvent,
    MovePlanned,
    NodeCameBack,
    NodeWasRemoved,
    NodeWentDown,
    Observed,
    Planned,
    PlanRefused,
    Seen,
)
from manager.domain.machine import advance
from manager.domain.model import Event, Instance, InstanceKey, InstanceState, Refusal
from manager.domain.policy import Policy
from simulation.invariants import check_step

S = InstanceState
POLICY = Policy()
KEY = InstanceKey("web", 0)
START_MS = 1_000_000


def spec(**facts: Any) -> JobSpec:
    """A plain job that asks for half a core."""
    demand = Resources(cpu_millicores=500)
    return JobSpec(**{"name": "web", "image": "image", "technology": "docker", "demand": demand, **facts})


class Life:
    """An instance and its clock. Every step keeps the invariants, or the test fails."""

    def __init__(self, **facts: Any) -> None:
        event = Event(at_ms=START_MS, actor="root", kind="requested", state=S.REQUESTED, cause="it was requested")
        self.now_ms = START_MS
        self.instance = Instance(key=KEY, spec=spec(**facts), is_desired=True, state=S.REQUESTED)
        self.instance = self.instance.recorded(event)

    @property
    def state(self) -> InstanceState:
        """Where it stands."""
        return self.instance.state

    @property
    def commands(self) -> list[tuple[str, str, int]]:
        """What is due: verb, node and generation."""
        return [(item.verb.value, item.node_id, item.generation) for item in effects_of(self.instance)]

    def wait(self, seconds: float) -> "Life":
        """Let time pass."""
        self.now_ms += int(seconds * 1000)
        return self

    def apply(self, event: InstanceEvent) -> "Life":
        """One event."""
        before = self.instance
        self.instance = advance(before, event, self.now_ms, POLICY)
        if self.instance is not before:
            check_step(before, self.instance)
        return self

    def deploy(self, **facts: Any) -> "Life":
        """Somebody asks for it."""
        return self.apply(DeployRequested(actor="root", spec=spec(**facts)))

    def delete(self) -> "Life":
        """Somebody asks for its end."""
        return self.apply(DeleteRequested(actor="root"))

    def place(self, node_id: str = "n1", *, has_deadline: bool = True) -> "Life":
        """A node was found."""
        generation = max(self.instance.generation + 1, self.now_ms)
        deadline_ms = self.now_ms + POLICY.schedule_deadline_ms if has_deadline else None
        return self.apply(Planned(node_id=node_id, generation=generation, deadline_ms=deadline_ms))

    def refuse(self, reason: str = "memory", detail: str = "") -> "Life":
        """No node was found."""
        refusal = Refusal(reason=reason, node_count=2, detail=detail)
        return self.apply(PlanRefused(refusals=(refusal,)))

    def move(self, node_id: str = "n2") -> "Life":
        """A successor gets a node."""
        generation = max(self.instance.generation + 1, self.now_ms)
        deadline_ms = self.now_ms + POLICY.schedule_deadline_ms
        return self.apply(
            MovePlanned(actor="operator", node_id=node_id, generation=generation, deadline_ms=deadline_ms)
        )

    def see(self, seen: Seen, node_id: str = "n1", generation: int | None = None, **facts: Any) -> "Life":
        """A node tells of its newest copy there, or of a generation."""
        return self.apply(Observed(node_id=node_id, generation=generation, seen=seen, actor="worker:n", **facts))

    def run(self, node_id: str = "n1") -> "Life":
        """Placed, started, running."""
        return self.place(node_id).see(Seen.STARTING, node_id).see(Seen.RUNNING, node_id)

    def node_down(self, node_id: str = "n1") -> "Life":
        """A node is not heard any more."""
        return self.apply(NodeWentDown(node_id=node_id, cause="no telemetry for 15.0 s"))

    def node_back(self, node_id: str = "n1", deadline_ms: int | None = None, *, is_mute: bool = False) -> "Life":
        """A node is heard again; one that is mute never tells what it holds."""
        return self.apply(NodeCameBack(node_id=node_id, deadline_ms=deadline_ms, is_mute=is_mute))

    def node_removed(self, node_id: str = "n1") -> "Life":
        """An operator gave the node up."""
        return self.apply(NodeWasRemoved(node_id=node_id, actor="operator"))

    def deadline(self) -> "Life":
        """An alarm rang."""
        return self.apply(DeadlinePassed())
