"""A real server that speaks MongoDB's protocol and keeps every acknowledged write over `kill -9`."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testbed.commands import find, lacking
from testbed.ports import free_port, is_listening
from testbed.processes import REPOSITORY, Process
from testbed.waiting import wait_until

_MAIN = Path(__file__).with_name("Main.java")
_JARS = REPOSITORY / ".cache" / "mongo-server" / "lib"


def unavailable() -> str:
    """Why the server cannot be used here; empty when it can."""
    return lacking("java") or ("" if any(_JARS.glob("mongo-java-server-h2-*.jar")) else f"no jars in {_JARS}")


class MongoServer:
    """The server on a free loopback port, with its data in one file of `folder`."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        classpath = f"{_JARS}/*"
        argv = [find("java") or "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", classpath]
        argv += [str(_MAIN), str(self.port), str(folder / "mongo.h2")]
        self.process = Process(argv, os.environ, folder / "mongo-server.log")

    @property
    def url(self) -> str:
        """Connection string without a database name."""
        return f"mongodb://{self.host}:{self.port}"

    def start(self) -> "MongoServer":
        """Start it on the same file and wait until it listens."""
        self.process.start()
        wait_until(self._is_ready, timeout=60.0, what=f"the MongoDB-protocol server listens on {self.port}")
        return self

    def stop(self) -> None:
        """End it with SIGTERM."""
        self.process.stop()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def restart(self) -> "MongoServer":
        """`kill -9` and start again on the same port and file."""
        self.kill()
        return self.start()

    def _is_ready(self) -> bool:
        if not self.process.is_running:
            raise RuntimeError(f"the MongoDB-protocol server ended: {self.process.output()}")
        return is_listening(self.port)


@contextlib.contextmanager
def mongo_server(folder: Path | None = None, port: int | None = None) -> Iterator[MongoServer]:
    """A running server for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="mongo-") as temporary:
        server = MongoServer(folder or Path(temporary), port)
        try:
            yield server.start()
        finally:
            server.process.reap()
