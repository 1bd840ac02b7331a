"""Registration and removal of nodes, whoever began it."""

from __future__ import annotations

from cluster.nodes import Registration
from cluster.process import LOG
from manager.core import Core
from manager.domain.engines import on_restart
from manager.domain.events import NodeWasRemoved
from manager.domain.model import Node


class Nodes:
    """Admits nodes; `broker_port` is what they are told."""

    def __init__(self, core: Core, broker_port: int) -> None:
        self._core = core
        self.broker_port = broker_port

    async def register(self, registration: Registration) -> Node:
        """Admit a node or renew what it said, durably. Raises AlreadyExistsError or UnavailableError."""
        core = self._core
        core.require_store()
        state, mono_s = core.state, core.clock.mono_s()
        known = state.find_node(registration.name)
        node = state.register(registration, core.now_ms())
        core.hearing.heard(node.id, mono_s)
        core.leases.watch(node.id)
        if known is not None and known.id == node.id and registration.dialect.is_engine:
            on_restart(state, known, node, core.now_ms(), mono_s)
        await core.saved()
        LOG.info("node registered", node_id=node.id, name=node.name, dialect=registration.dialect)
        return node

    def answer(self, node: Node) -> dict[str, str]:
        """What a registration is answered with: all values are strings, as worker engines parse them."""
        return {
            "id": node.id,
            "MQTT_BROKER_PORT": str(self.broker_port),
            "cluster_id": self._core.cluster_id,
        }

    async def remove(self, node: Node, *, is_forced: bool) -> None:
        """Forget a node, durably.

        Raises ConflictError while it holds instances, unless forced: then they are placed anew. Or UnavailableError:
        then it is there as before, and when it was heard is not forgotten.
        """
        core, state = self._core, self._core.state
        if is_forced:
            for key in tuple(state.on_node[node.id]):
                state.apply(key, NodeWasRemoved(node_id=node.id, actor="operator"), core.now_ms())
        state.remove_node(node.id)
        core.leases.forget(node.id)
        await core.saved()
        if node.id not in state.nodes:  # it may have registered again by now
            core.hearing.forget((node.id, *node.aliases))
        LOG.info("node removed", node_id=node.id, name=node.name, forced=is_forced)
