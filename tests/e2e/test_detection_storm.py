"""500 nodes whose connections all break and come back within ten seconds."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from testbed.cluster import HOST, Cluster, cluster
from testbed.operating import deploy, replicate
from testbed.swarm import Swarm
from testbed.waiting import wait_until_async

NODES = 500
INSTANCES = 1000
AWAY_S = 10.0
SETTLE_S = 60.0
STORED = "$SYS/broker/store/messages/count"


class Backlog:
    """How many messages the broker holds, as it says itself every second."""

    def __init__(self, port: int) -> None:
        self.counts: list[int] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="backlog")
        self._client.on_connect = lambda client, *_: client.subscribe(STORED)
        self._client.on_message = lambda _client, _data, message: self.counts.append(int(message.payload))
        self._client.connect(HOST, port)
        self._client.loop_start()

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def made() -> Iterator[Cluster]:
    """A cluster under the default lease whose broker tells its backlog each second."""
    with cluster(broker_configuration="sys_interval 1\n") as ready:
        yield ready


def states(made: Cluster) -> Counter[str]:
    """How many nodes are in each state."""
    return Counter(node["state"] for node in made.http.get("/api/nodes?page_size=1000")["nodes"])


def running(made: Cluster) -> int:
    """How many instances the cluster calls RUNNING."""
    return sum(1 for item in made.http.instances() if item["state"] == "RUNNING")


async def settled(made: Cluster, timeout: float) -> float:
    """Wait until every node is READY and every instance RUNNING; how long it took."""
    began = time.monotonic()

    async def is_settled() -> bool:
        if await asyncio.to_thread(states, made) != {"READY": NODES}:
            return False
        return await asyncio.to_thread(running, made) == INSTANCES

    await wait_until_async(is_settled, timeout, 0.5, "all are READY and RUNNING")
    return time.monotonic() - began


@pytest.mark.real("mosquitto")
@pytest.mark.timeout(600)
async def test_healthy_workloads_are_not_restarted_by_a_reconnect_storm(made: Cluster) -> None:
    """All is as it was within a minute: no instance was started again or stopped, and the broker's queue is empty."""
    swarm = Swarm(made, NODES)
    await asyncio.to_thread(swarm.register)
    backlog = Backlog(made.ports["broker"])
    beating = asyncio.create_task(swarm.beat(), name="beat")
    try:
        for member in swarm.members:
            swarm.connect(member)
        await asyncio.to_thread(deploy, made, "web")
        assert (await asyncio.to_thread(replicate, made, "web", INSTANCES)).status == 200
        await settled(made, 120.0)
        starts = {member.name: dict(member.starts) for member in swarm.members}
        assert sum(sum(counts.values()) for counts in starts.values()) == INSTANCES
        calm = max(backlog.counts[-3:])

        returns = sorted((random.uniform(0.5, AWAY_S), number) for number in range(NODES))
        for member in swarm.members:
            member.drop()
        began = time.monotonic()
        for at_s, number in returns:
            await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
            swarm.connect(swarm.members[number])
        took_s = await settled(made, SETTLE_S)
        await asyncio.sleep(2.0)  # what was decided in the storm has arrived by now

        assert "node is down" not in made.parts["manager"].output()
        print(f"settled {took_s:.1f} s after the last return; backlog {calm} calm, {max(backlog.counts)} at most")
        assert {member.name: dict(member.starts) for member in swarm.members} == starts
        assert sum(sum(member.stops.values()) for member in swarm.members) == 0
        assert len(set(swarm.held())) == len(list(swarm.held())) == INSTANCES
        await wait_until_async(lambda: backlog.counts[-1] <= calm + NODES // 10, what="the broker's queue is empty")
        assert max(backlog.counts) <= calm + 10 * NODES
    finally:
        beating.cancel()
        await asyncio.to_thread(backlog.close)
        await swarm.close()
