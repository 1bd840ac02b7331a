"""A real mosquitto on a free loopback port, which keeps its persistence folder over restarts."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testbed.commands import find, lacking
from testbed.ports import free_port, is_listening
from testbed.processes import Process
from testbed.waiting import wait_until

_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location {folder}/
autosave_interval 1
autosave_on_changes true
max_queued_messages 0
max_inflight_messages 0
log_dest stderr
user root
"""


def unavailable() -> str:
    """Why mosquitto cannot be used here; empty when it can."""
    return lacking("mosquitto")


class Mosquitto:
    """A broker for tests, saving every change of a session within its next event."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, port: int | None = None, extra_configuration: str = "") -> None:
        self.folder = folder
        self.port = port or free_port()
        configuration = folder / "mosquitto.conf"
        configuration.write_text(_CONFIGURATION.format(port=self.port, folder=folder) + extra_configuration)
        argv = [find("mosquitto") or "mosquitto", "-c", str(configuration)]
        self.process = Process(argv, os.environ, folder / "mosquitto.log")

    def start(self) -> "Mosquitto":
        """Start it and wait until it listens."""
        self.process.start()
        wait_until(self._is_ready, what=f"mosquitto listens on {self.port}")
        return self

    def stop(self) -> None:
        """End it orderly; it saves its sessions."""
        self.process.stop()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def restart(self) -> "Mosquitto":
        """`kill -9` and start again on the same port and folder."""
        self.kill()
        return self.start()

    def _is_ready(self) -> bool:
        if not self.process.is_running:
            raise RuntimeError(f"mosquitto ended: {self.process.output()}")
        return is_listening(self.port)


@contextlib.contextmanager
def mosquitto(
    folder: Path | None = None, port: int | None = None, extra_configuration: str = ""
) -> Iterator[Mosquitto]:
    """A running broker for the time of the block; anonymous, on 127.0.0.1."""
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as temporary:
        broker = Mosquitto(folder or Path(temporary), port, extra_configuration)
        try:
            yield broker.start()
        finally:
            broker.process.stop(timeout=5.0)
            broker.process.reap()
