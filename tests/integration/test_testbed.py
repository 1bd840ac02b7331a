"""The test support itself: the real parts do what the tests above them rely on."""

import queue
import sys

import paho.mqtt.client as mqtt
import pymongo
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from testbed import leftovers
from testbed.docker_engine import BUSYBOX, DockerEngine, docker_engine
from testbed.mongo_server import MongoServer
from testbed.mosquitto import Mosquitto
from testbed.processes import process
from testbed.unikernel import exit_code_of, unikernel
from testbed.waiting import wait_until


def _client(broker: Mosquitto, name: str, inbox: "queue.Queue[bytes]") -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    subscribed: queue.Queue[int] = queue.Queue()
    client.on_message = lambda _client, _data, message: inbox.put(message.payload)
    client.on_subscribe = lambda _client, _data, mid, _codes, _properties: subscribed.put(mid)
    client.on_connect = lambda client, *_facts: client.subscribe("kept", qos=1)
    client.connect(broker.host, broker.port)
    client.loop_start()
    subscribed.get(timeout=30)
    return client


def _close(client: mqtt.Client) -> None:
    client.disconnect()
    client.loop_stop()


@pytest.mark.real("mosquitto")
def test_broker_keeps_messages_for_an_absent_client_over_a_crash(mosquitto: Mosquitto) -> None:
    """QoS 1 messages for a subscriber that is away arrive when it returns, though the broker was killed."""
    inbox: queue.Queue[bytes] = queue.Queue()
    _close(_client(mosquitto, "absent", inbox))
    sender = _client(mosquitto, "sender", queue.Queue())
    for number in range(50):
        sender.publish("kept", f"message {number}", qos=1).wait_for_publish(30)
    _close(sender)
    saved = mosquitto.folder / "mosquitto.db"
    wait_until(lambda: saved.exists() and b"message 49" in saved.read_bytes(), what="the broker saved its sessions")
    mosquitto.restart()
    receiver = _client(mosquitto, "absent", inbox)
    received = [inbox.get(timeout=30).decode() for _ in range(50)]
    _close(receiver)
    assert received == [f"message {number}" for number in range(50)]


@pytest.mark.real("docker")
def test_container_runs(docker_engine: DockerEngine) -> None:
    """A container of the locally made image runs its command and its output comes back."""
    with docker_engine.client() as client:
        output = client.containers.run(BUSYBOX, ["/bin/echo", "hello"], remove=True)
    assert output == b"hello\n"


@pytest.mark.real("docker")
def test_container_outlives_a_crash_of_the_engine_and_nothing_is_left_when_it_closes() -> None:
    """A container goes on over a crash of dockerd; closing removes processes, mounts and folder."""
    with docker_engine() as engine:
        with engine.client() as client:
            container = client.containers.run(BUSYBOX, ["/bin/sleep", "600"], detach=True)
        engine.restart()
        with engine.client() as client:
            assert client.containers.get(container.id).status == "running"
    assert not engine.folder.exists()
    assert not leftovers.mounts_below(engine.folder)
    assert not leftovers.processes_mentioning(str(engine.folder))


@pytest.mark.real("qemu")
@pytest.mark.parametrize("code", [0, 7, 41])
def test_unikernel_exits_with_the_code_asked_for(code: int) -> None:
    """The guest prints its command line and QEMU's status carries the exit code."""
    with unikernel(f"greeting exit={code}") as guest:
        assert exit_code_of(guest.wait()) == code
        assert f"greeting exit={code}" in guest.output()


@pytest.mark.real("qemu")
def test_unikernel_counts() -> None:
    """Without an exit code the guest counts until it is ended."""
    with unikernel("interval=10") as guest:
        guest.wait_for_output("count 20\n")
        assert "count 19\ncount 20\n" in guest.output()


@pytest.mark.real("mongo")
def test_mongo_server_keeps_every_acknowledged_insert_over_a_crash(mongo_server: MongoServer) -> None:
    """All inserts that were answered before `kill -9` are there after the restart."""
    with pymongo.MongoClient(mongo_server.url) as client:
        for number in range(300):
            client.tests.kept.insert_one({"_id": number})
        mongo_server.restart()
        kept = sorted(document["_id"] for document in client.tests.kept.find())
    assert kept == list(range(300))


def test_process_is_restarted_and_reaped() -> None:
    """A restarted process has a new id, appends to the same output, and is gone after the block."""
    with process([sys.executable, "-u", "-c", "import time; print('up'); time.sleep(600)"]) as child:
        child.wait_for_output("up")
        first = child.pid
        child.restart()
        wait_until(lambda: child.output().count("up") == 2, what="the second start printed")
        assert child.pid != first
    assert not child.is_running
