"""The manager's session with a real broker that keeps few messages, as mosquitto does out of the box."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cluster.topics import Channel, topic
from manager.domain.hearing import Hearing
from manager.mqtt.bridge import Bridge
from manager.mqtt.inbox import LISTS_KEPT
from testbed.mosquitto import Mosquitto

pytestmark = pytest.mark.real("mosquitto")

NODE = "65f1a2b3c4d5e6f7a8b9c0dc"
KEPT = 100


@pytest.fixture(name="broker")
def _broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path, extra_configuration=f"max_queued_messages {KEPT}\n").start()
    yield broker
    broker.stop()


@contextlib.asynccontextmanager
async def _session(broker: Mosquitto) -> AsyncIterator[Bridge]:
    bridge = Bridge(broker.host, broker.port, "manager-1", Counter(), Hearing(time.monotonic()))
    running = asyncio.create_task(bridge.run())
    async with asyncio.timeout(10):
        while not bridge.is_connected:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    yield bridge
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _speak(broker: Mosquitto, list_count: int) -> None:
    """An engine sends its lists and then, at last, an end; all at QoS 1, as engines do."""
    engine = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{NODE}-ne")
    engine.connect(broker.host, broker.port)
    engine.loop_start()
    for _ in range(list_count):
        engine.publish(topic(NODE, Channel.RESOURCES), b'{"services": []}', qos=1)
    engine.publish(topic(NODE, Channel.STATE), b'{"sname": "web", "status": "COMPLETED"}', qos=1).wait_for_publish(10)
    engine.disconnect()
    engine.loop_stop()


async def test_lists_of_an_absence_push_no_state_out_of_the_broker(broker: Mosquitto) -> None:
    """While the manager is away the broker keeps what was said once, not what is said again every two seconds."""
    async with _session(broker):
        pass
    await asyncio.to_thread(_speak, broker, 3 * KEPT)
    async with _session(broker) as bridge, asyncio.timeout(10):
        while not bridge.inbox.has_others:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert [message.channel for message in bridge.inbox.take_others(1000)] == [Channel.STATE]


async def test_lists_arrive_while_the_manager_listens(broker: Mosquitto) -> None:
    """Every list, or newer ones in its place, and the state behind them, in order."""
    async with _session(broker) as bridge, asyncio.timeout(10):
        await asyncio.to_thread(_speak, broker, KEPT)
        heard: list[Channel] = []
        while Channel.STATE not in heard:
            heard += [message.channel for message in bridge.inbox.take_others(1000)]
            await asyncio.sleep(0.02)
        superseded = bridge.inbox._counters["mqtt_lists_superseded"]
        assert heard == [Channel.RESOURCES] * (KEPT - superseded) + [Channel.STATE]
        assert len(heard) > LISTS_KEPT
