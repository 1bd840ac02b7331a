"""Tombstones on nodes that send no lists: they are told to delete what has ended there until nothing of it is owed.

A worker of ours confirms by its inventory and an engine by its lists (`domain/observation.py`, `domain/lists.py`). A
node of the seed's dialect can only be told: one that reports states is told again until it answers, a few times; one
that never reports is told once while it is READY, and is believed when the stop grace has passed and it is still heard.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from cluster.nodes import Dialect
from manager.core import Core
from manager.domain.effects import Effect, Verb
from manager.domain.model import Instance, InstanceKey, Node
from manager.domain.tombstones import Ended

LOOK_PERIOD_S: Final = 1.0
FIRST_PAUSE_MS: Final = 5_000
LONGEST_PAUSE_MS: Final = 60_000
MOST_DELETES: Final = 6
Debt = tuple[str, InstanceKey, int]


@dataclass
class Told:
    """How often a node was told to delete something, when last, and when that is due again or believed."""

    count: int = 0
    at_s: float = 0.0
    due_ms: int = 0


class Tombstones:
    """Settles what seed nodes owe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._told: dict[Debt, Told] = {}

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            if self._core.writer.failure:
                continue
            self.look()
            if self._core.has_changes:
                self._core.commit()

    def look(self) -> None:
        """Tell what is due, and believe what was told long enough ago."""
        state = self._core.state
        seen: set[Debt] = set()
        for node_id in tuple(state.owing):
            node = state.nodes.get(node_id)
            if node is None or node.registration.dialect is not Dialect.SEED or not state.is_ready(node_id):
                continue
            for key in tuple(state.owing[node_id]):
                for ended in state.owes(key):
                    if ended.node_id == node_id:
                        seen.add((node_id, key, ended.generation))
                        self._settle(node, state.instances[key], ended)
        for debt in self._told.keys() - seen:
            del self._told[debt]  # it was settled, or its node was away: then it is told anew

    def _settle(self, node: Node, instance: Instance, ended: Ended) -> None:
        at_ms = self._core.now_ms()
        told = self._told.setdefault((node.id, instance.key, ended.generation), Told())
        if told.count and not node.has_reported and self._is_back_since(node, told):
            told.count, told.due_ms = 0, 0
        if at_ms < told.due_ms or self._is_taken(node, instance):
            return
        if told.count < (MOST_DELETES if node.has_reported else 1):
            self._tell(node, instance, ended, told, at_ms)
        elif self._was_heard(node, told):
            self._core.state.confirm(instance.key, node.id, ended.generation)

    def _tell(self, node: Node, instance: Instance, ended: Ended, told: Told, at_ms: int) -> None:
        order = Effect(
            verb=Verb.DELETE, key=instance.key, node_id=node.id, generation=ended.generation, spec=instance.spec
        )
        if self._core.dispatcher.send_once(order):
            told.count, told.at_s = told.count + 1, self._core.clock.mono_s()
            pause_ms = min(FIRST_PAUSE_MS << (told.count - 1), LONGEST_PAUSE_MS)
            told.due_ms = at_ms + max(int(instance.spec.stop_grace_s * 1000), pause_ms if node.has_reported else 0)

    def _was_heard(self, node: Node, told: Told) -> bool:
        heard_s = self._core.last_heard_s(node)
        return heard_s is not None and heard_s > told.at_s

    def _is_back_since(self, node: Node, told: Told) -> bool:
        """Whether nobody could be heard meanwhile: what it was told before may never have arrived."""
        back_s = self._core.hearing.back_s((node.id, *node.aliases))
        return back_s is not None and back_s > told.at_s

    def _is_taken(self, node: Node, instance: Instance) -> bool:
        """Whether a copy of that name counts there: such a node cannot tell the two apart."""
        return self._core.state.find_reported(node.id, instance.spec.name, instance.key.number) is not None
