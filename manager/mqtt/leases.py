"""Leases to nodes that hold instances with `on_disconnect: stop_after`: the echo of their newest heartbeat."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import orjson

from cluster.jobs import OnDisconnect
from cluster.topics import Channel
from manager.core import Core
from manager.domain.model import NodeState
from manager.mqtt.bridge import Bridge

PERIOD_S: Final = 2.0


async def acknowledge_leases(core: Core, bridge: Bridge, lease_s: float) -> None:
    """Send leases until cancelled. A node that is not heard gets none, so that its own count runs out."""
    while True:
        await asyncio.sleep(PERIOD_S)
        for node_id in _holders(core):
            node, live = core.state.nodes[node_id], core.state.live[node_id]
            silence_s = time.monotonic() - (live.heartbeat_mono_s or 0.0)
            if live.beat and node.state is NodeState.READY and silence_s < lease_s:
                bridge.publish(node.topic_id, Channel.LEASE, orjson.dumps({"beat": live.beat}), qos=0)


def _holders(core: Core) -> set[str]:
    return {
        placement.node_id
        for instance in core.state.instances.values()
        if instance.spec.on_disconnect is OnDisconnect.STOP_AFTER
        for _, placement in instance.placements()
        if placement.node_id in core.state.nodes
    }
