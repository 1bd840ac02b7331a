"""What real engines sent, played byte for byte to a real gateway, manager and broker."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from standins.engines.generations import VECTORS, recorded
from standins.engines.scene import RUN, Scene, scene
from testbed.cluster import HOST
from testbed.waiting import wait_until

pytestmark = pytest.mark.real("mosquitto")
RECORDED_IDS = ("65f1a2b3c4d5e6f7a8b9c0da", "65f1a2b3c4d5e6f7a8b9c0dc")
RECORDINGS = sorted(VECTORS.glob("[AC]/*.json"))


class Player:
    """Registers with the recorded bytes and publishes recorded payloads as an engine's client would."""

    def __init__(self, stage: Scene) -> None:
        self.stage = stage
        self.node_id = ""
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def register(self, generation: str, name: str = "register") -> dict[str, Any]:
        """POST the recorded body, as it was sent."""
        recording = recorded(generation, name)
        connection = http.client.HTTPConnection(HOST, self.stage.cluster.ports["gateway"], timeout=30.0)
        headers = {key: value for key, value in recording["headers"].items() if key != "Content-Length"}
        connection.request(recording["method"], recording["path"], recording["raw"].encode(), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 200
        self.node_id = answer["id"]
        return dict(answer)

    def connect(self) -> "Player":
        """Connect and subscribe as an engine does."""
        self._client.on_message = self._on_message
        self._client.connect(HOST, self.stage.cluster.ports["broker"], keepalive=30)
        self._client.loop_start()
        self._client.subscribe([(f"nodes/{self.node_id}/control/{verb}", 1) for verb in ("deploy", "delete")])
        return self

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def play(self, entry: dict[str, Any]) -> None:
        """Publish one recorded message under the id that this cluster gave."""
        topic = entry["topic"]
        for known in RECORDED_IDS:
            topic = topic.replace(known, self.node_id)
        sent = self._client.publish(topic, entry["raw"].encode(), qos=entry["qos"], retain=entry["retain"])
        sent.wait_for_publish(30.0)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.commands.append((message.topic.rpartition("/")[2], json.loads(message.payload)))


@pytest.fixture(name="player", scope="module")
def _player() -> Iterator[Player]:
    with scene() as stage:
        made = Player(stage)
        made.register("C")
        yield made.connect()
        made.close()


def messages(path: Path) -> list[dict[str, Any]]:
    """The messages that an engine sent in a recording."""
    document = json.loads(path.read_text())
    found = [document, *document.get("sequence", [])] if isinstance(document, dict) else document
    return [item for item in found if "raw" in item and item.get("topic") and "dir" not in item]


def test_every_recorded_message_is_taken(player: Player) -> None:
    """All recordings of A and C in a row: nothing is malformed, nothing unknown to the parsers, the manager goes on."""
    count = 0
    for path in RECORDINGS:
        for entry in messages(path):
            player.play(entry)
            count += 1
    assert count > 400
    http_client = player.stage.cluster.http

    def came() -> int:
        counters = http_client.get("/api/cluster/status")["counters"]
        return sum(counters.get(name, 0) for name in ("mqtt_telemetry", "mqtt_telemetry_superseded"))

    wait_until(lambda: came() > 50, what="the telemetry arrived, handled or superseded by newer")
    status = http_client.get("/api/cluster/status")
    assert status["counters"].get("mqtt_malformed", 0) == 0
    assert player.stage.cluster.node("worker-1")["state"] == "READY"


@pytest.mark.parametrize("generation", ["A", "C"])
def test_recorded_life_of_a_job(player: Player, generation: str) -> None:
    """Deploy, the recorded start, delete, the recorded end: RUNNING and STOPPED, by the recorded bytes alone."""
    player.register(generation)
    telemetry = recorded(generation, "information")["sequence"][0]
    player.play(telemetry)
    stage = player.stage
    stage.cluster.wait_until_node_is("worker-1", "READY")
    job_id = stage.new_job()
    body = {"job_name": "app.test.web.test", **RUN, "constraints": [{"type": "direct", "node": "worker-1"}]}
    assert stage.cluster.http.insist("POST", f"/api/service/{job_id}/0", body).status == 200
    wait_until(lambda: player.commands and player.commands[-1][1]["job_name"] == "app.test.web.test")
    start = [entry for entry in messages(VECTORS / generation / "job-running.json") if entry["topic"].endswith("/job")]
    for entry in start:
        player.play(entry)
    stage.wait_for(job_id, "RUNNING")
    stage.delete(job_id)
    wait_until(lambda: player.commands[-1][0] == "delete", what="the delete arrived")
    for entry in messages(VECTORS / generation / "delete-sequence.json"):
        if entry["topic"].endswith("/job"):
            player.play(entry)
    stage.wait_for(job_id, "STOPPED")
    player.commands.clear()
