"""What the manager's process is made of, and how its parts know each other: one place, for `__main__` and for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from cluster.process import warn_if_exposed
from cluster.v1 import manager_pb2
from manager.core import Core
from manager.detector import Detector
from manager.domain.hearing import Hearing
from manager.figures import Gauge
from manager.jobs import Jobs
from manager.mqtt.bridge import Bridge
from manager.mqtt.commander import MqttCommander
from manager.mqtt.images import Images
from manager.mqtt.intake import Intake
from manager.mqtt.leases import acknowledge_leases
from manager.nodes import Nodes
from manager.planner import Planner
from manager.planning import Planning
from manager.reconciler import Reconciler
from manager.root.link import RootLink
from manager.root.network import NetworkPlugin
from manager.root.relay import Relay
from manager.root.settings import RootSettings
from manager.roots import ROOT, Roots
from manager.rpc.servicer import ManagerServicer
from manager.settings import ManagerSettings
from manager.store.factory import make_store
from manager.tombstones import Tombstones

MakeBridge = Callable[[str, Counter[str], Hearing], Bridge]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts; `settings` are what they were made with."""

    settings: ManagerSettings
    core: Core
    bridge: Bridge
    planner: Planner
    intake: Intake
    detector: Detector
    planning: Planning
    reconciler: Reconciler
    gauge: Gauge
    roots: Roots
    servicer: ManagerServicer
    link: RootLink
    relay: Relay | None
    network: NetworkPlugin | None
    images: Images

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run for as long as the process, by name; the writer, which goes on to the last, aside."""
        return {
            "bridge": self.bridge.run(),
            "telemetry": self.intake.take_telemetry_forever(),
            "states": self.intake.take_others_forever(),
            "follow-ups": self.core.follow_forever(),
            "planning": self.planning.run(),
            "losses": self.detector.run(),
            "tick": self.reconciler.run(),
            "tombstones": Tombstones(self.core).run(),
            "leases": acknowledge_leases(self.core, self.bridge, self.settings.lease_s),
        }


def make_core(settings: ManagerSettings) -> Core:
    """The core, on the store that the settings name."""
    return Core(make_store(settings.store_url), settings.policy(), settings.lease_rules())


def build(
    settings: ManagerSettings, core: Core, scheduler: grpc.aio.Channel, make_bridge: MakeBridge | None = None
) -> Parts:
    """All parts around a core that is open, each made known to whom it serves."""
    planner = Planner(scheduler, lambda: core.room_sequence)
    jobs, detector = Jobs(core), Detector(core)
    reconciler = Reconciler(core, detector, jobs)
    client_id = settings.mqtt_client_id or f"manager-{core.cluster_id}"
    bridge = (make_bridge or _bridge_to(settings))(client_id, core.counters, core.hearing)
    intake = Intake(core, bridge, detector)
    bridge.on_ready = intake.wake
    core.dispatcher.heard_until_s = intake.heard_until_s
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
    return Parts(
        settings=settings,
        core=core,
        bridge=bridge,
        planner=planner,
        intake=intake,
        detector=detector,
        planning=Planning(core, planner),
        reconciler=reconciler,
        gauge=Gauge(core),
        roots=roots,
        servicer=servicer,
        link=RootLink(core, roots, RootSettings),
        relay=_relay(settings.bind, core),
        network=network,
        images=commander.images,
    )


def _bridge_to(settings: ManagerSettings) -> MakeBridge:
    host, port = settings.mqtt_broker_host, settings.mqtt_broker_port
    return lambda client_id, counters, hearing: Bridge(host, port, client_id, counters, hearing)


def _relay(bind: str, core: Core) -> Relay | None:
    """For the calls of a root, where there is one and the gateway has another address than this process."""
    root = RootSettings()
    if root.is_stand_alone or root.root_callback_relay is None:
        return None
    warn_if_exposed(bind, ["the gateway's HTTP, to the root"])
    return Relay(bind, root.gateway_port, root.root_callback_relay, core.counters)


def _statuses(core: Core, bridge: Bridge, planner: Planner, roots: Roots) -> list[manager_pb2.PartStatus]:
    failures = {"store": core.writer.failure, "broker": bridge.failure, "scheduler": planner.failure}
    parts = [
        manager_pb2.PartStatus(name=name, is_ready=not failure, detail=failure) for name, failure in failures.items()
    ]
    if not roots.is_stand_alone:
        parts.append(manager_pb2.PartStatus(name=ROOT, is_ready=roots.is_attached, detail=roots.words))
    return parts
