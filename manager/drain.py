"""Emptying a node: cordon it, move what runs there within a budget, wait, and tell how far it is.

Uncordoning the node takes the drain back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from cluster.errors import ClusterError
from manager.core import Core
from manager.domain.model import InstanceKey, Node, NodeKind
from manager.domain.silence import DELETE_S, queued
from manager.moves import Mover

LOOK_PERIOD_S: Final = 0.25
RETRY_PERIOD_S: Final = 2.0
TELL_PERIOD_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a drain is; `detail` says in words what happens or what stands in the way."""

    total: int
    moved: int
    detail: str
    is_done: bool = False


class Drain:
    """One drain of one node. Ending it half-way leaves the node cordoned and its moves under way."""

    def __init__(self, core: Core, mover: Mover, node: Node, max_parallel: int, deadline_s: float) -> None:
        self._core = core
        self._mover = mover
        self._node = node
        self._max_parallel = max_parallel
        self._deadline_s = deadline_s
        self._obstacles: dict[InstanceKey, str] = {}
        self._next_try_s: dict[InstanceKey, float] = {}

    async def run(self) -> AsyncIterator[Progress]:
        """Progress whenever it changed, and every two seconds; the last one `is_done`."""
        state = self._core.state
        state.set_cordoned(self._node.id, True, "operator", self._core.now_ms())
        await self._core.saved()
        total = len(state.on_node[self._node.id])
        mono_s = self._core.clock.mono_s
        end_s = mono_s() + self._deadline_s + self._own_time_s(total)
        told, told_s = None, 0.0
        while True:
            left = tuple(state.on_node[self._node.id])
            now_s = mono_s()
            node = state.nodes.get(self._node.id)
            is_taken_back = node is not None and not node.is_cordoned
            if not left or is_taken_back or now_s > end_s:
                yield self._last(total, left, is_taken_back=is_taken_back)
                return
            await self._start_moves(left, now_s)
            progress = Progress(total=total, moved=total - len(left), detail=self._detail(left))
            if progress != told or now_s - told_s > TELL_PERIOD_S:
                told, told_s = progress, now_s
                yield progress
            await asyncio.sleep(LOOK_PERIOD_S)

    def _own_time_s(self, total: int) -> float:
        """What an engine needs that deletes one instance after the other, however fast they move."""
        return total * DELETE_S if self._node.kind is NodeKind.ENGINE_A else 0.0

    async def _start_moves(self, left: tuple[InstanceKey, ...], now_s: float) -> None:
        instances = [self._core.state.instances[key] for key in left]
        under_way = sum(1 for item in instances if item.successor or item.node_id != self._node.id)
        for instance in instances:
            is_waiting = instance.successor or instance.node_id != self._node.id or not instance.is_desired
            if is_waiting or self._next_try_s.get(instance.key, 0.0) > now_s or under_way >= self._max_parallel:
                continue
            under_way += 1
            self._next_try_s[instance.key] = now_s + RETRY_PERIOD_S
            try:
                await self._mover.move(instance, "", "operator")
                self._obstacles.pop(instance.key, None)
            except ClusterError as error:
                self._obstacles[instance.key] = error.detail
                under_way -= 1

    def _detail(self, left: tuple[InstanceKey, ...]) -> str:
        ahead = max((self._core.dispatcher.ahead_of(key) for key in left), default=0)
        if ahead:
            return f"{len(left)} left; {queued(ahead)}"
        obstacles = [text for key, text in self._obstacles.items() if key in left]
        if obstacles:
            return f"{len(left)} left; {len(obstacles)} cannot move now: {obstacles[0]}"
        return f"{len(left)} left"

    def _last(self, total: int, left: tuple[InstanceKey, ...], *, is_taken_back: bool) -> Progress:
        if is_taken_back:
            detail = f"the node was uncordoned, the drain ends; {len(left)} stay"
            return Progress(total=total, moved=total - len(left), detail=detail, is_done=True)
        if not left:
            return Progress(total=total, moved=total, detail="the node is empty and cordoned", is_done=True)
        detail = f"the deadline passed; {self._detail(left)}; the node stays cordoned"
        return Progress(total=total, moved=total - len(left), detail=detail, is_done=True)
