"""Leases to nodes that hold `stop_after` instances: they depend on what was heard, and on nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.jobs import OnDisconnect
from cluster.topics import Channel
from manager.domain.model import InstanceKey, NodeState
from manager.mqtt import leases
from manager.mqtt.leases import acknowledge_leases
from testbed.live_core import LiveCore, live_core
from testbed.waiting import wait_until_async

LEASE_S = 10.0


@pytest.fixture(name="live")
async def _live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveCore]:
    monkeypatch.setattr(leases, "PERIOD_S", 0.005)
    async with live_core(tmp_path) as live:
        for number, rule in enumerate((OnDisconnect.STOP_AFTER, OnDisconnect.REPLACE)):
            node = await live.add(f"n{number}")
            await live.run(node.id, number, on_disconnect=rule)
            live.core.state.live[node.id].beat = f"b{number}"
        sending = asyncio.create_task(acknowledge_leases(live.core, live.broker, LEASE_S))
        yield live
        sending.cancel()


async def _leases(live: LiveCore) -> list[str]:
    """Who gets one within some periods."""
    live.broker.published.clear()
    await asyncio.sleep(0.05)
    return sorted(set(live.told(Channel.LEASE)))


async def test_who_holds_such_an_instance_gets_its_newest_beat_back(live: LiveCore) -> None:
    """Nobody else does, and nobody when it is gone."""
    [node] = [node for node in live.core.state.nodes.values() if node.name == "n0"]
    await wait_until_async(lambda: live.told(Channel.LEASE))
    assert await _leases(live) == [node.topic_id]
    assert {body for _, _, body in live.broker.published} == {b'{"beat":"b0"}'}
    await live.stop(InstanceKey("web", 0))
    assert await _leases(live) == []


async def test_leases_go_on_while_the_store_is_away(live: LiveCore) -> None:
    """A workload on a healthy node does not stop because we cannot save."""
    live.store.fault = "locked"
    live.core.put_setting("x", "y")
    await wait_until_async(lambda: live.core.writer.failure)
    assert len(await _leases(live)) == 1
    live.store.fault = ""
    await live.core.writer.working.wait()


async def test_a_node_that_is_not_heard_gets_none(live: LiveCore) -> None:
    """So that its own count runs out, whatever it is called here."""
    live.clock.pass_time(LEASE_S - 0.1)
    assert len(await _leases(live)) == 1
    live.clock.pass_time(0.2)
    assert await _leases(live) == []


async def test_a_suspect_that_is_heard_gets_one(live: LiveCore) -> None:
    """A doubt, as after a last will, is no judgement; one that is DOWN was given up."""
    node = live.core.state.get_node("n0")
    live.core.state.doubt(node.id, "its connection broke")
    assert len(await _leases(live)) == 1
    live.core.state.set_node_state(node.id, NodeState.DOWN, "it is lost", 1)
    assert await _leases(live) == []
