"""The MQTT session of the manager. paho's thread hands each message over once; everything else happens on the loop.

That thread also notes that a node was heard, before any queue: hearing waits neither for the loop nor for the store.
States are acknowledged to the broker only after they are saved. Echoes to ourselves, sent by a thread of their own,
tell up to when everything was received, and a working session from a dead one that still calls itself connected.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cluster.process import LOG
from cluster.topics import FROM_NODES, Channel, parse, subscription, topic
from manager.clock import CLOCK
from manager.domain.hearing import Hearing
from manager.mqtt.client import BufferedClient, Client, MQTTMessage
from manager.mqtt.inbox import Inbox, Incoming
from manager.ports import Clock

TOPICS_KEPT: Final = 100_000
SESSION_EXPIRY_S: Final = 86_400
RECEIVE_MAXIMUM: Final = 1_000
ECHO_PERIOD_S: Final = 0.5
WATCH_PERIOD_S: Final = 2.0
ECHO_LIMIT_S: Final = 10.0
KEEPALIVE_S: Final = 10
VERSION_PAUSE_S: Final = 1.0
UNSUPPORTED_VERSION: Final = (1, 132)
_MANUAL_ACK: Final = (Channel.STATE,)
# What is said once. Lists that pile up while we are away would push states out of the broker's bounded queue.
_KEPT_BY_BROKER: Final = (Channel.STATE, Channel.CONNECTION)


class Bridge:
    """One client with a persistent session; `on_ready` is told when messages wait in `inbox`, on the loop."""

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        counters: Counter[str],
        hearing: Hearing,
        clock: Clock = CLOCK,
    ) -> None:
        self._address = (host, port)
        self._client_id = client_id
        self._counters = counters
        self._mono_s = clock.mono_s
        self._loop = asyncio.get_running_loop()
        self._hearing = hearing
        self.inbox = Inbox(counters)
        self._is_woken = False
        self._topics: dict[str, tuple[str, Channel] | None] = {}
        self._told: set[str] = set()
        self._version = MQTTProtocolVersion.MQTTv5
        self._client = self._make_client()
        self._echo_topic = f"manager/{client_id}/echo"
        self._echo_word = secrets.token_hex(8).encode()
        self._connected_mono_s = 0.0
        self._has_echoed = False
        self._is_over = threading.Event()
        self.on_ready: Callable[[], None] = lambda: None
        self.is_connected = False
        self._has_connected = False
        self._is_renewing = False
        self._ending: asyncio.Task[None] | None = None
        self.failure = "not connected yet"

    # Lifetime

    async def run(self) -> None:
        """Stay connected until cancelled."""
        self._start()
        self._begin_echoes()
        try:
            while True:
                await asyncio.sleep(WATCH_PERIOD_S)
                await self._watch()
        finally:
            self._is_over.set()
            await self._end(self._client)

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
            properties = _properties(
                PacketTypes.CONNECT, SessionExpiryInterval=SESSION_EXPIRY_S, ReceiveMaximum=RECEIVE_MAXIMUM
            )
            options = {"clean_start": False, "properties": properties}
        self._client.connect_async(host, port, KEEPALIVE_S, **options)
        self._client.loop_start()

    def _begin_echoes(self) -> None:
        """On a thread of their own: whatever the loop is doing."""
        threading.Thread(target=self._echo_forever, name="mqtt-echo", daemon=True).start()

    def _echo_forever(self) -> None:
        while not self._is_over.wait(ECHO_PERIOD_S):
            self._echo()

    def _echo(self) -> None:
        if self.is_connected:
            self._client.publish(self._echo_topic, self._echo_payload(), qos=0)

    def _echo_payload(self) -> bytes:
        return b"%b %r" % (self._echo_word, self._mono_s())

    async def _end(self, client: Client) -> None:
        """Disconnect in order, and wait until paho's thread has ended."""
        await asyncio.to_thread(_end, client)

    async def _watch(self) -> None:
        """A session whose echoes stay away is torn down; paho then connects anew."""
        silent_s = self._mono_s() - max(self._hearing.as_of_s, self._connected_mono_s)
        if self.is_connected and silent_s > ECHO_LIMIT_S:
            self._counters["mqtt_stalled"] += 1
            LOG.error("mqtt session is stalled, connecting anew", silent_s=round(silent_s, 1))
            await self._renew()

    async def _renew(self, version: MQTTProtocolVersion | None = None) -> None:
        if self._is_renewing:
            return
        self._is_renewing = True
        self._hearing.deafen()
        ending = asyncio.create_task(self._end(self._client), name="mqtt-end")
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
        self._has_echoed = False
        self._connected_mono_s = self._mono_s()
        client.subscribe([*filters, (self._echo_topic, 0)])
        self._call(self._set_connected, True, "")

    def _on_disconnect(self, client: Client, _: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if client is self._client:
            self._hearing.deafen()
        self._call(self._lost, client, str(reason))

    def _on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        now = self._mono_s()
        known = self._parse(message.topic)
        if known is None or message.retain:
            client.ack(message.mid, message.qos)
            if message.topic == self._echo_topic:
                self._echoed(bytes(message.payload))
            else:
                self._pass_over("retained" if known else "foreign", message.topic)
            return
        topic_id, channel = known
        self._note(topic_id, channel, now)
        if channel not in _MANUAL_ACK:
            client.ack(message.mid, message.qos)
        self.inbox.put(Incoming(topic_id, channel, bytes(message.payload), now, message.mid, message.qos))
        if not self._is_woken:
            self._is_woken = True
            self._call(self._wake)

    def _echoed(self, payload: bytes) -> None:
        """Another process's clock, which a broker may have kept, or anybody's words must judge nobody."""
        word, _, sent_s = payload.partition(b" ")
        if word != self._echo_word:
            self._pass_over("foreign", self._echo_topic)
            return
        self._has_echoed = True
        self._hearing.echoed(float(sent_s))

    def _note(self, topic_id: str, channel: Channel, now: float) -> None:
        """A sign of life; not what the broker may have kept for us from whenever, which comes before the first echo."""
        if channel in (Channel.INFORMATION, Channel.RESOURCES) or (channel is Channel.STATE and self._has_echoed):
            self._hearing.heard(topic_id, now)

    def _pass_over(self, kind: str, name: str) -> None:
        """No node of ours has such a topic; and what a broker kept from whenever tells nothing of now."""
        self._counters[f"mqtt_{kind}"] += 1
        if kind not in self._told:
            self._told.add(kind)
            LOG.warning("mqtt message passed over, further ones of this kind are only counted", kind=kind, topic=name)

    def _parse(self, name: str) -> tuple[str, Channel] | None:
        """The parsed topic, remembered: nodes use the same few topics all their lives."""
        if name not in self._topics:
            if len(self._topics) > TOPICS_KEPT:
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
