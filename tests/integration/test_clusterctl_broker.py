"""The embedded broker passes the messages that the cluster depends on."""

import queue
import signal
from collections.abc import Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from testbed.ports import free_port, is_listening
from testbed.processes import Process, module
from testbed.waiting import wait_until


@pytest.fixture(name="broker")
def _broker() -> Iterator[tuple[Process, int]]:
    port = free_port()
    with module("clusterctl.broker", "--port", str(port)) as process:
        wait_until(lambda: is_listening(port))
        yield process, port


@pytest.fixture(name="client")
def _client(broker: tuple[Process, int]) -> Iterator[mqtt.Client]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=mqtt.MQTTv311)
    client.connect("127.0.0.1", broker[1])
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def test_qos_1_messages_pass_in_order(client: mqtt.Client) -> None:
    """Every acknowledged message arrives once, in the order of sending."""
    got: queue.Queue[bytes] = queue.Queue()
    subscribed: queue.Queue[object] = queue.Queue()
    client.on_message = lambda _client, _userdata, message: got.put(message.payload)
    client.on_subscribe = lambda *arguments: subscribed.put(arguments)
    client.subscribe("nodes/+/controls", qos=1)
    subscribed.get(timeout=10)
    sent = [b"%d" % number for number in range(200)]
    for payload in sent:
        client.publish("nodes/1/controls", payload, qos=1).wait_for_publish(10)
    assert [got.get(timeout=10) for _ in sent] == sent
    assert got.empty()


def test_an_abrupt_end_publishes_the_will(broker: tuple[Process, int], client: mqtt.Client) -> None:
    """By which the manager learns at once of a lost worker."""
    got: queue.Queue[bytes] = queue.Queue()
    subscribed: queue.Queue[object] = queue.Queue()
    client.on_message = lambda _client, _userdata, message: got.put(message.payload)
    client.on_subscribe = lambda *arguments: subscribed.put(arguments)
    client.subscribe("nodes/+/connection", qos=1)
    subscribed.get(timeout=10)
    worker = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="worker", protocol=mqtt.MQTTv311)
    worker.will_set("nodes/1/connection", b'{"online": false}', qos=1)
    worker.connect("127.0.0.1", broker[1])
    worker.loop_start()
    wait_until(worker.is_connected)
    worker.loop_stop()
    worker.socket().close()
    assert got.get(timeout=10) == b'{"online": false}'


def test_an_mqtt_5_client_is_refused_at_once(broker: tuple[Process, int]) -> None:
    """With the code for an unknown protocol version, so that it falls back to MQTT 3.1.1 without delay."""
    answers: queue.Queue[str] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="worker", protocol=mqtt.MQTTv5)
    client.on_connect = lambda _client, _userdata, _flags, reason, _properties: answers.put(reason.getName())
    properties = mqtt.Properties(mqtt.PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 86_400
    client.connect("127.0.0.1", broker[1], clean_start=False, properties=properties)
    client.loop_start()
    assert answers.get(timeout=5) == "Unsupported protocol version"
    client.disconnect()
    client.loop_stop()


def test_it_ends_on_sigterm_with_clients_connected(broker: tuple[Process, int], client: mqtt.Client) -> None:
    """Status 0, soon, without a traceback."""
    wait_until(client.is_connected)
    process, _ = broker
    process.signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert "Traceback" not in process.output()


def test_a_taken_port_is_said_and_ends_it(broker: tuple[Process, int]) -> None:
    """Its log names the address."""
    with module("clusterctl.broker", "--port", str(broker[1])) as second:
        assert second.wait(20) == 1
        assert f"127.0.0.1:{broker[1]}" in second.output()
