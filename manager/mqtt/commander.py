"""Effects as MQTT commands to the topic under which a node's telemetry arrives."""

from __future__ import annotations

from typing import Final

from manager.domain.effects import Effect
from manager.domain.model import Node
from manager.mqtt.bridge import Bridge
from manager.mqtt.workers import command_message

EXPIRY_S: Final = 60


class MqttCommander:
    """Sends commands over the bridge."""

    def __init__(self, bridge: Bridge, cluster_id: str) -> None:
        self._bridge = bridge
        self._cluster_id = cluster_id

    def send(self, node: Node, effect: Effect) -> bool:
        """True once it is in the client's hands; False while there is no session."""
        if not self._bridge.is_connected:
            return False
        channel, payload = command_message(node, effect, self._cluster_id)
        return self._bridge.publish(node.topic_id, channel, payload, expiry_s=EXPIRY_S)
