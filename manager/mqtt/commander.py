"""Effects as MQTT commands to the topic under which a node's telemetry arrives."""

from __future__ import annotations

from typing import Final

from cluster.process import LOG
from manager.core import Core
from manager.domain.effects import Effect, Verb
from manager.domain.events import Observed, Seen
from manager.domain.model import InstanceState, Node
from manager.mqtt.broker import Broker
from manager.mqtt.engines import WithheldError
from manager.mqtt.images import Images
from manager.mqtt.workers import command_message

EXPIRY_S: Final = 60


class MqttCommander:
    """Sends commands through the broker."""

    def __init__(self, broker: Broker, core: Core) -> None:
        self._broker = broker
        self._core = core
        self.images = Images()

    @property
    def is_ready(self) -> bool:
        """Whether there is a broker."""
        return self._broker.is_connected

    def send(self, node: Node, effect: Effect) -> bool:
        """True once it is in the client's hands, or is withheld for good.

        False while there is no session, or while it is not known whether an engine could fetch a unikernel's image.
        """
        if not self._broker.is_connected:
            return False
        is_start = effect.verb is Verb.DEPLOY and node.registration.dialect.is_engine
        problem = self.images.problem(effect.spec) if is_start else ""
        if problem is None:
            return False
        if problem:
            return self._withhold(node, effect, problem)
        runs_job = effect.is_replica and self._runs_job(node.id, effect)
        beat = self._core.state.live[node.id].beat
        try:
            channel, payload = command_message(node, effect, self._core.cluster_id, runs_job=runs_job, beat=beat)
        except WithheldError as error:
            return self._withhold(node, effect, str(error))
        return self._broker.publish(node.topic_id, channel, payload, expiry_s=EXPIRY_S)

    def _withhold(self, node: Node, effect: Effect, reason: str) -> bool:
        """What would crash an engine is not sent: the start of an instance has failed instead."""
        core = self._core
        core.counters["commands_withheld"] += 1
        LOG.error("command withheld", node_id=node.id, instance=str(effect.key), reason=reason)
        if effect.verb is Verb.DEPLOY and effect.key in core.state.instances:
            event = Observed(
                node_id=node.id, generation=effect.generation, seen=Seen.FAILED, actor="manager", detail=reason
            )
            core.state.apply(effect.key, event, core.now_ms())
            core.commit()
        return True

    def _runs_job(self, node_id: str, effect: Effect) -> bool:
        state = self._core.state
        others = (key for key in state.on_node[node_id] if key.job_id == effect.key.job_id and key != effect.key)
        placements = (item for key in others for _, item in state.instances[key].placements())
        # what came to run after this placement was made does not count: a repeated command is the same command
        return any(
            item.node_id == node_id and item.state is InstanceState.RUNNING and item.since_ms <= effect.generation
            for item in placements
        )
