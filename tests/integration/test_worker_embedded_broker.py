"""The worker on the embedded broker, which speaks MQTT 3.1.1 only."""

from pathlib import Path

from testbed.ports import free_port, is_listening
from testbed.processes import module
from testbed.waiting import wait_until
from testbed.worker import manager_side, real_worker


class Embedded:
    """Where it listens, as `Mosquitto` says it."""

    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self.port = port


def test_worker_falls_back_to_mqtt_3(tmp_path: Path) -> None:
    """A broker that does not know MQTT 5 is spoken to in 3.1.1; commands and states pass."""
    broker = Embedded(free_port())
    with module("clusterctl.broker", "--bind", broker.host, "--port", str(broker.port)):
        wait_until(lambda: is_listening(broker.port), what="the embedded broker listens")
        with manager_side(broker) as manager, real_worker(tmp_path / "w", broker, manager) as worker:
            manager.command("deploy", "greeter")
            manager.wait_for("greeter", "RUNNING")
            manager.command("delete", "greeter")
            manager.wait_for("greeter", "STOPPED")
            assert '"mqtt": 4' in worker.process.output()
