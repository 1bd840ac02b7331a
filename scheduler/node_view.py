"""Keeps the ledger as the manager's WatchNodes stream tells it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

import grpc

from cluster.process import LOG
from cluster.v1 import manager_pb2, manager_pb2_grpc
from scheduler import metrics
from scheduler.columns import NodeFacts
from scheduler.convert import node_facts
from scheduler.ledger import Ledger

BROKEN_AFTER_S: Final = 5.0
REACH_S: Final = 1.0
_FIRST_DELAY_S: Final = 0.1
_LAST_DELAY_S: Final = 2.0


class _Snapshot:
    """The chunks of a snapshot that is not complete yet; `mark` says which promises are older than it."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.nodes: dict[str, tuple[NodeFacts, int]] = {}

    def take(self, chunk: manager_pb2.WatchNodesResponse) -> None:
        """Add a chunk."""
        for node in chunk.nodes:
            self.nodes[node.id] = (node_facts(node), node.plan_sequence)
        for node_id in chunk.removed_node_ids:
            self.nodes.pop(node_id, None)


class NodeView:
    """Applies snapshots as a whole and deltas one by one; goes on with its last view while the stream is broken."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._rng = rng or random.Random()
        self._snapshot: _Snapshot | None = None
        self._broken_since_s = 0.0
        self._is_current = False
        self._advanced = asyncio.Event()
        self.has_snapshot = False
        self.sequence = 0

    @property
    def is_ready(self) -> bool:
        """A first snapshot is complete, and the stream has not been broken for longer than BROKEN_AFTER_S."""
        if not self.has_snapshot:
            return False
        return self._is_current or self._clock() - self._broken_since_s <= BROKEN_AFTER_S

    def begin(self) -> None:
        """A stream starts: what comes first is a snapshot."""
        self._snapshot = _Snapshot(self._ledger.mark())

    def apply(self, response: manager_pb2.WatchNodesResponse) -> None:
        """Take a message of the stream."""
        if response.is_snapshot_start:
            self.begin()
        if self._snapshot is None:
            self._apply_delta(response)
        else:
            self._snapshot.take(response)
            if response.is_snapshot_end:
                self._complete(self._snapshot)
        if response.view_sequence:
            self.sequence = response.view_sequence
            self._advanced.set()
        metrics.NODES.set(len(self._ledger.columns))
        metrics.ASSUMPTIONS.set(self._ledger.open_count)

    def broke(self) -> None:
        """The stream ended."""
        self._snapshot = None
        if self._is_current:
            self._is_current = False
            self._broken_since_s = self._clock()
            self._advanced.set()

    async def reach(self, sequence: int) -> bool:
        """Wait until a change of nodes has arrived, REACH_S at most, not while the stream is broken; whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REACH_S):
                while self._is_current and self.sequence < sequence:
                    self._advanced.clear()
                    await self._advanced.wait()
        return self.sequence >= sequence

    async def run(self, manager: manager_pb2_grpc.ManagerServiceAsyncStub) -> None:
        """Follow the manager for ever, reconnecting with back-off and jitter."""
        delay_s, is_logged = _FIRST_DELAY_S, False
        while True:
            try:
                await self._follow(manager)
                why = "the manager ended it"
            except grpc.aio.AioRpcError as error:
                why = f"{error.code().name}: {error.details()}"
            if self._is_current:
                delay_s, is_logged = _FIRST_DELAY_S, False
            self.broke()
            if not is_logged:
                LOG.warning("node stream broken", why=why)
                is_logged = True
            await asyncio.sleep(delay_s * self._rng.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, _LAST_DELAY_S)

    async def _follow(self, manager: manager_pb2_grpc.ManagerServiceAsyncStub) -> None:
        self.begin()
        async for response in manager.WatchNodes(manager_pb2.WatchNodesRequest(watcher="scheduler")):
            self.apply(response)

    def _apply_delta(self, response: manager_pb2.WatchNodesResponse) -> None:
        for node in response.nodes:
            self._ledger.upsert(node_facts(node), node.plan_sequence)
        for node_id in response.removed_node_ids:
            self._ledger.remove(node_id)

    def _complete(self, snapshot: _Snapshot) -> None:
        self._ledger.replace(snapshot.nodes.values(), snapshot.mark)
        self._snapshot = None
        self.has_snapshot = self._is_current = True
        LOG.info("node snapshot complete", nodes=len(snapshot.nodes))
