"""What the manager needs of a broker: the way to the nodes, and what they sent."""

from __future__ import annotations

from typing import Protocol

from cluster.topics import Channel
from manager.mqtt.inbox import Inbox, Incoming


class Broker(Protocol):
    """A session with a broker, real or simulated."""

    inbox: Inbox

    @property
    def is_connected(self) -> bool:
        """Whether there is a session."""

    def acknowledge(self, incoming: Incoming) -> None:
        """Tell the broker that a state is saved."""

    def publish(self, topic_id: str, channel: Channel, payload: bytes, *, qos: int = 1, expiry_s: int = 0) -> bool:
        """Hand a message to the client; False while there is no session. The broker forgets it after `expiry_s`."""
