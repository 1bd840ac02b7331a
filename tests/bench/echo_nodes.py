"""Nodes in a process of their own that note when each command arrives and answer RUNNING, as quick workers would."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson
import paho.mqtt.client as mqtt
from bench.flood import CONTEXT, PAYLOAD
from paho.mqtt.enums import CallbackAPIVersion

from testbed.cluster import HOST

_BEAT_S: Final = 1.0
Arrivals = dict[tuple[str, int], float]


class EchoNodes:
    """`node_ids` on one MQTT connection; times are of the monotonic clock, which all processes share."""

    def __init__(self, port: int, node_ids: Sequence[str]) -> None:
        self.count = CONTEXT.Value("Q", 0, lock=False)
        self._ready, self._ended = CONTEXT.Event(), CONTEXT.Event()
        self._arrivals: Any
        self._arrivals, child = CONTEXT.Pipe(duplex=False)
        arguments = (port, list(node_ids), self.count, self._ready, self._ended, child)
        self._process = CONTEXT.Process(target=_serve, args=arguments, daemon=True, name="echo nodes")

    def start(self) -> None:
        """Start and wait until they are subscribed."""
        self._process.start()
        if not self._ready.wait(30):
            raise TimeoutError("the nodes did not subscribe")

    def stop(self) -> Arrivals:
        """End them; answers when the first deploy of each instance arrived."""
        self._ended.set()
        arrivals: Arrivals = self._arrivals.recv()
        self._process.join()
        return arrivals


def _serve(port: int, node_ids: list[str], count: Any, ready: Any, ended: Any, result: Any) -> None:
    arrivals: Arrivals = {}

    def on_message(client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        now = time.monotonic()
        body = orjson.loads(message.payload)
        job = body["job"]
        if body["command"] == "deploy" and arrivals.setdefault((job["id"], job["instance_number"]), now) == now:
            count.value += 1
        status = "STOPPED" if body["command"] == "delete" else "RUNNING"
        client.publish(message.topic.replace("controls", "job"), _state(job, status), qos=1)

    def send_at_once(_client: mqtt.Client, _data: Any, link: Any) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_connect(client: mqtt.Client, *_facts: Any) -> None:
        client.subscribe("nodes/+/controls", qos=1)

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="echo-nodes", protocol=mqtt.MQTTv311)
    client.max_inflight_messages_set(1000)
    client.on_message = on_message
    client.on_connect = on_connect
    client.on_socket_open = send_at_once
    client.on_subscribe = lambda *_: ready.set()
    client.connect(HOST, port)
    beats = threading.Thread(target=_beat, args=(client, node_ids, ended), daemon=True)
    beats.start()
    client.loop_start()
    ended.wait()
    beats.join()
    client.disconnect()
    client.loop_stop()
    result.send(arrivals)


def _state(job: dict[str, Any], status: str) -> bytes:
    return orjson.dumps(
        {
            "sname": job["name"],
            "status": status,
            "status_detail": "",
            "instance": job["instance_number"],
            "publicip": HOST,
            "job_id": job["id"],
            "generation": job["generation"],
        }
    )


def _beat(client: mqtt.Client, node_ids: list[str], ended: Any) -> None:
    while True:
        for node_id in node_ids:
            client.publish(f"nodes/{node_id}/information", PAYLOAD)
        if ended.wait(_BEAT_S):
            return
