"""A cluster's state with nodes of one dialect that come and go, and what follows from what they say."""

from typing import Any

from cluster.jobs import Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import ResourceEntry, ResourceList, StateReport
from manager.domain.aggregate import ClusterState
from manager.domain.model import Instance, InstanceKey, Node, NodeState
from manager.domain.observation import Findings, came_ready, on_resources, on_state
from manager.domain.policy import Policy
from manager.domain.reconciliation import lose_node, ring
from simulation.invariants import check_state
from simulation.lives import spec

KEY = InstanceKey("web", 0)
NOW = 1_000_000
LATER = NOW + 30 * 86_400_000


class Scene:
    """A cluster's state with nodes of one dialect that come and go."""

    def __init__(self, *names: str, dialect: Dialect = Dialect.WORKER) -> None:
        self.state = ClusterState(Policy())
        self.sequence = 0
        self.nodes = {name: self._register(name, dialect) for name in names or ("n1",)}
        for name in self.nodes:
            self.back(name)

    def _register(self, name: str, dialect: Dialect) -> str:
        capacity = Resources(cpu_millicores=4000)
        facts: dict[str, Any] = {"dialect": dialect, "technologies": ("docker",), "capacity": capacity}
        return self.state.register(Registration(name=name, ip="127.0.0.1", port=1, **facts), NOW).id

    def node(self, name: str = "n1") -> Node:
        """A node as it is now."""
        return self.state.nodes[self.nodes[name]]

    @property
    def instance(self) -> Instance:
        """The instance as it is now."""
        return self.state.instances[KEY]

    def run(self, name: str = "n1") -> int:
        """Deploy it, place it there and let it run; answers its generation."""
        if KEY not in self.state.instances:
            self.state.deploy([(KEY, spec())], "root", NOW)
        assert self.state.place(KEY, self.nodes[name], NOW) == ""
        generation = self.instance.generation
        self.say("RUNNING", generation, name)
        return generation

    def say(self, status: str, generation: int | None, name: str = "n1") -> Findings:
        """A state of a node; without a generation, without a job id as well."""
        self.sequence += 1
        job_id = "web" if generation is not None else ""
        report = StateReport(
            job_name="web", job_id=job_id, number=0, status=status, generation=generation, sequence=self.sequence
        )
        return on_state(self.state, self.node(name), report, NOW)

    def inventory(self, *held: tuple[int, str], name: str = "n1") -> Findings:
        """All that a node has: generations and their status."""
        entries = tuple(
            ResourceEntry(job_name="web", job_id="web", number=0, generation=generation, status=status)
            for generation, status in held
        )
        resources = ResourceList(entries=entries, is_inventory=True, sequence=self.sequence)
        return on_resources(self.state, self.node(name), resources, NOW)

    def down(self, name: str = "n1") -> None:
        """Lease and grace of a node run out."""
        self.state.set_node_state(self.nodes[name], NodeState.DOWN, "silent", NOW)
        lose_node(self.state, self.nodes[name], NOW)

    def back(self, name: str = "n1") -> None:
        """A node is heard again."""
        came_ready(self.state, self.node(name), NOW)

    def owed(self) -> list[str]:
        """The nodes that owe a confirmation, by name."""
        check_state(self.state)
        return [self.state.nodes[item.node_id].name for item in self.state.owes(KEY)]

    def is_purged(self) -> bool:
        """Whether a month later the instance is forgotten."""
        ring(self.state, KEY, LATER)
        check_state(self.state)
        return KEY not in self.state.instances
