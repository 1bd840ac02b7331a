"""Commands on their way: each is sent at once, and again with growing pauses until its node confirms it."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.nodes import Dialect
from cluster.process import LOG
from manager.domain.effects import Effect, Verb, effects_of
from manager.domain.model import Instance, InstanceKey, Node, NodeKind

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0
LEAST_PAUSE_S: Final = 0.25
ENGINE_DEPLOY_PERIODS: Final = 30.0
ENGINE_DELETE_PERIODS: Final = 7.5
MOST_PER_TICK: Final = 200
Identity = tuple[Verb, InstanceKey, int]


class Commander(Protocol):
    """Hands a command to the broker."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a broker."""

    def send(self, node: Node, effect: Effect) -> bool:
        """True once it is in the broker client's hands; False where it has to wait for something."""


@dataclass
class Outstanding:
    """A command that its node has not confirmed. `due_mono_s` infinite: it waits for its node to be READY.

    `first_mono_s` is when it was sent first, `sent_mono_s` when last; what its node says up to `answer_mono_s` may
    confirm it.
    """

    effect: Effect
    attempts: int = 0
    due_mono_s: float = -math.inf
    sent_mono_s: float = -math.inf
    first_mono_s: float | None = None
    answer_mono_s: float = -math.inf


@dataclass(frozen=True)
class Broken:
    """A command that cannot be sent, and why."""

    effect: Effect
    why: str


class Dispatcher:
    """Knows what is outstanding; `on_sent` is told of each command that went out, `on_broken` of what cannot be sent.

    Whatever is wrong with one command holds up no other. While there is no broker everything waits, and costs nothing.
    `heard_until_s` tells up to when everything that nodes said was taken in: a confirmation that is only waiting to be
    read is not missed.
    """

    def __init__(
        self,
        find_node: Callable[[str], Node | None],
        is_ready: Callable[[str], bool],
        clock: Callable[[], float],
        engine_period_s: float = 2.0,
    ) -> None:
        self._find_node = find_node
        self._is_ready = is_ready
        self._engine_period_s = engine_period_s
        self._clock = clock
        self.on_sent: Callable[[Node, Effect], None] = lambda _node, _effect: None
        self.on_broken: Callable[[Broken], None] = lambda _broken: None
        self.heard_until_s = clock
        self._outstanding: dict[Identity, Outstanding] = {}
        self._by_key: defaultdict[InstanceKey, set[Identity]] = defaultdict(set)
        self._by_node: defaultdict[str, dict[Identity, None]] = defaultdict(dict)
        self._due: list[tuple[float, int, Identity]] = []
        self._serial = 0
        self._queues: dict[str, OrderedDict[Identity, None]] = {}
        self.broken: dict[Identity, Broken] = {}
        self.commander: Commander | None = None

    def __len__(self) -> int:
        return len(self._outstanding)

    def consider(self, instance: Instance) -> None:
        """Send what a saved instance calls for, and stop repeating what it no longer calls for."""
        wanted = {effect.identity: effect for effect in effects_of(instance)}
        for identity in self._by_key.get(instance.key, set()) - wanted.keys():
            self._drop(identity)
        for identity, effect in wanted.items():
            if identity not in self._outstanding:
                self._outstanding[identity] = Outstanding(effect)
                self._by_key[instance.key].add(identity)
                self._by_node[effect.node_id][identity] = None
                self._try(identity)

    def ahead_of(self, key: InstanceKey) -> int:
        """How many other deletes its node, which carries out one after the other, has before this instance's."""
        for identity in self._by_key.get(key, ()):
            queue = self._queues.get(self._outstanding[identity].effect.node_id)
            if queue and identity in queue:
                return next(position for position, item in enumerate(queue) if item == identity)
        return 0

    def forget(self, key: InstanceKey) -> None:
        """Stop repeating anything of an instance."""
        for identity in tuple(self._by_key.get(key, ())):
            self._drop(identity)
        for identity in [identity for identity in self.broken if identity[1] == key]:
            del self.broken[identity]  # of what was to be sent once

    def tick(self) -> bool:
        """Repeat what is due; True where more of it is."""
        if self.commander is None or not self.commander.is_ready:
            return False
        now, heard_s = self._clock(), self.heard_until_s()
        for _ in range(MOST_PER_TICK):
            if not self._due or self._due[0][0] > now:
                return False
            due_s, _, identity = heapq.heappop(self._due)
            item = self._outstanding.get(identity)
            if item is None or item.due_mono_s != due_s:
                continue
            if heard_s < item.answer_mono_s:
                self._postpone(identity, item, max(item.answer_mono_s - heard_s, LEAST_PAUSE_S))
            else:
                self._try(identity)
        return True

    def first_sent_s(self, identity: Identity) -> float | None:
        """When an outstanding command was sent first; None where it was not yet."""
        item = self._outstanding.get(identity)
        return item.first_mono_s if item else None

    def repeat_for(self, node_id: str, sent_before_s: float = math.inf) -> None:
        """A node is heard again after a gap: whatever it was told before may have been lost."""
        for identity in self._by_node.get(node_id, ()):
            item = self._outstanding[identity]
            if item.sent_mono_s < sent_before_s:
                item.attempts, item.answer_mono_s = 0, -math.inf
                self._postpone(identity, item, 0.0)

    def repeat(self, verb: Verb, key: InstanceKey, node_id: str, after_s: float) -> None:
        """A node lost a command: send it again after a pause, whatever was planned."""
        for identity in self._by_key.get(key, ()):
            item = self._outstanding[identity]
            if item.effect.verb is verb and item.effect.node_id == node_id:
                item.answer_mono_s = -math.inf
                self._postpone(identity, item, after_s)

    def send_once(self, effect: Effect) -> bool:
        """Send a command that no saved instance calls for: the deletion of a stale copy. True once it is on its way."""
        node = self._find_node(effect.node_id)
        return node is not None and self.commander is not None and self._send(node, effect)

    def _drop(self, identity: Identity) -> None:
        item = self._outstanding.pop(identity)
        self.broken.pop(identity, None)
        _discard(self._by_key, identity[1], identity)
        self._leave_queue(item.effect.node_id, identity)
        held = self._by_node[item.effect.node_id]
        del held[identity]
        if not held:
            del self._by_node[item.effect.node_id]

    def _postpone(self, identity: Identity, item: Outstanding, pause_s: float) -> None:
        item.due_mono_s = self._clock() + pause_s
        if pause_s < math.inf:
            self._serial += 1
            heapq.heappush(self._due, (item.due_mono_s, self._serial, identity))

    def _try(self, identity: Identity) -> None:
        item = self._outstanding[identity]
        node = self._find_node(item.effect.node_id)
        is_first = item.attempts == 0
        if node is None or self.commander is None or not (is_first or self._is_ready(node.id)):
            self._postpone(identity, item, math.inf if node else LONGEST_PAUSE_S)
        elif self._must_queue(node, identity):
            self._postpone(identity, item, math.inf)
        elif not self._send(node, item.effect):
            self._postpone(identity, item, 0.5)
        else:
            item.attempts += 1
            self._postpone(identity, item, self._pause_s(node, item))
            if identity not in self.broken:
                item.sent_mono_s, item.answer_mono_s = self._clock(), item.due_mono_s
                item.first_mono_s = item.first_mono_s or item.sent_mono_s
                self.on_sent(node, item.effect)

    # Nodes that carry out one delete after the other

    def _must_queue(self, node: Node, identity: Identity) -> bool:
        """Whether a delete has to wait: more of them at such a node only delay what else it is told."""
        if node.kind is not NodeKind.ENGINE_A or identity[0] is not Verb.DELETE:
            return False
        queue = self._queues.setdefault(node.id, OrderedDict())
        if identity in queue and self._outstanding[identity].attempts:
            queue.move_to_end(identity)  # its time is over: the next one's turn
            self._promote(node.id, but=identity)
        queue.setdefault(identity, None)
        return next(iter(queue)) != identity

    def _leave_queue(self, node_id: str, identity: Identity) -> None:
        queue = self._queues.get(node_id)
        if queue is None or identity not in queue:
            return
        was_first = next(iter(queue)) == identity
        del queue[identity]
        if not queue:
            del self._queues[node_id]
        elif was_first:
            self._promote(node_id)

    def _promote(self, node_id: str, but: Identity | None = None) -> None:
        first = next(iter(self._queues[node_id]))
        if first != but:
            self._postpone(first, self._outstanding[first], 0.0)

    def _pause_s(self, node: Node, item: Outstanding) -> float:
        if item.effect.identity in self.broken:
            return LONGEST_PAUSE_S
        return pause_s(node, item.effect.verb, item.attempts, self._engine_period_s)

    def _send(self, node: Node, effect: Effect) -> bool:
        assert self.commander is not None
        try:
            is_sent = self.commander.send(node, effect)
        except Exception as error:  # noqa: BLE001 - what is wrong with one command must not hold up the others
            self._break(effect, f"{type(error).__name__}: {error}")
            return True
        if is_sent:
            self.broken.pop(effect.identity, None)
        return is_sent

    def _break(self, effect: Effect, why: str) -> None:
        """It is tried again, seldom; the first time is told."""
        if effect.identity not in self.broken:
            LOG.exception("command cannot be sent", instance=str(effect.key), verb=effect.verb.value)
            self.broken[effect.identity] = Broken(effect, why)
            self.on_broken(self.broken[effect.identity])


def _discard(index: dict[InstanceKey, set[Identity]], key: InstanceKey, identity: Identity) -> None:
    index[key].discard(identity)
    if not index[key]:
        del index[key]


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
