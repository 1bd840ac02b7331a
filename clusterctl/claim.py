"""What a cluster claims before it starts: its data folder and its ports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterctl.exits import CommandError
from clusterctl.layout import Layout


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The data folder for the time of the block. Raises CommandError where another `up` has it."""
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        lock = (folder / "up.lock").open("a+")
    except OSError as error:
        raise CommandError(
            f"cannot use {folder} as data directory: {error.strerror}; choose one with --data-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CommandError(
                f"{folder} is in use by another `clusterctl up` (process {lock.read().strip() or '?'}); "
                "end that one, or choose another --data-dir and --port-offset"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def check_ports(layout: Layout) -> None:
    """Raise CommandError that names each port that is taken and by whom."""
    taken = [
        f"  {port} ({part}){_owner(port)}" for part, port in layout.ports.items() if not _is_free(layout.bind, port)
    ]
    if taken:
        listed = "\n".join(taken)
        raise CommandError(
            f"these ports are taken:\n{listed}\nend what listens there (another cluster?), "
            "or move all ports with --port-offset N"
        )


def _is_free(bind: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError:
            return False
    return True


def _owner(port: int) -> str:
    import psutil

    # without the right to look, or where the process is gone meanwhile, the error names the port alone
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())[:80]
                return f": process {connection.pid}, {command}"
    return ""
