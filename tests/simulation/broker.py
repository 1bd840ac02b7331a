"""A broker of MQTT 5: sessions that are kept or not, wills, expiry, QoS 0 and 1, and queues for whoever is away.

One that `forgets` (the embedded broker) keeps nothing for those who are away and knows nobody after a restart.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from cluster.topics import parse
from simulation.network import Link, Pipe, Quality

WILL_AT_TAKEOVER = 0.5
PATIENCE = 1.5  # of the keepalive


@dataclass(frozen=True, slots=True)
class Publication:
    """A message; `mid` belongs to the connection that it travels on, `expires_s` is when a queue drops it."""

    topic: str
    payload: bytes
    qos: int
    mid: int = 0
    expires_s: float = float("inf")


@dataclass(frozen=True)
class Subscription:
    """Filters and the QoS of each."""

    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Acknowledgement:
    """A message of QoS 1 arrived."""

    mid: int


@dataclass(frozen=True)
class Goodbye:
    """An orderly end."""


Packet = Publication | Subscription | Acknowledgement | Goodbye


class Peer(Protocol):
    """The client's end of a connection."""

    client_id: str
    is_clean: bool
    keepalive_s: float
    will: Publication | None

    def take(self, packet: Packet) -> None:
        """Something arrived."""

    def broken(self, connection: Connection) -> None:
        """The connection was closed by the other end."""


@dataclass(eq=False)
class Session:
    """What the broker knows of a client. `waiting` are messages for it, `in_flight` those that it has not confirmed."""

    client_id: str
    is_clean: bool
    connection: Connection | None = None
    filters: dict[str, int] = field(default_factory=dict)
    waiting: deque[Publication] = field(default_factory=deque)
    in_flight: dict[int, Publication] = field(default_factory=dict)
    last_mid: int = 0


class Connection:
    """A TCP connection. Each end notices by itself that the other is gone: `is_known` to the broker, `has_client`."""

    def __init__(self, broker: SimBroker, peer: Peer, link: Link, *, is_local: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self.broker, self.peer, self.link = broker, peer, link
        self.is_known = self.has_client = True
        self.up = Pipe(link, self._arrived, is_instant=is_local)
        self.down = Pipe(link, peer.take, is_instant=is_local)
        link.users[self] = None

    def on_cut(self) -> None:
        """The broker gives up after one and a half keepalives, the client after one to two."""
        epoch, keepalive_s = self.link.epoch, self.peer.keepalive_s

        def give_up(tell: Callable[[Connection], None]) -> None:
            if self.link.is_cut and self.link.epoch == epoch:
                tell(self)

        self._loop.call_later(keepalive_s * PATIENCE, give_up, self.broker.lost)
        self._loop.call_later(keepalive_s * self.link.rng.uniform(1.0, 2.0), give_up, self.peer.broken)

    def on_mend(self, pause_s: float) -> None:
        """Whoever still believes in it learns that the other end is gone."""
        if not self.has_client:
            self._loop.call_later(pause_s, self.broker.lost, self)
        elif not self.is_known:
            self._loop.call_later(pause_s, self.peer.broken, self)

    def leave_client(self) -> None:
        """The client has no connection any more."""
        self.has_client = False
        self._close()

    def leave_broker(self) -> None:
        """The broker knows nothing of it any more."""
        self.is_known = False
        self._close()

    def _close(self) -> None:
        self.up.close()
        self.down.close()
        if not self.is_known and not self.has_client:
            self.link.users.pop(self, None)

    def _arrived(self, packet: Packet) -> None:
        if self.is_known:
            self.broker.take(self, packet)


class SimBroker:
    """`heard` is told of each message that reaches the broker, `wills` counts those that it published."""

    def __init__(self, rng: random.Random, quality: Quality, *, forgets: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._rng = rng
        self._quality = quality
        self._sessions: dict[str, Session] = {}
        self._routes: dict[str, list[tuple[Session, int]]] = {}
        self._connections: dict[Connection, Session] = {}
        self.forgets = forgets
        self.is_up = True
        self.on_will: Callable[[str], None] = lambda _topic: None

    # Connections

    def accept(self, peer: Peer, link: Link, *, is_local: bool = False) -> Connection:
        """A client connects: whoever had its name is thrown out, and what waited for it follows."""
        session = self._sessions.get(peer.client_id)
        if session is not None and session.connection is not None:
            self._take_over(session)
        if session is None or peer.is_clean:
            session = self._sessions[peer.client_id] = Session(peer.client_id, peer.is_clean)
            self._routes.clear()
        connection = session.connection = Connection(self, peer, link, is_local=is_local)
        self._connections[connection] = session
        return connection

    def resume(self, connection: Connection) -> None:
        """Send what the client has not confirmed, then what came while it was away."""
        session = self._connections[connection]
        for publication in list(session.in_flight.values()):
            connection.down.send(publication)
        waiting, session.waiting = session.waiting, deque()
        now_s = self._loop.time()
        for publication in waiting:
            if publication.expires_s > now_s:
                self._send(session, publication)

    def _take_over(self, session: Session) -> None:
        old = session.connection
        assert old is not None
        self._drop(old)
        if old.peer.will and self._rng.random() < WILL_AT_TAKEOVER:
            self._publish_will(old.peer.will)
        self._loop.call_soon(old.peer.broken, old)

    def lost(self, connection: Connection) -> None:
        """A client is gone without a goodbye; it may not know."""
        if connection not in self._connections:
            return
        self._drop(connection)
        if connection.peer.will:
            self._publish_will(connection.peer.will)

    def _publish_will(self, will: Publication) -> None:
        self.on_will(will.topic)
        self.publish(will)

    def _drop(self, connection: Connection) -> None:
        session = self._connections.pop(connection)
        session.connection = None
        connection.leave_broker()
        if session.is_clean and self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
            self._routes.clear()

    # Messages

    def take(self, connection: Connection, packet: Packet) -> None:
        """Something arrived from a client."""
        session = self._connections[connection]
        match packet:
            case Publication():
                if packet.qos:
                    connection.down.send(Acknowledgement(packet.mid))
                elif self._rng.random() < self._quality.loss:
                    return
                self.publish(packet)
            case Acknowledgement(mid):
                session.in_flight.pop(mid, None)
            case Subscription(filters):
                session.filters.update(filters)
                self._routes.clear()
            case Goodbye():
                self._drop(connection)

    def publish(self, publication: Publication) -> None:
        """Hand a message to all who want it."""
        for session, most in self._route(publication.topic):
            qos = min(publication.qos, most)
            if session.connection is not None:
                self._send(session, replace(publication, qos=qos) if qos != publication.qos else publication)
            elif qos and not session.is_clean and not self.forgets:
                session.waiting.append(publication)

    def _send(self, session: Session, publication: Publication) -> None:
        assert session.connection is not None
        if not publication.qos:
            session.connection.down.send(publication)
            return
        copies = 2 if self._rng.random() < self._quality.duplication else 1
        session.last_mid += 1
        numbered = replace(publication, mid=session.last_mid)
        session.in_flight[numbered.mid] = numbered
        for _ in range(copies):
            session.connection.down.send(numbered)

    def _route(self, topic: str) -> list[tuple[Session, int]]:
        if topic not in self._routes:
            found = [(session, _most(session.filters, topic)) for session in self._sessions.values()]
            self._routes[topic] = [(session, qos) for session, qos in found if qos is not None]
        return self._routes[topic]  # type: ignore[return-value]

    # Faults

    def crash(self) -> None:
        """Every connection breaks; no will is published by a broker that is gone."""
        self.is_up = False
        for connection in list(self._connections):
            peer, link = connection.peer, connection.link
            self._connections.pop(connection).connection = None
            connection.leave_broker()
            if not link.is_cut:
                self._loop.call_later(self._rng.random() * 0.2, peer.broken, connection)
        kept = {} if self.forgets else {name: item for name, item in self._sessions.items() if not item.is_clean}
        self._sessions = kept
        self._routes.clear()

    def restart(self) -> None:
        """It takes connections again."""
        self.is_up = True


def _most(filters: dict[str, int], topic: str) -> int | None:
    if topic in filters:
        return filters[topic]
    parsed = parse(topic)
    return filters.get(f"nodes/+/{parsed[1].value}") if parsed else None
