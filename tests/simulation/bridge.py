"""The manager's real session code on a simulated client: paho's face, without its threads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from paho.mqtt.properties import Properties

from manager.domain.hearing import Hearing
from manager.mqtt.bridge import ECHO_PERIOD_S, KEEPALIVE_S, Bridge
from manager.mqtt.client import Client
from manager.ports import Clock
from simulation.broker import Publication, SimBroker
from simulation.client import SimClient, doubling
from simulation.network import Link


@dataclass(frozen=True, slots=True)
class Message:
    """What paho hands to `on_message`."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    retain: bool = False


@dataclass(frozen=True)
class Reason:
    """What paho hands to `on_connect` and `on_disconnect`."""

    text: str = "Success"
    value: int = 0
    is_failure: bool = False

    def __str__(self) -> str:
        return self.text


class PahoClient:
    """As much of paho's client as the manager uses."""

    def __init__(self, broker: SimBroker, link: Link, client_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = SimClient(
            broker,
            link,
            client_id,
            pauses=lambda: doubling(1.0, 2.0),
            keepalive_s=KEEPALIVE_S,
            is_local=True,
        )
        self.on_connect: Callable[..., None] = lambda *_: None
        self.on_disconnect: Callable[..., None] = lambda *_: None
        self.on_message: Callable[..., None] = lambda *_: None
        self._client.on_connect = lambda: self.on_connect(self, None, None, Reason(), None)
        self._client.on_disconnect = lambda: self.on_disconnect(self, None, None, Reason("gone", 128), None)
        self._client.on_message = self._received

    def connect_async(self, host: str, port: int, keepalive: int, **options: Any) -> None:
        """The address is known here."""

    def loop_start(self) -> None:
        """Connect, and stay connected."""
        self._client.start()

    def loop_stop(self) -> None:
        """The thread ends."""
        self._client.stop()

    def disconnect(self) -> None:
        """End in order."""
        self._client.stop()

    def kill(self) -> None:
        """The process is gone."""
        self._client.kill()

    def subscribe(self, filters: list[tuple[str, int]]) -> None:
        """Ask for topics."""
        self._client.subscribe(*filters)

    def ack(self, mid: int, qos: int) -> None:
        """A message is safe."""
        if qos:
            self._client.acknowledge(mid)

    def publish(self, topic: str, payload: bytes | str, qos: int, properties: Properties | None = None) -> None:
        """Send."""
        data = payload.encode() if isinstance(payload, str) else payload
        expiry_s = properties.MessageExpiryInterval if properties is not None else float("inf")
        self._client.publish(topic, data, qos, self._loop.time() + expiry_s)

    def _received(self, publication: Publication) -> None:
        message = Message(publication.topic, publication.payload, publication.mid, publication.qos)
        self.on_message(self, None, message)


class SimBridge(Bridge):
    """The real bridge; `on_arrival` is told of each message from a node as it comes out of the manager's socket."""

    def __init__(
        self, broker: SimBroker, link: Link, client_id: str, counters: Counter[str], hearing: Hearing, clock: Clock
    ) -> None:
        self._broker, self._link = broker, link
        self.on_arrival: Callable[[str], None] = lambda _topic: None
        self.on_echo: Callable[[float], None] = lambda _sent_s: None
        super().__init__("broker", 1883, client_id, counters, hearing, clock)

    def kill(self) -> None:
        """The process is gone."""
        cast("PahoClient", self._client).kill()

    def _make_client(self) -> Client:
        client = PahoClient(self._broker, self._link, self._client_id)
        client.on_connect, client.on_disconnect, client.on_message = (
            self._on_connect,
            self._on_disconnect,
            self._on_arrival,
        )
        return cast("Client", client)

    def _on_arrival(self, client: Any, data: Any, message: Any) -> None:
        if message.topic == self._echo_topic:
            self.on_echo(float(message.payload.split()[-1]))
        else:
            self.on_arrival(message.topic)
        self._on_message(client, data, message)

    def _begin_echoes(self) -> None:
        self._echoes = asyncio.get_running_loop().create_task(self._echo_in_turn(), name="mqtt-echo")

    async def _echo_in_turn(self) -> None:
        while not self._is_over.is_set():
            await asyncio.sleep(ECHO_PERIOD_S)
            self._echo()

    async def _end(self, client: Client) -> None:
        client.disconnect()
