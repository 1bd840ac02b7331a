"""`python -m scheduler`: plans placements for the manager."""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from grpc_health.v1 import health
from prometheus_client import start_http_server

from cluster.process import LOG, configure_logging, graceful, run, warn_if_exposed
from cluster.rpc import channel, serving, set_serving
from cluster.v1 import manager_pb2_grpc, scheduler_pb2_grpc
from scheduler.ledger import Ledger
from scheduler.node_view import NodeView
from scheduler.plan import Planner
from scheduler.scorers import SCORERS
from scheduler.servicer import SERVICE, SchedulerServicer
from scheduler.settings import SchedulerSettings

_HEALTH_PERIOD_S = 0.2


def main() -> None:
    """Read the settings and serve until a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m scheduler",
        description="Plans placements for the manager. Settings come from the environment or `.env`: BIND, "
        "SCHEDULER_PORT, SCHEDULER_METRICS_PORT (0: off), MANAGER_ADDRESS, SCHEDULER_SCORER (least_allocated or pack), "
        "LOG_LEVEL.",
    )
    parser.add_argument("--bind", metavar="ADDRESS", help="listen there; beyond loopback peers are not authenticated")
    bind: str | None = parser.parse_args().bind
    settings = SchedulerSettings()
    if bind:
        settings = settings.model_copy(update={"bind": bind})
    configure_logging("scheduler", settings.log_level)
    warn_if_exposed(settings.bind, ["plans", "metrics"])
    try:
        run(functools.partial(serve, settings))
    except OSError as error:
        LOG.error("cannot start", why=str(error))
        sys.exit(1)


async def serve(settings: SchedulerSettings) -> None:
    """Follow the manager's nodes and answer plans until a signal. Raises OSError where a port is taken."""
    ledger = Ledger()
    view = NodeView(ledger)
    servicer = SchedulerServicer(Planner(ledger, SCORERS[settings.scheduler_scorer]), view)
    add = functools.partial(scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, servicer)
    address = f"{settings.bind}:{settings.scheduler_port}"
    with _metrics(settings):
        async with (
            channel(settings.manager_address) as manager,
            serving(address, {SERVICE: add}) as healths,
            graceful() as tasks,
        ):
            LOG.info("serving", address=address, manager=settings.manager_address)
            stub: manager_pb2_grpc.ManagerServiceAsyncStub = manager_pb2_grpc.ManagerServiceStub(manager)
            tasks.create_task(view.run(stub), name="node view")
            tasks.create_task(_announce(view, healths), name="health")


async def _announce(view: NodeView, healths: health.aio.HealthServicer) -> None:
    was_ready = False
    while True:
        if view.is_ready != was_ready:
            was_ready = not was_ready
            await set_serving(healths, SERVICE, was_ready)
        await asyncio.sleep(_HEALTH_PERIOD_S)


@contextmanager
def _metrics(settings: SchedulerSettings) -> Iterator[None]:
    if not settings.scheduler_metrics_port:
        yield
        return
    server, thread = start_http_server(settings.scheduler_metrics_port, settings.bind)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    main()
