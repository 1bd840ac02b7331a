"""The MQTT session of the manager. paho's thread hands each message over once; everything else happens on the loop.

States wait in an unbounded queue and are acknowledged to the broker only after they are saved; telemetry waits in a
bounded one that drops the oldest and counts. An echo to ourselves tells a working session from a dead one that still
calls itself connected.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cluster.process import LOG
from cluster.topics import FROM_NODES, Channel, parse, subscription, topic
from manager.mqtt.client import BufferedClient, Client, MQTTMessage

TELEMETRY_KEPT: Final = 100_000
SESSION_EXPIRY_S: Final = 86_400
ECHO_PERIOD_S: Final = 2.0
ECHO_LIMIT_S: Final = 10.0
KEEPALIVE_S: Final = 10
VERSION_PAUSE_S: Final = 1.0
UNSUPPORTED_VERSION: Final = (1, 132)
_MANUAL_ACK: Final = (Channel.STATE,)
# What is said once. Lists that pile up while we are away would push states out of the broker's bounded queue.
_KEPT_BY_BROKER: Final = (Channel.STATE, Channel.CONNECTION)


@dataclass(slots=True)
class Incoming:
    """A message from a node. `mono_s` is when it arrived; `mid` is what acknowledges it."""

    topic_id: str
    channel: Channel
    payload: bytes
    mono_s: float
    mid: int
    qos: int


class Bridge:
    """One client with a persistent session; `on_ready` is told when messages wait, on the loop."""

    def __init__(self, host: str, port: int, client_id: str, counters: Counter[str]) -> None:
        self._address = (host, port)
        self._client_id = client_id
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._telemetry: deque[Incoming] = deque(maxlen=TELEMETRY_KEPT)
        self._others: deque[Incoming] = deque()
        self._is_woken = False
        self._topics: dict[str, tuple[str, Channel] | None] = {}
        self._told: set[str] = set()
        self._version = MQTTProtocolVersion.MQTTv5
        self._client = self._make_client()
        self._echo_topic = f"manager/{client_id}/echo"
        self._echoed_mono_s = 0.0
        self.on_ready: Callable[[], None] = lambda: None
        self.on_connection: Callable[[bool], None] = lambda _is_connected: None
        self.is_connected = False
        self._has_connected = False
        self._is_renewing = False
        self._ending: asyncio.Task[None] | None = None
        self.failure = "not connected yet"

    # Lifetime

    async def run(self) -> None:
        """Stay connected until cancelled."""
        self._start()
        try:
            while True:
                await asyncio.sleep(ECHO_PERIOD_S)
                await self._watch()
        finally:
            await asyncio.to_thread(_end, self._client)

    def _make_client(self) -> Client:
        client = BufferedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=self._version,
            clean_session=None if self._version is MQTTProtocolVersion.MQTTv5 else False,
            manual_ack=True,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 2)
        client.max_queued_messages_set(0)
        return client

    def _start(self) -> None:
        host, port = self._address
        options: dict[str, Any] = {}
        if self._version is MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.CONNECT, SessionExpiryInterval=SESSION_EXPIRY_S)
            options = {"clean_start": False, "properties": properties}
        self._client.connect_async(host, port, KEEPALIVE_S, **options)
        self._client.loop_start()

    async def _watch(self) -> None:
        """Echo to ourselves; a session whose echo stays away is torn down, paho then connects anew."""
        now = time.monotonic()
        if self.is_connected and now - self._echoed_mono_s > ECHO_LIMIT_S:
            self._counters["mqtt_stalled"] += 1
            LOG.error("mqtt session is stalled, connecting anew", silent_s=round(now - self._echoed_mono_s, 1))
            await self._renew()
        elif self.is_connected:
            self._client.publish(self._echo_topic, b"", qos=0)

    async def _renew(self, version: MQTTProtocolVersion | None = None) -> None:
        if self._is_renewing:
            return
        self._is_renewing = True
        ending = asyncio.create_task(asyncio.to_thread(_end, self._client), name="mqtt-end")
        if self.is_connected:
            await ending
        else:  # nothing is lost with it, and it may have gone to sleep until its next attempt
            self._ending = ending
        self._set_connected(False, "connecting anew")
        self._version = version or self._version
        self._client = self._make_client()
        self._is_renewing = False
        self._start()

    # paho's thread

    def _on_connect(self, client: Client, _: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._call(self._refused, int(reason.value), str(reason))
            return
        filters = [(subscription(channel), 1 if channel in _KEPT_BY_BROKER else 0) for channel in FROM_NODES]
        client.subscribe([*filters, (self._echo_topic, 0)])
        self._echoed_mono_s = time.monotonic()
        self._call(self._set_connected, True, "")

    def _on_disconnect(self, client: Client, _: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._call(self._lost, client, str(reason))

    def _on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        now = time.monotonic()
        known = self._parse(message.topic)
        if known is None or message.retain:
            client.ack(message.mid, message.qos)
            if message.topic == self._echo_topic:
                self._echoed_mono_s = now
            else:
                self._pass_over("retained" if known else "foreign", message.topic)
            return
        incoming = Incoming(known[0], known[1], bytes(message.payload), now, message.mid, message.qos)
        if known[1] not in _MANUAL_ACK:
            client.ack(message.mid, message.qos)
        if known[1] is Channel.INFORMATION:
            if len(self._telemetry) == TELEMETRY_KEPT:
                self._counters["mqtt_telemetry_dropped"] += 1
            self._telemetry.append(incoming)
        else:
            self._others.append(incoming)
        if not self._is_woken:
            self._is_woken = True
            self._call(self._wake)

    def _pass_over(self, kind: str, name: str) -> None:
        """No node of ours has such a topic; and what a broker kept from whenever tells nothing of now."""
        self._counters[f"mqtt_{kind}"] += 1
        if kind not in self._told:
            self._told.add(kind)
            LOG.warning("mqtt message passed over, further ones of this kind are only counted", kind=kind, topic=name)

    def _parse(self, name: str) -> tuple[str, Channel] | None:
        """The parsed topic, remembered: nodes use the same few topics all their lives."""
        if name not in self._topics:
            if len(self._topics) > TELEMETRY_KEPT:
                self._topics.clear()
            self._topics[name] = parse(name)
        return self._topics[name]

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # The loop

    def _wake(self) -> None:
        self._is_woken = False
        self.on_ready()

    def _refused(self, code: int, text: str) -> None:
        self.failure = text
        if code in UNSUPPORTED_VERSION and self._version is MQTTProtocolVersion.MQTTv5:
            LOG.info("broker has no MQTT 5, using 3.1.1")
            self._loop.create_task(self._renew(MQTTProtocolVersion.MQTTv311), name="mqtt-renew")

    def _lost(self, client: Client, failure: str) -> None:
        if client is not self._client or self._is_renewing:
            return
        self._set_connected(False, failure)
        if not self._has_connected:
            self._loop.create_task(self._speak_otherwise(), name="mqtt-renew")

    async def _speak_otherwise(self) -> None:
        """A broker that hangs up without an answer may know one version of the protocol only: try the other."""
        if self._version is MQTTProtocolVersion.MQTTv5:
            await self._renew(MQTTProtocolVersion.MQTTv311)
        else:
            await asyncio.sleep(VERSION_PAUSE_S)
            if not self._has_connected:
                await self._renew(MQTTProtocolVersion.MQTTv5)

    def _set_connected(self, is_connected: bool, failure: str) -> None:
        self._has_connected |= is_connected
        if is_connected != self.is_connected:
            host, port = self._address
            if is_connected:
                LOG.info("mqtt connected", broker=f"{host}:{port}", protocol=self._version.name)
            else:
                LOG.warning("mqtt disconnected", broker=f"{host}:{port}", reason=failure)
        self.is_connected, self.failure = is_connected, failure
        self.on_connection(is_connected)

    def take(self, limit: int) -> tuple[list[Incoming], list[Incoming]]:
        """Up to `limit` telemetry messages and up to `limit` others, in order of arrival."""
        telemetry = [self._telemetry.popleft() for _ in range(min(limit, len(self._telemetry)))]
        others = [self._others.popleft() for _ in range(min(limit, len(self._others)))]
        return telemetry, others

    @property
    def has_waiting(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._telemetry or self._others)

    def acknowledge(self, incoming: Incoming) -> None:
        """Tell the broker that a state is saved."""
        if incoming.channel in _MANUAL_ACK:
            self._client.ack(incoming.mid, incoming.qos)

    def publish(self, topic_id: str, channel: Channel, payload: bytes, *, qos: int = 1, expiry_s: int = 0) -> bool:
        """Hand a message to the client; False while there is no session. The broker forgets it after `expiry_s`."""
        if not self.is_connected:
            return False
        properties = None
        if expiry_s and self._version is MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s)
        self._client.publish(topic(topic_id, channel), payload, qos=qos, properties=properties)
        return True


def _end(client: Client) -> None:
    client.disconnect()
    client.loop_stop()


def _properties(packet: int, **values: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
