"""`python -m manager`: the cluster manager as a process."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from dataclasses import dataclass
from typing import Final

import grpc
from grpc_health.v1.health import aio as health_aio
from pydantic import ValidationError

from cluster.process import LOG, configure_logging, graceful, run, warn_if_exposed
from cluster.rpc import channel, serving, set_serving
from cluster.v1 import manager_pb2
from manager.core import Core
from manager.detector import Detector
from manager.figures import Gauge
from manager.jobs import Jobs
from manager.metrics import serve_metrics
from manager.mqtt.bridge import Bridge
from manager.mqtt.commander import MqttCommander
from manager.mqtt.images import Images
from manager.mqtt.intake import Intake
from manager.mqtt.leases import acknowledge_leases
from manager.nodes import Nodes
from manager.planner import Planner
from manager.planning import Planning
from manager.ports import StoreError
from manager.reconciler import Reconciler
from manager.root.figures import show
from manager.root.link import RootLink
from manager.root.network import NetworkPlugin
from manager.root.relay import Relay
from manager.root.settings import RootSettings
from manager.roots import ROOT, Roots
from manager.rpc.servicer import SERVICE, ManagerServicer, add
from manager.settings import ManagerSettings
from manager.store.factory import make_store
from manager.tombstones import Tombstones

HEALTH_PERIOD_S: Final = 0.2
PLANNER_CHECK_PERIOD_S: Final = 1.0
CLUSTER_ID: Final = "cluster_id"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the process is made of."""

    core: Core
    bridge: Bridge
    planner: Planner
    intake: Intake
    detector: Detector
    planning: Planning
    reconciler: Reconciler
    gauge: Gauge
    servicer: ManagerServicer
    link: RootLink
    relay: Relay | None
    network: NetworkPlugin | None
    images: Images


def _statuses(core: Core, bridge: Bridge, planner: Planner, roots: Roots) -> list[manager_pb2.PartStatus]:
    failures = {"store": core.writer.failure, "broker": bridge.failure, "scheduler": planner.failure}
    parts = [
        manager_pb2.PartStatus(name=name, is_ready=not failure, detail=failure) for name, failure in failures.items()
    ]
    if not roots.is_stand_alone:
        parts.append(manager_pb2.PartStatus(name=ROOT, is_ready=roots.is_attached, detail=roots.words))
    return parts


def _build(settings: ManagerSettings, core: Core, scheduler: grpc.aio.Channel) -> Parts:
    planner = Planner(scheduler, lambda: core.room_sequence)
    jobs, detector = Jobs(core), Detector(core)
    reconciler = Reconciler(core, detector, jobs)
    client_id = settings.mqtt_client_id or f"manager-{core.cluster_id}"
    bridge = Bridge(settings.mqtt_broker_host, settings.mqtt_broker_port, client_id, core.counters, core.hearing)
    intake = Intake(core, bridge, detector)
    bridge.on_ready = intake.wake
    commander, address = MqttCommander(bridge, core), RootSettings().network_plugin_address
    network = NetworkPlugin(core, commander, address) if address else None
    core.dispatcher.commander = network or commander
    core.dispatcher.on_sent = reconciler.command_sent
    nodes = Nodes(core, settings.mqtt_advertised_port or settings.mqtt_broker_port)
    roots = Roots(core)
    servicer = ManagerServicer(
        core,
        nodes,
        planner,
        jobs,
        detector,
        settings.cluster_name,
        lambda: _statuses(core, bridge, planner, roots),
        roots,
    )
    show(roots)
    return Parts(
        core=core,
        bridge=bridge,
        planner=planner,
        intake=intake,
        detector=detector,
        planning=Planning(core, planner),
        reconciler=reconciler,
        gauge=Gauge(core),
        servicer=servicer,
        link=RootLink(core, roots, RootSettings),
        relay=_relay(settings.bind, core),
        network=network,
        images=commander.images,
    )


def _relay(bind: str, core: Core) -> Relay | None:
    """For the calls of a root, where there is one and the gateway has another address than this process."""
    root = RootSettings()
    if root.is_stand_alone or root.root_callback_relay is None:
        return None
    warn_if_exposed(bind, ["the gateway's HTTP, to the root"])
    return Relay(bind, root.gateway_port, root.root_callback_relay, core.counters)


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
    core = Core(make_store(settings.store_url), settings.policy(), settings.lease_rules())
    await core.open()
    writing = asyncio.create_task(core.writer.run(), name="writer")
    try:
        if CLUSTER_ID not in core.settings:
            await core.put_setting(CLUSTER_ID, secrets.token_hex(12))
        async with channel(settings.scheduler_address) as scheduler:
            await _serve(settings, _build(settings, core, scheduler), writing)
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
        tasks.create_task(parts.bridge.run(), name="bridge")
        tasks.create_task(parts.intake.take_telemetry_forever(), name="telemetry")
        tasks.create_task(parts.intake.take_others_forever(), name="states")
        tasks.create_task(parts.images.run(), name="images")
        tasks.create_task(parts.core.follow_forever(), name="follow-ups")
        tasks.create_task(parts.planning.run(), name="planning")
        tasks.create_task(parts.detector.run(), name="losses")
        tasks.create_task(parts.reconciler.run(), name="tick")
        tasks.create_task(parts.gauge.run(), name="gauge")
        tasks.create_task(Tombstones(parts.core).run(), name="tombstones")
        tasks.create_task(acknowledge_leases(parts.core, parts.bridge, settings.lease_s), name="leases")
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
