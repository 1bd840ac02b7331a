"""Whether there is a node for an instance, as the manager could know."""

from __future__ import annotations

from typing import Protocol

from manager.domain.engines import exclusions
from manager.domain.model import Instance
from manager.domain.reconciliation import fenced_nodes
from simulation.manager import SimManager


class Surroundings(Protocol):
    """Whose state counts."""

    manager: SimManager


def is_full(world: Surroundings, instance: Instance) -> bool:
    """Whether no node may take an instance now."""
    core = world.manager.core
    if core is None:
        return True
    state = core.state
    named = {name for item in instance.spec.constraints for name in item.nodes}
    closed = {node.id for node in state.nodes.values() if named and node.name not in named}
    closed |= {*fenced_nodes(state, instance, core.now_ms()), *exclusions(state, instance).nodes}
    return all(node_id in closed or state.unfit_reason(node_id, instance.spec) for node_id in state.nodes)
