"""Commands on their way: each is sent at once, and again with growing pauses until its node confirms it."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.nodes import Dialect
from manager.domain.effects import Effect, Verb, effects_of
from manager.domain.model import Instance, InstanceKey, Node, NodeState

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0
ENGINE_DEPLOY_PERIODS: Final = 30.0
ENGINE_DELETE_PERIODS: Final = 7.5
Identity = tuple[Verb, InstanceKey, int]


class Commander(Protocol):
    """Hands a command to the broker."""

    def send(self, node: Node, effect: Effect) -> bool:
        """True once it is in the broker client's hands; False while there is no broker."""


@dataclass
class Outstanding:
    """A command that its node has not confirmed."""

    effect: Effect
    attempts: int = 0
    due_mono_s: float = 0.0
    sent_mono_s: float = -math.inf


class Dispatcher:
    """Knows what is outstanding; `on_sent` is told of each command that went out."""

    def __init__(
        self,
        find_node: Callable[[str], Node | None],
        clock: Callable[[], float] = time.monotonic,
        engine_period_s: float = 2.0,
    ) -> None:
        self._find_node = find_node
        self._engine_period_s = engine_period_s
        self._clock = clock
        self.on_sent: Callable[[Node, Effect], None] = lambda _node, _effect: None
        self._outstanding: dict[Identity, Outstanding] = {}
        self._by_key: defaultdict[InstanceKey, set[Identity]] = defaultdict(set)
        self.commander: Commander | None = None

    def consider(self, instance: Instance) -> None:
        """Send what a saved instance calls for, and stop repeating what it no longer calls for."""
        wanted = {effect.identity: effect for effect in effects_of(instance)}
        for identity in self._by_key[instance.key] - wanted.keys():
            self._drop(identity)
        for identity, effect in wanted.items():
            if identity not in self._outstanding:
                self._outstanding[identity] = Outstanding(effect)
                self._by_key[instance.key].add(identity)
                self._try(self._outstanding[identity])
        if not self._by_key[instance.key]:
            del self._by_key[instance.key]

    def forget(self, key: InstanceKey) -> None:
        """Stop repeating anything of an instance."""
        for identity in self._by_key.pop(key, set()):
            self._outstanding.pop(identity, None)

    def forget_all(self) -> None:
        """Start anew."""
        self._outstanding.clear()
        self._by_key.clear()

    def tick(self) -> None:
        """Repeat what is due."""
        now = self._clock()
        for item in list(self._outstanding.values()):
            if item.due_mono_s <= now:
                self._try(item)

    def repeat_for(self, node_id: str, sent_before_s: float = math.inf) -> None:
        """A node is heard again after a gap: whatever it was told before may have been lost."""
        for item in list(self._outstanding.values()):
            if item.effect.node_id == node_id and item.sent_mono_s < sent_before_s:
                item.due_mono_s, item.attempts = 0.0, 0

    def repeat(self, verb: Verb, key: InstanceKey, node_id: str, after_s: float) -> None:
        """A node lost a command: send it again after a pause, whatever was planned."""
        for identity in self._by_key.get(key, ()):
            item = self._outstanding[identity]
            if item.effect.verb is verb and item.effect.node_id == node_id:
                item.due_mono_s = self._clock() + after_s

    def send_once(self, effect: Effect) -> bool:
        """Send a command that no saved instance calls for: the deletion of a stale copy. True once it is on its way."""
        node = self._find_node(effect.node_id)
        return node is not None and self.commander is not None and self.commander.send(node, effect)

    def _drop(self, identity: Identity) -> None:
        self._outstanding.pop(identity, None)
        self._by_key[identity[1]].discard(identity)

    def _try(self, item: Outstanding) -> None:
        node = self._find_node(item.effect.node_id)
        is_first = item.attempts == 0
        if node is None or self.commander is None or not (is_first or node.state is NodeState.READY):
            item.due_mono_s = self._clock() + 1.0
            return
        if not self.commander.send(node, item.effect):
            item.due_mono_s = self._clock() + 0.5
            return
        item.attempts += 1
        item.sent_mono_s = self._clock()
        item.due_mono_s = self._clock() + pause_s(node, item.effect.verb, item.attempts, self._engine_period_s)
        self.on_sent(node, item.effect)


def pause_s(node: Node, verb: Verb, attempts: int, engine_period_s: float) -> float:
    """How long to wait for a confirmation before a command is repeated.

    The older engines take 5 s for each delete and let the others wait in a row; a start may be a long pull.
    """
    if node.registration.dialect is Dialect.SEED and not node.has_reported:
        return float("inf")
    is_engine = node.registration.dialect.is_engine
    if is_engine and verb is Verb.DEPLOY:
        return ENGINE_DEPLOY_PERIODS * engine_period_s
    first_s = ENGINE_DELETE_PERIODS * engine_period_s if is_engine else FIRST_PAUSE_S
    return min(first_s * (1 << min(attempts - 1, 10)), LONGEST_PAUSE_S)
