"""`python -m manager`: the cluster manager as a process."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from typing import Final

from grpc_health.v1.health import aio as health_aio
from pydantic import ValidationError

from cluster.process import LOG, configure_logging, graceful, run, warn_if_exposed
from cluster.rpc import channel, serving, set_serving
from manager.metrics import serve_metrics
from manager.parts import Parts, build, make_core
from manager.planner import Planner
from manager.ports import StoreError
from manager.root.figures import show
from manager.rpc.servicer import SERVICE, add
from manager.settings import ManagerSettings

HEALTH_PERIOD_S: Final = 0.2
PLANNER_CHECK_PERIOD_S: Final = 1.0
CLUSTER_ID: Final = "cluster_id"


async def _keep_health(parts: Parts, healths: health_aio.HealthServicer) -> None:
    """SERVING while calls can be answered durably; the broker and the scheduler may be away meanwhile."""
    while True:
        await set_serving(healths, SERVICE, not parts.core.writer.failure)
        await asyncio.sleep(HEALTH_PERIOD_S)


async def _keep_checking(planner: Planner) -> None:
    while True:
        await planner.check()
        await asyncio.sleep(PLANNER_CHECK_PERIOD_S if not planner.failure else HEALTH_PERIOD_S)


async def serve(settings: ManagerSettings) -> None:
    """Run until a signal comes."""
    warn_if_exposed(settings.bind, ["gRPC", "metrics"])
    core = make_core(settings)
    await core.open()
    writing = asyncio.create_task(core.writer.run(), name="writer")
    try:
        if CLUSTER_ID not in core.settings:
            await core.put_setting(CLUSTER_ID, secrets.token_hex(12))
        async with channel(settings.scheduler_address) as scheduler:
            parts = build(settings, core, scheduler)
            show(parts.roots)
            await _serve(settings, parts, writing)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _watch(writing: asyncio.Task[None]) -> None:
    """Without its writer a manager could answer nothing: whatever ends it ends the process, and is logged."""
    await asyncio.shield(writing)


async def _serve(settings: ManagerSettings, parts: Parts, writing: asyncio.Task[None]) -> None:
    address = f"{settings.bind}:{settings.manager_port}"
    services = {SERVICE: add(parts.servicer)}
    async with serving(address, services, saved_only=parts.core.why_saved_only) as healths, graceful() as tasks:
        serve_metrics(settings.bind, settings.manager_metrics_port, parts.core, parts.gauge)
        tasks.create_task(_watch(writing), name="writer-watch")
        for name, work in parts.work().items():
            tasks.create_task(work, name=name)
        tasks.create_task(parts.images.run(), name="images")
        tasks.create_task(parts.gauge.run(), name="gauge")
        tasks.create_task(_keep_health(parts, healths), name="health")
        tasks.create_task(_keep_checking(parts.planner), name="planner-check")
        tasks.create_task(parts.link.run(), name="root")
        if parts.relay is not None:
            tasks.create_task(parts.relay.run(), name="root-relay")
        if parts.network is not None:
            tasks.create_task(parts.network.run(), name="network-plugin")
        LOG.info("listening", address=address, store=settings.store_url.split("@")[-1])


def main() -> None:
    """Parse the command line, read the settings and serve."""
    parser = argparse.ArgumentParser(prog="python -m manager", description=ManagerSettings.__doc__)
    parser.add_argument("--bind", help="address to listen on (BIND; 127.0.0.1)")
    parser.add_argument("--port", type=int, help="gRPC port (MANAGER_PORT; 10101)")
    arguments = parser.parse_args()
    given = {"bind": arguments.bind, "manager_port": arguments.port}
    settings = ManagerSettings(**{name: value for name, value in given.items() if value is not None})
    configure_logging("manager", settings.log_level)
    try:
        run(lambda: serve(settings))
    except (StoreError, OSError, ValidationError) as error:
        LOG.error("cannot start", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
