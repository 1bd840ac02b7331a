"""The worker's MQTT session. paho's thread only hands over to the loop; nothing blocks, nothing is decided there.

MQTT 5 first; a broker that refuses it, or hangs up before answering, is spoken to in 3.1.1, and again in 5 if that
fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cluster.imports import without
from cluster.topics import Channel, parse, topic

with without("dns"):  # for brokers found by SRV records: 130 ms and 5 MB
    from paho.mqtt import client as paho

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
KEEPALIVE_S: Final = 10
SESSION_EXPIRY_S: Final = 86_400
STOP_TIMEOUT_S: Final = 2.0
FAREWELL_S: Final = 1.0
ONLINE: Final = b'{"online":true}'
OFFLINE: Final = b'{"online":false}'
_READ: Final = (Channel.CONTROLS, Channel.LEASE, Channel.CONTROL_ERROR)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the broker is and who we are to it."""

    host: str
    port: int
    node_id: str


@dataclass(frozen=True, kw_only=True)
class Handlers:
    """What the session tells, always in the loop's thread. `acknowledge` tells the broker that a message is safe."""

    connected: Callable[[], None]
    message: Callable[[Channel, bytes, Callable[[], None]], None]
    published: Callable[[int], None]


class Session:
    """A persistent session that reconnects by itself until `stop`."""

    def __init__(self, address: Address, handlers: Handlers) -> None:
        self.address = address
        self.is_connected = False
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._has_connected = False
        self._is_stopped = False
        self._is_over = False
        self._is_told = False
        self._client = self._begin()

    def publish(self, channel: Channel, payload: bytes, *, qos: int = 0) -> int | None:
        """Send; answers the message's id, None where it was not taken."""
        if not self.is_connected:
            return None
        info = self._client.publish(topic(self.address.node_id, channel), payload, qos=qos)
        is_taken = info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS or qos > 0
        return info.mid if is_taken else None

    async def stop(self, farewell: bytes = b"") -> None:
        """End the session's connection in order, after `farewell`; the broker keeps the session.

        Nothing is told any more from then on: what was not acknowledged by now counts as never sent.
        """
        if farewell and self.is_connected:
            info = self._client.publish(topic(self.address.node_id, Channel.CONNECTION), farewell, qos=1)
            with contextlib.suppress(RuntimeError, ValueError):
                await asyncio.to_thread(info.wait_for_publish, FAREWELL_S)
        self._is_stopped = True
        await asyncio.to_thread(_end(self._client).join, STOP_TIMEOUT_S)
        self._is_over = True
        self.is_connected = False

    def _begin(self) -> paho.Client:
        is_5 = self._protocol is MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{self.address.node_id}-worker",
            clean_session=None if is_5 else False,
            protocol=self._protocol,
            manual_ack=True,
        )
        client.will_set(topic(self.address.node_id, Channel.CONNECTION), OFFLINE, qos=1)
        client.reconnect_delay_set(min_delay=1, max_delay=random.randint(5, 15))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = _send_at_once
        if is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            client.connect_async(
                self.address.host, self.address.port, KEEPALIVE_S, clean_start=False, properties=properties
            )
        else:
            client.connect_async(self.address.host, self.address.port, KEEPALIVE_S)
        client.loop_start()
        return client

    # -- paho's thread ----------------------------------------------------------------------------------------------

    def _hand_over(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is ending
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._is_stopped:
            client.disconnect()
            return
        if reason.is_failure:
            self._hand_over(self._failed, client, str(reason), True)
            return
        client.subscribe([(topic(self.address.node_id, channel), 1) for channel in _READ])
        client.publish(topic(self.address.node_id, Channel.CONNECTION), ONLINE, qos=1)
        self._hand_over(self._connected, client)

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._hand_over(self._failed, client, str(reason), True)

    def _on_connect_fail(self, client: paho.Client, _data: Any) -> None:
        self._hand_over(self._failed, client, "no connection", False)

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._hand_over(self._received, client, message)

    def _on_publish(self, client: paho.Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        self._hand_over(self._published, client, mid)

    # -- the loop's thread ------------------------------------------------------------------------------------------

    def _is_stale(self, client: paho.Client) -> bool:
        """Whether this comes from a client that was given up: its message ids are another's by now."""
        return self._is_over or client is not self._client

    def _connected(self, client: paho.Client) -> None:
        if self._is_stale(client):
            return
        self.is_connected = self._has_connected = True
        self._is_told = False
        LOG.info("broker connected", host=self.address.host, port=self.address.port, mqtt=int(self._protocol))
        self._handlers.connected()

    def _failed(self, client: paho.Client, why: str, has_answered: bool) -> None:
        if self._is_stale(client):
            return
        self.is_connected = False
        if not self._is_told:
            LOG.warning("broker not connected", host=self.address.host, port=self.address.port, why=why)
        self._is_told = True
        if has_answered and not self._has_connected and not self._is_stopped:
            self._speak_otherwise(client)

    def _speak_otherwise(self, refused: paho.Client) -> None:
        is_5 = self._protocol is MQTTProtocolVersion.MQTTv5
        self._protocol = MQTTProtocolVersion.MQTTv311 if is_5 else MQTTProtocolVersion.MQTTv5
        _end(refused)
        self._client = self._begin()

    def _received(self, client: paho.Client, message: paho.MQTTMessage) -> None:
        """What comes too late to be taken is not acknowledged: the broker delivers it again."""
        if self._is_stale(client):
            return
        parsed = parse(message.topic)

        def acknowledge() -> None:
            with contextlib.suppress(OSError, ValueError):  # where the client has ended, the broker delivers it again
                client.ack(message.mid, message.qos)

        if parsed is None:
            acknowledge()
        else:
            self._handlers.message(parsed[1], bytes(message.payload), acknowledge)

    def _published(self, client: paho.Client, mid: int) -> None:
        if not self._is_stale(client):
            self._handlers.published(mid)


def _end(client: paho.Client) -> threading.Thread:
    """Disconnect and end paho's thread, which may sleep for a while before it looks: nobody has to wait for it."""
    client.disconnect()
    ending = threading.Thread(target=client.loop_stop, name="mqtt-end", daemon=True)
    ending.start()
    return ending


def _send_at_once(_client: paho.Client, _data: Any, connection: Any) -> None:
    """Else a state waits up to 40 ms for the broker to acknowledge the packet before it (Nagle's algorithm)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
