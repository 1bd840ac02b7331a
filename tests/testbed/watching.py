"""Watching a cluster by its events: whatever happens is seen, however slow the machine that watches is."""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cluster.v1 import event_pb2, manager_pb2
from testbed.cluster import HOST, Cluster
from testbed.operating import manager_api, manager_channel
from testbed.waiting import wait_until

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Message:
    """What somebody published to or for a node."""

    topic_id: str
    channel: str
    body: dict[str, Any]


@dataclass
class Wire:
    """Every message of every node, in the order in which the broker took them."""

    messages: list[Message] = field(default_factory=list)

    def of(self, job_id: str) -> list[Message]:
        """The commands and the states of a job's instances."""
        return [item for item in list(self.messages) if job_id in (item.body.get("job_id"), _commanded(item))]


def _commanded(message: Message) -> str:
    return str(message.body["job"].get("id", "")) if message.channel == "controls" else ""


@contextlib.contextmanager
def wire(cluster: Cluster) -> Iterator[Wire]:
    """What goes over the broker during the block."""
    heard = Wire()

    def on_message(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        _, topic_id, channel = message.topic.split("/", 2)
        heard.messages.append(Message(topic_id, channel, json.loads(message.payload)))

    is_subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="wire")
    client.on_connect = lambda *_: client.subscribe([(f"nodes/+/{channel}", 1) for channel in ("job", "controls")])
    client.on_subscribe = lambda *_: is_subscribed.set()
    client.on_message = on_message
    client.connect(HOST, cluster.ports["broker"])
    client.loop_start()
    try:
        wait_until(is_subscribed.is_set, what="the wire is watched")
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


def homes_after_each(home: str, messages: Iterable[Message]) -> list[set[str]]:
    """Where an instance that runs on `home` runs after each state that was reported, as the nodes' topic ids."""
    homes = [{home}]
    for message in messages:
        if message.channel == "job":
            change = set.union if message.body["status"] == "RUNNING" else set.difference
            homes.append(change(homes[-1], {message.topic_id}))
    return homes


@contextlib.contextmanager
def history(cluster: Cluster, job_id: str) -> Iterator[list[event_pb2.Event]]:
    """The events of a job during the block, as the manager streams them."""
    found: list[event_pb2.Event] = []
    with manager_channel(cluster) as channel:
        api = manager_api(channel)
        newest = api.ListEvents(manager_pb2.ListEventsRequest(page_size=1), timeout=20.0).events
        request = manager_pb2.WatchEventsRequest(job_id=job_id, after_id=newest[0].id)
        stream = api.WatchEvents(request)

        def follow() -> None:
            with contextlib.suppress(grpc.RpcError):  # it ends by being cancelled
                for response in stream:
                    found.extend(response.events)

        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield found
        finally:
            stream.cancel()
            follower.join()


class Ending:
    """The end of a process that is no child of ours, told by the kernel; `at_s` on the clock since boot, 0.0 before."""

    def __init__(self, pid: int) -> None:
        self.at_s = 0.0
        self._process = os.pidfd_open(pid)
        self._thread = threading.Thread(target=self._wait, name=f"end of {pid}", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        select.select([self._process], [], [])
        self.at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.close(self._process)


def started_at_s(pid: int) -> float:
    """When a process was started, on the clock since boot."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(after_name[19]) / _TICKS_PER_S
