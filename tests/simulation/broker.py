"""The broker and the network around it: sessions that break, messages lost, doubled, late and out of order."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from simulation.loop import Loop

EXPIRY_S = 60.0


@dataclass
class Faults:
    """How bad the network is now; `forgets` makes a broker that keeps nothing for those who are away."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.05
    forgets: bool = False


@dataclass(frozen=True, kw_only=True)
class Message:
    """From a node: `kind` is telemetry, state, inventory or will."""

    id: int
    node_id: str
    kind: str
    body: Any


class Receiver(Protocol):
    """A worker with a session."""

    def receive(self, command: Any) -> None:
        """Take a command."""


@dataclass
class Session:
    """What the broker keeps for one worker."""

    worker: Receiver | None = None
    waiting: list[tuple[float, Any]] = field(default_factory=list)


class Broker:
    """QoS 1 is at least once while the broker lives; QoS 0 is at most once."""

    def __init__(self, loop: Loop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.faults = Faults()
        self.is_up = True
        self.cut: set[str] = set()
        self.sessions: dict[str, Session] = {}
        self.manager: Callable[[Message], None] | None = None
        self._unacknowledged: dict[int, Message] = {}
        self._last_id = 0

    # From nodes

    def can_reach(self, name: str) -> bool:
        """Whether a worker has a way to the broker."""
        return self.is_up and name not in self.cut

    def publish(self, name: str, node_id: str, kind: str, body: Any, *, qos: int) -> bool:
        """A node sends; True where the broker has it (QoS 1: the sender tries again until then)."""
        if not self.can_reach(name) or self._is_lost():
            return False
        for _ in range(self._copies()):
            self._last_id += 1
            message = Message(id=self._last_id, node_id=node_id, kind=kind, body=body)
            if qos and not (self.faults.forgets and self.manager is None):
                self._unacknowledged[message.id] = message
            self._to_manager(message)
        return not (qos and self._is_lost())

    def _to_manager(self, message: Message) -> None:
        receiver = self.manager

        def deliver() -> None:
            if self.manager is receiver and receiver is not None:
                receiver(message)

        self._loop.after(self._delay(), deliver)

    def acknowledge(self, message: Message) -> None:
        """The manager has saved it."""
        self._unacknowledged.pop(message.id, None)

    def connect_manager(self, receiver: Callable[[Message], None]) -> None:
        """A new session of the manager: what it never acknowledged comes again."""
        self.manager = receiver
        for message in list(self._unacknowledged.values()):
            self._to_manager(message)

    def disconnect_manager(self) -> None:
        """Its session is kept, unless the broker forgets."""
        self.manager = None
        if self.faults.forgets:
            self._unacknowledged.clear()

    # To nodes

    def command(self, node_id: str, command: Any) -> None:
        """The manager sends a command, QoS 1."""
        if self._is_lost():
            return
        session = self.sessions.setdefault(node_id, Session())
        for _ in range(self._copies()):
            if session.worker is not None:
                self._to_worker(session, command)
            elif not self.faults.forgets:
                session.waiting.append((self._loop.now, command))

    def _to_worker(self, session: Session, command: Any) -> None:
        sent_at = self._loop.now

        def deliver() -> None:
            if session.worker is not None:
                session.worker.receive(command)
            elif not self.faults.forgets:
                session.waiting.append((sent_at, command))

        self._loop.after(self._delay(), deliver)

    def connect_worker(self, node_id: str, worker: Receiver) -> None:
        """A worker's session: what waited for it comes, unless it expired."""
        session = self.sessions.setdefault(node_id, Session())
        session.worker = worker
        waiting, session.waiting = session.waiting, []
        for sent_at, command in waiting:
            if self._loop.now - sent_at < EXPIRY_S:
                self._to_worker(session, command)

    def disconnect_worker(self, node_id: str) -> None:
        """Commands wait for it from now on."""
        if node_id in self.sessions:
            self.sessions[node_id].worker = None

    def restart(self) -> None:
        """The broker comes back; one that forgets has lost what waited."""
        self.is_up = True
        if self.faults.forgets:
            self._unacknowledged.clear()
            for session in self.sessions.values():
                session.waiting.clear()

    def _is_lost(self) -> bool:
        return self._rng.random() < self.faults.loss

    def _copies(self) -> int:
        return 2 if self._rng.random() < self.faults.duplication else 1

    def _delay(self) -> float:
        return self._rng.random() * self.faults.delay_s
