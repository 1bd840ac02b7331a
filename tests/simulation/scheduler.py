"""The scheduler's process: the real servicer, planner, ledger and view, fed by the manager's stream of nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from cluster.v1 import manager_pb2_grpc, scheduler_pb2_grpc
from scheduler.ledger import Ledger
from scheduler.node_view import NodeView
from scheduler.plan import Planner
from scheduler.scorers import SCORERS
from scheduler.servicer import SchedulerServicer
from simulation.loop import Process
from simulation.story import Story
from simulation.wire import Server, SimChannel


class SimScheduler:
    """`stream.is_cut` lets it plan on an old view."""

    def __init__(self, find_manager: Callable[[], Server | None], rng: random.Random, story: Story) -> None:
        self._loop = asyncio.get_running_loop()
        self._rng, self._story = rng, story
        self.stream = SimChannel(find_manager, rng)
        self.server: Server | None = None

    @property
    def is_up(self) -> bool:
        """Whether the process lives."""
        return self.server is not None

    def boot(self) -> None:
        """Start a process."""
        self._story.tell("scheduler starts")
        process = Process(self._loop, "scheduler")
        ledger = Ledger()
        view = NodeView(ledger, self._loop.time, self._rng)
        scorer = SCORERS["least_allocated"]
        self.server = Server(process)
        server, channel = self.server, self.stream
        servicer = SchedulerServicer(Planner(ledger, scorer), view, self._loop.time)
        any_server: Any = server
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, any_server)
        any_channel: Any = channel
        process.keep(view.run(manager_pb2_grpc.ManagerServiceStub(any_channel)), "node view")

    def kill(self) -> None:
        """`kill -9`."""
        if self.server is not None:
            self.server.process.kill()
            self.server = None
