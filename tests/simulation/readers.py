"""Whoever reads meanwhile: what is shown is what is saved, and does not stay untrue for long."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Protocol

from cluster.errors import ClusterError
from cluster.v1 import manager_pb2 as pb
from manager.domain.leases import LeaseRules
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeState
from manager.domain.observation import LATE_INVENTORIES
from manager.domain.silence import UNKNOWN_WHEN_SILENT
from manager.ports import Kind
from manager.rpc.convert import INSTANCE_STATES, NODE_STATES
from simulation.clients import Clients
from simulation.manager import SimManager
from simulation.node import SimNode
from simulation.room import is_full
from simulation.storage import Disk
from simulation.story import Story
from simulation.timeline import Timeline
from simulation.truth import Copies, End, mark_of
from simulation.worker import INVENTORY_S

S = InstanceState
STATES = {value: state for state, value in INSTANCE_STATES.items()}
NODES = {value: state for state, value in NODE_STATES.items()}
PERIOD_S = (0.5, 3.0)
MARGIN_S = 2.5
UNTRUE_S = {"worker": INVENTORY_S + 4.0, "seed": 10.0, "mute": 10.0, "engine A": 60.0, "engine C": 60.0}
NODE_S = 6.0
JUDGED_S = 1.0
ROOM_S = 8.0
RESTARTED = (End.CRASHED, End.LOST_POWER)


class Surroundings(Protocol):
    """What readers compare with."""

    manager: SimManager
    disk: Disk
    clients: Clients
    copies: Copies
    timeline: Timeline
    rules: LeaseRules
    nodes: dict[str, SimNode]
    story: Story

    def name_of(self, node_id: str) -> str:
        """The name of the node of an id."""

    def now_s(self) -> float:
        """Virtual seconds."""

    def good_since(self, node: str) -> float:
        """Since when nothing keeps the cluster from knowing what is on a node."""

    def can_tell(self, node: str) -> bool:
        """Whether what becomes of a node's workloads is ever known."""

    def planned_since(self) -> float:
        """Since when nothing keeps the cluster from finding a node for what wants one."""

    def judged_since(self) -> float:
        """Since when the manager can judge, but for times in which nobody could be heard."""


class Readers:
    """Asks for lists again and again."""

    def __init__(self, world: Surroundings, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.problems: list[str] = []
        self._room_since_s: dict[InstanceKey, float] = {}

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await asyncio.sleep(self._rng.uniform(*PERIOD_S))
            if not self._world.manager.is_serving:
                continue
            try:
                request = pb.ListInstancesRequest(page_size=1000)
                await self._world.manager.call("ListInstances", request, answered=self.instances)
                await self._world.manager.call("ListNodes", pb.ListNodesRequest(page_size=1000), answered=self.nodes)
            except ClusterError as error:
                self._world.story.tell("reading fails:", error.detail)

    def _complain(self, what: str) -> None:
        self.problems.append(f"{self._world.now_s():.3f} s: {what}")
        self._world.story.tell("PROBLEM", what)

    # Instances

    def instances(self, response: Any) -> None:
        """Judge a list of all instances."""
        world = self._world
        world.story.check("instances shown")
        self._end_limbo()
        seen: dict[str, dict[int, str]] = {job_id: {} for job_id in world.clients.books}
        for message in response.instances:
            self._instance(message)
            if message.is_desired:
                seen.setdefault(message.key.job_id, {})[message.key.number] = mark_of(message.image)
        for job_id, found in seen.items():
            book = world.clients.book(job_id)
            problem = world.clients.problem_of(book, found, may_limbo=False)
            if problem:
                self._complain(f"{job_id} is shown wrongly: {problem}; {book.story()}")

    def _end_limbo(self) -> None:
        core = self._world.manager.core
        if core is not None and not core.writer.failure:
            self._world.clients.store_works()

    def _instance(self, message: Any) -> None:
        world = self._world
        key, state = (message.key.job_id, message.key.number), STATES[message.state]
        versions = world.disk.versions[Kind.INSTANCE, f"{key[0]}/{key[1]}"]
        record = next((item for item in versions if item.version == message.version), None)
        if not isinstance(record, Instance):
            self._complain(f"{key} is shown as {state} in version {message.version}, which was never durable")
            return
        is_unheard = state is S.UNKNOWN and record.state in UNKNOWN_WHEN_SILENT
        shown = (message.node_id, message.is_desired, mark_of(message.image))
        if shown != (record.node_id, record.is_desired, mark_of(record.spec.image)) or not (
            state is record.state or is_unheard
        ):
            self._complain(f"{key} is shown as {state}, {shown}, and saved is {record}")
        self._room(record)
        if record.current is not None:
            self._truth(record, state, is_unheard=is_unheard)

    def _room(self, record: Instance) -> None:
        """What found no node gets one soon after there is room."""
        world = self._world
        if record.state is not S.PENDING or is_full(world, record):
            self._room_since_s.pop(record.key, None)
            return
        since_s = max(self._room_since_s.setdefault(record.key, world.now_s()), world.planned_since())
        if world.now_s() - since_s > ROOM_S:
            self._complain(f"{record.key} is PENDING, and there is room for it since {since_s:.1f} s: {record.detail}")

    def _truth(self, record: Instance, state: InstanceState, *, is_unheard: bool) -> None:
        world = self._world
        assert record.current is not None
        node = world.nodes.get(world.name_of(record.node_id))
        if node is None:
            return
        slot, generation = tuple(record.key), record.current.generation
        copies = [
            copy for copy in world.copies.of(slot) if copy.node == node.name and copy.generation in (None, generation)
        ]
        limit_s = UNTRUE_S[node.kind] + self._anew_s(node)
        good_s = world.good_since(node.name)
        ended = world.copies.last_end.get((node.name, slot))
        if state is S.RUNNING and not copies and world.can_tell(node.name):
            since_s = max(good_s, ended.ended_s or 0.0) if ended else good_s
            if world.now_s() - since_s > limit_s:
                self._complain(f"{record.key} is shown RUNNING on {node.name}, and was not since {since_s:.1f} s")
        if state is S.RUNNING and self._unheard_s(node.name) > world.rules.lease_s + world.rules.grace_s + MARGIN_S:
            silence_s = self._unheard_s(node.name)
            self._complain(f"{record.key} is shown RUNNING on {node.name}, silent for {silence_s:.1f} s")
        if state is S.UNKNOWN and copies and world.can_tell(node.name):
            since_s = max(good_s, copies[0].began_s)
            if world.now_s() - since_s > limit_s:
                why = "its node counts as silent" if is_unheard else "so it is saved"
                self._complain(f"{record.key} is shown UNKNOWN ({why}), and runs on {node.name}, which talks")

    def _anew_s(self, node: SimNode) -> float:
        """A worker with a new disk counts anew: where words of its former life come late, that takes inventories."""
        account = self._world.timeline.accounts.get(node.name)
        has_new_disk = account is not None and account.has_new_disk
        return LATE_INVENTORIES * INVENTORY_S if has_new_disk else 0.0

    def _unheard_s(self, node: str) -> float:
        """For how long the manager could have heard a node and did not.

        While echoes are late nobody knows whether anybody could be heard; that they were only late is told by them.
        """
        world = self._world
        account = world.timeline.accounts.get(node)
        if account is None or world.now_s() - world.timeline.late_until_s < JUDGED_S:
            return 0.0
        return world.timeline.listened(max(account.signs.heard_s, world.judged_since()), world.now_s())

    # Nodes

    def nodes(self, response: Any) -> None:
        """Judge a list of all nodes."""
        world = self._world
        world.story.check("nodes shown")
        for message in response.nodes:
            name, state = message.registration.name, NODES[message.state]
            versions = world.disk.versions[Kind.NODE, message.id]
            if not any(isinstance(item, Node) and self._is_saved(item, state) for item in versions):
                self._complain(f"{name} is shown {state}, which was never durable")
            self._node(name, state)
            book = world.clients.cordons.get(name)
            seen = {0: "cordoned"} if message.is_cordoned else {0: "open"}
            allowed = book.allowed(may_limbo=False) if book else ()
            if book and all(item.of(0) and seen[0] not in item.of(0) for item in allowed):
                self._complain(f"{name} is shown as {seen[0]}; {book.story()}")

    def _is_saved(self, node: Node, state: NodeState) -> bool:
        return node.state is state or (state is NodeState.SUSPECT and node.state is NodeState.READY)

    def _node(self, name: str, state: NodeState) -> None:
        world = self._world
        unheard_s = self._unheard_s(name)
        if state is NodeState.READY and unheard_s > world.rules.lease_s + MARGIN_S:
            self._complain(f"{name} is shown READY, silent for {unheard_s:.1f} s")
        good_s = world.now_s() - world.good_since(name)
        if state is not NodeState.READY and good_s > NODE_S:
            self._complain(f"{name} is shown {state}, and talks for {good_s:.1f} s")
