"""The real scheduler in the manager's process: its servicer without sockets, its view fed by the manager's stream."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cluster.errors import UnavailableError
from cluster.v1 import scheduler_pb2
from manager.core import Core
from manager.domain.model import Refusal
from manager.planner import Request, Result, plan_request
from manager.rpc.reading import Reader
from manager.rpc.watch import watch_nodes
from scheduler.ledger import Ledger
from scheduler.node_view import NodeView
from scheduler.plan import Planner
from scheduler.scorers import least_allocated
from scheduler.servicer import SchedulerServicer


class NearScheduler:
    """Plans as the real one does. `batches` has what each call asked for; while `failure` is set it does not answer.

    What it answers is held back while `answering` is clear, and what the manager tells of nodes while `hearing` is.
    """

    def __init__(self, core: Core) -> None:
        ledger = Ledger()
        self._core = core
        self._view = NodeView(ledger, clock=core.clock.mono_s)
        planner = Planner(ledger, least_allocated)
        self._servicer = SchedulerServicer(planner, self._view, clock=core.clock.mono_s)
        self.failure = ""
        self.is_idle = True
        self.batches: list[list[Request]] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.hearing = asyncio.Event()
        self.hearing.set()

    async def watch(self) -> None:
        """Follow the manager's nodes until cancelled."""
        self._view.begin()
        async for message in watch_nodes(self._core, Reader(self._core)):
            await self.hearing.wait()
            self._view.apply(message)

    async def plan(self, requests: Sequence[Request], peers: dict[str, dict[str, int]], sequence: int) -> list[Result]:
        """Part of the port."""
        self.batches.append(list(requests))
        if self.failure:
            raise UnavailableError(self.failure)
        message = plan_request(requests, peers, sequence)
        message.view_sequence = self._core.room_sequence
        sent = scheduler_pb2.PlanRequest.FromString(message.SerializeToString())
        self.is_idle = False
        response = await self._servicer.Plan(sent, None)  # type: ignore[arg-type]
        await self.answering.wait()
        self.is_idle = True
        return [
            Result(
                node_id=item.node_id,
                refusals=tuple(
                    Refusal(reason=found.reason, node_count=found.node_count, detail=found.detail)
                    for found in item.refusals
                ),
                cause=item.cause,
                is_behind=response.is_behind,
            )
            for item in response.results
        ]


@asynccontextmanager
async def near_scheduler(core: Core) -> AsyncIterator[NearScheduler]:
    """One that has seen the nodes."""
    scheduler = NearScheduler(core)
    watching = asyncio.create_task(scheduler.watch(), name="watch")
    await asyncio.sleep(0)
    try:
        yield scheduler
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
