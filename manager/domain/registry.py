"""The nodes of the cluster in memory, by id, alias and name, and what is dirty. Pure; part of `ClusterState`."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from math import inf

from cluster.errors import AlreadyExistsError, NotFoundError
from cluster.nodes import Registration
from manager.domain.model import Event, Instance, InstanceKey, Job, Logged, Node, NodeLive, NodeState, with_event


@dataclass
class Dirty:
    """What changed since it was last taken: the ids of records, and history in order of happening."""

    nodes: dict[str, None] = field(default_factory=dict)
    jobs: dict[str, None] = field(default_factory=dict)
    instances: dict[InstanceKey, None] = field(default_factory=dict)
    events: list[Logged] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.jobs or self.instances)


class NodeRegistry:
    """Nodes and their identities; every change marks its record dirty."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.live: dict[str, NodeLive] = {}
        self.dirty = Dirty()
        self.dirty_views: dict[str, None] = {}
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._states: Counter[NodeState] = Counter()

    def take_dirty(self) -> Dirty:
        """What changed since the last call."""
        taken, self.dirty = self.dirty, Dirty()
        return taken

    @property
    def node_counts(self) -> Counter[NodeState]:
        """How many nodes are in each state, the SUSPECT ones among the READY ones."""
        return self._states

    @property
    def ready_count(self) -> int:
        """How many nodes are READY, the SUSPECT ones among them."""
        return self._states[NodeState.READY]

    def state_of(self, node: Node) -> NodeState:
        """What is known of a node at the moment: SUSPECT is never saved."""
        if node.state is NodeState.READY and self.live[node.id].is_suspect:
            return NodeState.SUSPECT
        return node.state

    def is_ready(self, node_id: str) -> bool:
        """Whether it is there and heard."""
        node = self.nodes.get(node_id)
        return node is not None and self.state_of(node) is NodeState.READY

    def doubt(self, node_id: str, trouble: str) -> None:
        """A node is late: it is SUSPECT until it is heard again or called DOWN."""
        live = self.live[node_id]
        live.is_suspect, live.trouble = True, trouble
        self.dirty_views[node_id] = None

    def trust(self, node_id: str) -> None:
        """A node is heard again."""
        live = self.live[node_id]
        live.is_suspect, live.trouble = False, ""
        self.dirty_views[node_id] = None

    def register(self, registration: Registration, now_ms: int) -> Node:
        """Admit a node or renew what it said. Raises AlreadyExistsError for the id of another live node."""
        node_id, old = self._identify(registration)
        self._release_alias(registration.given_id, node_id)
        aliases = set(old.aliases if old else ())
        if registration.given_id and self._ids.get(registration.given_id, node_id) == node_id != registration.given_id:
            aliases.add(registration.given_id)
        fresh = old or Node(id=node_id, registration=registration, registered_at_ms=now_ms, topic_id=node_id)
        node = replace(fresh, registration=registration, aliases=tuple(sorted(aliases)))
        if old is None or old.registration != registration:
            cause = "it registered" if old is None else "it registered again with other facts"
            node = _noted(node, now_ms, f"worker:{node.name}", "registered", cause)
        self.live.setdefault(node_id, NodeLive()).last_sequence = -1
        if node != old:
            self.put_node(node)
        return node

    def _identify(self, registration: Registration) -> tuple[str, Node | None]:
        by_id = self.nodes.get(self._ids.get(registration.given_id, ""))
        by_name = self.nodes.get(self._names.get(registration.name, ""))
        if by_id and by_id.name != registration.name and by_id.state is not NodeState.DOWN:
            raise AlreadyExistsError(
                f"id {registration.given_id} belongs to node {by_id.name}, which is alive; "
                "register without an id to get an own one",
                field="id",
            )
        known = by_name or by_id
        if known:
            return known.id, known
        if _is_object_id(registration.given_id):
            return registration.given_id, None
        return self._new_node_id(registration.name), None

    def _release_alias(self, given_id: str, node_id: str) -> None:
        """Take an alias from another node, which is down: telemetry and commands are not meant for that one."""
        other = self.nodes.get(self._ids.get(given_id, ""))
        if other is None or other.id in (node_id, given_id):
            return
        del self._ids[given_id]
        topic_id = other.id if other.topic_id == given_id else other.topic_id
        kept = tuple(alias for alias in other.aliases if alias != given_id)
        self.put_node(replace(other, aliases=kept, topic_id=topic_id))

    def _new_node_id(self, name: str) -> str:
        """24 hex digits from the name, so that a machine keeps its id even when this store is lost."""
        node_id = hashlib.blake2s(name.encode(), digest_size=12).hexdigest()
        while node_id in self._ids:
            node_id = hashlib.blake2s(node_id.encode(), digest_size=12).hexdigest()
        return node_id

    def find_node(self, reference: str) -> Node | None:
        """The node of an id, an alias or a name."""
        return self.nodes.get(self._ids.get(reference) or self._names.get(reference, ""))

    def get_node(self, reference: str, field_name: str = "node") -> Node:
        """The node of an id, an alias or a name. Raises NotFoundError."""
        node = self.find_node(reference)
        if node is None:
            raise NotFoundError(f"there is no node {reference!r}", field=field_name)
        return node

    def node_of_topic(self, topic_id: str) -> Node | None:
        """The node whose id or alias stands in a topic."""
        return self.nodes.get(self._ids.get(topic_id, ""))

    def set_node_state(self, node_id: str, state: NodeState, cause: str, now_ms: int) -> None:
        """Record a change of what is known of a node. Until it is saved that it is DOWN it is SUSPECT."""
        node = replace(self.nodes[node_id], state=state, detail=cause)
        if state is NodeState.DOWN:
            self.doubt(node_id, cause)
            self.live[node_id].back_mono_s = -inf
        else:
            self.trust(node_id)
        self.put_node(_noted(node, now_ms, "manager", state.lower(), cause))

    def note_node(self, node_id: str, kind: str, cause: str, now_ms: int, *, detail: str | None = None) -> None:
        """Add to a node's history; `detail` is what the operator sees beside its state from now on."""
        node = self.nodes[node_id]
        node = replace(node, detail=node.detail if detail is None else detail)
        self.put_node(_noted(node, now_ms, "manager", kind, cause))

    def set_cordoned(self, node_id: str, is_cordoned: bool, actor: str, now_ms: int) -> Node:
        """Stop or allow new placements."""
        node = self.nodes[node_id]
        if node.is_cordoned != is_cordoned:
            node = replace(node, is_cordoned=is_cordoned)
            kind = "cordoned" if is_cordoned else "uncordoned"
            self.put_node(_noted(node, now_ms, actor, kind, f"{actor} asked for it"))
        return self.nodes[node_id]

    def put_node(self, node: Node) -> None:
        """Replace a node and mark it dirty."""
        old = self.nodes.get(node.id)
        node = replace(node, version=(old.version if old else 0) + 1)
        self._index_node(node)
        self.dirty.nodes[node.id] = None
        self.dirty_views[node.id] = None
        self._log(f"node:{node.id}", old, node)

    def _unindex_node(self, node_id: str) -> None:
        node = self.nodes.pop(node_id, None)
        if node is None:
            return
        for known in (node.id, *node.aliases):
            if self._ids.get(known) == node.id:
                del self._ids[known]
        if self._names.get(node.name) == node.id:
            del self._names[node.name]
        self._states[node.state] -= 1

    def _index_node(self, node: Node) -> None:
        self._unindex_node(node.id)
        self.live.setdefault(node.id, NodeLive())
        self._states[node.state] += 1
        self.nodes[node.id] = node
        self._names[node.name] = node.id
        for known in (node.id, *node.aliases):
            self._ids[known] = node.id

    def _log(self, subject: str, before: Node | Job | Instance | None, after: Node | Job | Instance) -> None:
        fresh = min(after.event_count - (before.event_count if before else 0), len(after.events))
        for offset in range(fresh, 0, -1):
            number = after.event_count - offset + 1
            self.dirty.events.append(Logged(subject=subject, number=number, event=after.events[-offset]))


def _noted(node: Node, now_ms: int, actor: str, kind: str, cause: str) -> Node:
    event = Event(at_ms=now_ms, actor=actor, kind=kind, state=node.state, cause=cause, node_id=node.id)
    return replace(node, **with_event(node, event))


def _is_object_id(text: str) -> bool:
    return len(text) == 24 and all(digit in "0123456789abcdef" for digit in text)
