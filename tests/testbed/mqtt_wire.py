"""MQTT 3.1.1 packets as bytes, for programs that speak for more nodes than a client library could."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from testbed.cluster import HOST

PUBLISH: Final = 0x30
_CONNECT: Final = 0x10
_PUBACK: Final = 0x40
_SUBSCRIBE: Final = 0x82
_CLEAN_SESSION: Final = 0x02
GOODBYE: Final = b"\xe0\x00"


@dataclass(frozen=True)
class Published:
    """A message that arrived; `packet_id` 0: it needs no answer."""

    topic: str
    payload: bytes
    packet_id: int


class PacketStream:
    """Cuts what a connection delivers into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The packets that are complete now: first byte and body."""
        buffer, position = self._rest + data, 0
        while (found := _next_packet(buffer, position)) is not None:
            kind, body, position = found
            yield kind, body
        self._rest = buffer[position:]


def connected(port: int, client_id: str, keepalive_s: int = 0) -> socket.socket:
    """A connection that the broker has admitted. Raises ConnectionError."""
    link = socket.create_connection((HOST, port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = _text("MQTT") + bytes([4, _CLEAN_SESSION]) + struct.pack("!H", keepalive_s)
    link.sendall(_packet(_CONNECT, head + _text(client_id)))
    if link.recv(4)[-1:] != b"\x00":
        raise ConnectionError(f"the broker refused {client_id}")
    return link


def publication(topic: str, payload: bytes, packet_id: int = 0) -> bytes:
    """A PUBLISH; with a `packet_id` (1..65535) it is one of QoS 1."""
    mark = struct.pack("!H", packet_id) if packet_id else b""
    return _packet(PUBLISH | (2 if packet_id else 0), _text(topic) + mark + payload)


def subscription(*filters: tuple[str, int]) -> bytes:
    """A SUBSCRIBE to filters, each with its QoS."""
    return _packet(_SUBSCRIBE, b"\x00\x01" + b"".join(_text(name) + bytes([qos]) for name, qos in filters))


def acknowledgement(packet_id: int) -> bytes:
    """A PUBACK."""
    return _packet(_PUBACK, struct.pack("!H", packet_id))


def published(kind: int, body: bytes) -> Published | None:
    """The message in a packet; None where it is no PUBLISH."""
    if kind & 0xF0 != PUBLISH:
        return None
    end = 2 + int.from_bytes(body[:2])
    topic = body[2:end].decode()
    if not kind & 0x06:
        return Published(topic, body[end:], 0)
    return Published(topic, body[end + 2 :], int.from_bytes(body[end : end + 2]))


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (128 if length else 0))
        if not length:
            return bytes([kind]) + bytes(encoded) + body


def _next_packet(buffer: bytes, start: int) -> tuple[int, bytes, int] | None:
    length = shift = 0
    for position in range(start + 1, min(start + 5, len(buffer))):
        length |= (buffer[position] & 0x7F) << shift
        shift += 7
        if not buffer[position] & 0x80:
            end = position + 1 + length
            return (buffer[start], buffer[position + 1 : end], end) if end <= len(buffer) else None
    return None


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!H", len(encoded)) + encoded
