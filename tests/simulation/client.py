"""A client of the simulated broker: connects, gives up, waits and tries again, each kind with its own pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

from simulation.broker import (
    PATIENCE,
    Acknowledgement,
    Connection,
    Goodbye,
    Packet,
    Publication,
    SimBroker,
    Subscription,
)
from simulation.network import Link

HANDSHAKE_S = 0.05


def doubling(first_s: float, longest_s: float) -> Iterator[float]:
    """Pauses that double up to a limit."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, longest_s)


class SimClient:
    """`pauses` are what it waits between attempts; an attempt into a cut link takes `timeout_s`.

    What was published with QoS 1 is kept, and sent again after a reconnect, until the broker has it.
    """

    def __init__(
        self,
        broker: SimBroker,
        link: Link,
        client_id: str,
        *,
        pauses: Callable[[], Iterator[float]],
        keepalive_s: float = 10.0,
        timeout_s: float = 5.0,
        is_clean: bool = False,
        is_local: bool = False,
        will: Publication | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._broker, self._link, self._is_local = broker, link, is_local
        self._new_pauses, self._pauses = pauses, pauses()
        self._timeout_s = timeout_s
        self._last_mid = 0
        self._attempt: asyncio.TimerHandle | None = None
        self.client_id, self.is_clean, self.keepalive_s, self.will = client_id, is_clean, keepalive_s, will
        self.connection: Connection | None = None
        self.unacknowledged: dict[int, Publication] = {}
        self.is_ended = False
        self.connected_s = 0.0
        self.on_connect: Callable[[], None] = lambda: None
        self.on_disconnect: Callable[[], None] = lambda: None
        self.on_message: Callable[[Publication], None] = lambda _message: None
        self.on_published: Callable[[int], None] = lambda _mid: None

    # Connecting

    @property
    def is_connected(self) -> bool:
        """Whether it believes to have a connection."""
        return self.connection is not None

    def start(self) -> None:
        """Connect, and again whenever the connection breaks."""
        self._later(0.0, self._try)

    def stop(self) -> None:
        """End in order."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.up.send(Goodbye())
            connection.has_client = False
        self._end()

    def kill(self) -> None:
        """The process is gone: the kernel closes its connection, which a cut link does not carry."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.leave_client()
            if not self._link.is_cut:
                self._loop.call_later(self._link.rng.random(), self._broker.lost, connection)
        self._end()

    def vanish(self) -> None:
        """The machine is gone: nobody closes anything, and the broker waits for the keepalive."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.leave_client()
            self._loop.call_later(self.keepalive_s * PATIENCE, self._broker.lost, connection)
        self._end()

    def _end(self) -> None:
        self.is_ended = True
        if self._attempt is not None:
            self._attempt.cancel()

    def _try(self) -> None:
        if self._link.is_cut:
            self._later(self._timeout_s, self._failed)
        elif not self._broker.is_up:
            self._failed()
        else:
            self._later(self._link.rng.random() * HANDSHAKE_S, self._join)

    def _failed(self) -> None:
        self._later(next(self._pauses), self._try)

    def _join(self) -> None:
        if self._link.is_cut or not self._broker.is_up:
            self._try()
            return
        self._pauses = self._new_pauses()
        self.connection = self._broker.accept(self, self._link, is_local=self._is_local)
        self.connected_s = self._loop.time()
        self.on_connect()
        for publication in list(self.unacknowledged.values()):
            self._send(publication)
        if self.connection is not None:
            self._broker.resume(self.connection)

    def broken(self, connection: Connection) -> None:
        """The connection is closed, or nothing comes through it."""
        if connection is self.connection and not self.is_ended:
            self.connection = None
            connection.leave_client()
            self.on_disconnect()
            self._failed()

    def _later(self, pause_s: float, function: Callable[[], None]) -> None:
        if not self.is_ended:
            self._attempt = self._loop.call_later(pause_s, function)

    # Messages

    def publish(self, topic: str, payload: bytes, qos: int, expires_s: float = float("inf")) -> int:
        """Send; QoS 0 without a connection is lost."""
        self._last_mid += 1
        publication = Publication(topic, payload, qos, self._last_mid, expires_s)
        if qos:
            self.unacknowledged[publication.mid] = publication
        self._send(publication)
        return publication.mid

    def subscribe(self, *filters: tuple[str, int]) -> None:
        """Ask for topics."""
        if self.connection is not None:
            self.connection.up.send(Subscription(filters))

    def acknowledge(self, mid: int) -> None:
        """A message of QoS 1 is safe."""
        if self.connection is not None:
            self.connection.up.send(Acknowledgement(mid))

    def take(self, packet: Packet) -> None:
        """Something arrived."""
        if self.is_ended:
            return
        if isinstance(packet, Publication):
            self.on_message(packet)
        elif isinstance(packet, Acknowledgement) and self.unacknowledged.pop(packet.mid, None):
            self.on_published(packet.mid)

    def forget_unacknowledged(self) -> list[Publication]:
        """Take back what the broker has not confirmed."""
        taken = [replace(item) for item in self.unacknowledged.values()]
        self.unacknowledged.clear()
        return taken

    def _send(self, publication: Publication) -> None:
        if self.connection is not None:
            self.connection.up.send(publication)
