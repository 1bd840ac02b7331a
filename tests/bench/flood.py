"""A publisher of telemetry over raw MQTT 3.1.1 sockets, and the bare paho client to compare with; each in a process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from testbed.cluster import HOST
from testbed.mqtt_wire import GOODBYE, connected, publication

PAYLOAD: Final = b'{"cpu": 12.5, "memory": 40.0, "memory_free_in_MB": 2048}'
CONTEXT: Final = multiprocessing.get_context("spawn")
_CHUNK: Final = 50
_KEEPALIVE_S: Final = 60


def publish(port: int, node_ids: Sequence[str], count: int, per_s: float, publishers: int) -> float:
    """Send `count` messages at `per_s` (0: as fast as the broker takes them); answers the seconds that it took."""
    share = count // publishers
    start = CONTEXT.Barrier(publishers + 1)
    processes = [
        CONTEXT.Process(target=_publish, args=(port, list(node_ids), share, per_s / publishers, start), daemon=True)
        for _ in range(publishers)
    ]
    for process in processes:
        process.start()
    start.wait()
    began = time.monotonic()
    for process in processes:
        process.join()
    return time.monotonic() - began


def _publish(port: int, node_ids: list[str], count: int, per_s: float, start: Any) -> None:
    packets = [publication(f"nodes/{node_id}/information", PAYLOAD) for node_id in node_ids]
    with connected(port, f"flood-{time.monotonic_ns()}", _KEEPALIVE_S) as connection:
        start.wait()
        began = time.monotonic()
        for sent in range(0, count, _CHUNK):
            numbers = range(sent, min(sent + _CHUNK, count))
            connection.sendall(b"".join(packets[number % len(packets)] for number in numbers))
            ahead_s = began + numbers.stop / per_s - time.monotonic() if per_s else 0.0
            if ahead_s > 0:
                time.sleep(ahead_s)
        connection.sendall(GOODBYE)
        while connection.recv(1024):
            pass


class BareClient:
    """A paho client in a process of its own that only counts; what any consumer in Python could take at best."""

    def __init__(self, port: int) -> None:
        self._received = CONTEXT.Value("Q", 0, lock=False)
        self._subscribed = CONTEXT.Event()
        self._process = CONTEXT.Process(
            target=_count, args=(port, self._received, self._subscribed), daemon=True, name="bare client"
        )

    @property
    def received(self) -> int:
        """How many messages came so far."""
        return int(self._received.value)

    def start(self) -> None:
        """Start and wait until it is subscribed."""
        self._process.start()
        if not self._subscribed.wait(30):
            raise TimeoutError("the bare client did not subscribe")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _count(port: int, received: Any, subscribed: Any) -> None:
    def on_message(_client: Any, _data: Any, _message: Any) -> None:
        received.value += 1

    def on_connect(client: mqtt.Client, *_facts: Any) -> None:
        client.subscribe("nodes/+/information")

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=mqtt.MQTTv311)
    client.on_message = on_message
    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(HOST, port)
    client.loop_forever()
