"""Leases to nodes that hold instances with `on_disconnect: stop_after`: the echo of their newest heartbeat.

They depend on what was heard alone: not on the store, nor on anybody's judgement.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson

from cluster.topics import Channel
from manager.core import Core
from manager.domain.model import NodeState
from manager.mqtt.broker import Broker

PERIOD_S: Final = 2.0
AT_ONCE: Final = 500


async def acknowledge_leases(core: Core, broker: Broker, lease_s: float) -> None:
    """Send leases until cancelled. A node that is not heard gets none, so that its own count runs out."""
    while True:
        await asyncio.sleep(PERIOD_S)
        node_ids = list(core.state.leased)
        for start in range(0, len(node_ids), AT_ONCE):
            for node_id in node_ids[start : start + AT_ONCE]:
                _acknowledge(core, broker, node_id, lease_s)
            await asyncio.sleep(0)


def _acknowledge(core: Core, broker: Broker, node_id: str, lease_s: float) -> None:
    node, live = core.state.nodes.get(node_id), core.state.live.get(node_id)
    if node is None or live is None or not live.beat or node.state is NodeState.DOWN:
        return
    heard_s = core.last_heard_s(node)
    if heard_s is not None and core.clock.mono_s() - heard_s < lease_s:
        broker.publish(node.topic_id, Channel.LEASE, orjson.dumps({"beat": live.beat}), qos=0)
