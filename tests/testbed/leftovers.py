"""What a crashed daemon leaves behind: processes and mounts that belong to one folder."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from testbed.commands import find


def processes_mentioning(text: str) -> list[int]:
    """Ids of the processes, this one aside, whose command line contains `text` (a unique folder)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def kill_processes_mentioning(text: str) -> None:
    """`kill -9` until no process mentions `text` (a unique folder) any more."""
    while pids := processes_mentioning(text):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def mounts_below(folder: Path) -> list[str]:
    """Mount points in `folder`, innermost first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def unmount_below(folder: Path) -> None:
    """Detach everything that is mounted in `folder`."""
    for point in mounts_below(folder):
        subprocess.run([find("umount") or "umount", "--lazy", point], check=False, capture_output=True)
