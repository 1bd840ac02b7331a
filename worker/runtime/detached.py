"""Processes that outlive the worker: each in its own session, found again by pid and start time, its end on disk.

A small `sh` stays between: it notes its own and its child's `/proc/…/stat`, waits, and writes the exit status as a
file, so that no end is lost while the worker is away. From before it is started until it ends it holds the lock on
the file `lock`, so that a worker which dies amid a start leaves no process that the next one does not know of. A run's
folder holds the files lock, boot, shim, child, exit, reason and log, and notes of its runtime. What `sh` notes has its
room from before the start, as `shim.new`, `child.new` and `exit.new`, and overwrites that: a disk that is full by then
costs no end. What cannot be noted is not left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster import log_files
from worker.records import Exit
from worker.runtime.base import LAST_WORDS, RuntimeFailure, Usage, last_words_of
from worker.runtime.logfiles import follow_file

START_TIMEOUT_S: Final = 10.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_CORES: Final = os.cpu_count() or 1
_NOTED_BY_SHIM: Final = ("shim", "child", "exit")
_NOTE_BYTES: Final = 1024
_SHIM: Final = """
note() { IFS= read -r stat < "/proc/$1/stat" && echo "$stat" 1<> "$2.new" && mv "$2.new" "$2"; }
for group in $CLUSTER_WORKER_CGROUPS; do echo $$ > "$group/cgroup.procs"; done
unset CLUSTER_WORKER_CGROUPS
note $$ shim || exit 1
"$@" 3<&- &
child=$!
note $child child || kill -9 $child
wait $child
echo $? 1<> exit.new && mv exit.new exit
"""


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    start_ticks: int


class Run:
    """The folder of one workload's process, and what can be done with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._last_cpu: tuple[float, float] | None = None

    def clear(self) -> None:
        """Make the folder anew; the log of an earlier run stays. Raises OSError where the disk has no room for it."""
        for file in (*_NOTED_BY_SHIM, "reason", "moved", "target", "incoming"):
            (self.folder / file).unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "boot").write_text(_boot_id())
        for file in _NOTED_BY_SHIM:
            (self.folder / f"{file}.new").write_bytes(b"\n" * _NOTE_BYTES)

    async def start(self, argv: Sequence[str], env: Mapping[str, str], cgroups: Sequence[Path] = ()) -> None:
        """Start `argv` in the folder, its output appended to the log. Raises RuntimeFailure."""
        await asyncio.to_thread(self._spawn, argv, {**env, "CLUSTER_WORKER_CGROUPS": " ".join(map(str, cgroups))})
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self.folder / "child").exists() and not self.has_ended:
            if time.monotonic() > deadline:
                raise RuntimeFailure(f"{argv[0]} did not start within {START_TIMEOUT_S:g} s")
            await asyncio.sleep(0.005)

    def _spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        with self.log.open("ab") as log, (self.folder / "lock").open("ab") as lock:
            if not _locks(lock.fileno()):
                raise RuntimeFailure("its earlier process has not ended yet")
            # A shell gives what it starts in the background an empty standard input: the lock goes in as another file.
            subprocess.run(
                ["/bin/sh", "-c", 'exec 3<&0; "$@" &', "sh", "/bin/sh", "-c", _SHIM, "shim", *argv],
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", os.defpath), **env},
                stdin=lock,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )

    async def settle(self) -> None:
        """Wait until a start that an earlier worker process began is noted, or has come to nothing."""
        while self._is_being_started():  # noqa: ASYNC110 - nothing tells when a lock is let go
            await asyncio.sleep(0.01)

    def _is_being_started(self) -> bool:
        return not (self.folder / "child").exists() and not self.has_ended and self._is_locked()

    def _is_locked(self) -> bool:
        try:
            lock = (self.folder / "lock").open("ab")
        except OSError:
            return False
        with lock:
            return not _locks(lock.fileno())

    @property
    def has_ended(self) -> bool:
        """Whether the end was noted."""
        return (self.folder / "exit").exists()

    @property
    def process(self) -> ProcessId | None:
        """The workload's own process, if it is alive."""
        return self._alive("child")

    async def wait(self) -> Exit:
        """Wait for the end; of a run that left none, or of another boot, the outcome is unknown."""
        for file in ("shim", "child"):
            alive = self._alive(file)
            if alive and not self.has_ended:
                await _until_gone(alive)
        return self.read_exit()

    def read_exit(self) -> Exit:
        """The noted end."""
        try:
            code = int((self.folder / "exit").read_text())
        except (OSError, ValueError):
            return Exit(reason="its process is gone", is_outcome_known=False)
        reason = self.read("reason")
        if not reason and code > 128 and code - 128 in set(signal.Signals):
            reason = f"ended by {signal.Signals(code - 128).name}"
        return Exit(code=code, reason=reason)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the workload, if it lives."""
        process = self.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(process.pid)
            try:
                if process == self.process:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def usage(self) -> Usage:
        """Cpu since the last call, memory now, size of the folder; the log is kept within its bound on the way."""
        log_files.bound(self.log)
        process = self.process
        fields = _stat(process.pid) if process else None
        if fields is None:
            return Usage()
        now, cpu_s = time.monotonic(), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        before, self._last_cpu = self._last_cpu, (now, cpu_s)
        percent = 0.0
        if before and now > before[0]:
            percent = max(0.0, (cpu_s - before[1]) / (now - before[0]) / _CORES * 100)
        disk = sum(file.lstat().st_size for file in self.folder.iterdir() if file.is_file())
        memory_bytes, last_words = int(fields[21]) * _PAGE_BYTES, last_words_of(self._tail())
        return Usage(cpu_percent=percent, memory_bytes=memory_bytes, disk_bytes=disk, last_words=last_words)

    def logs(self, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """The log; following ends with the process."""
        return follow_file(self.log, tail, lambda: follow and self._alive("shim") is not None)

    def last_words(self) -> str:
        """The last line of the log."""
        lines = self._tail().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def _tail(self) -> bytes:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * LAST_WORDS))
            return file.read()
        return b""

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def note(self, file: str, text: str) -> None:
        """Keep a note in the folder, whole or not at all."""
        fresh = self.folder / f"{file}.new"
        fresh.write_text(text)
        fresh.replace(self.folder / file)

    def read(self, file: str) -> str:
        """A note; "" where there is none."""
        try:
            return (self.folder / file).read_text(errors="replace").strip()
        except OSError:
            return ""

    def _alive(self, file: str) -> ProcessId | None:
        fields = self.read(file).rpartition(")")
        if not fields[1] or self.read("boot") != _boot_id():
            return None
        noted = ProcessId(int(fields[0].split(" ", 1)[0]), int(fields[2].split()[19]))
        now = _stat(noted.pid)
        is_same = now is not None and int(now[19]) == noted.start_ticks and now[0] not in ("Z", "X")
        return noted if is_same else None


def _locks(file: int) -> bool:
    """Take the lock on an open file; False while another process has it. Some file systems have no locks: then True."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, state first; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def _until_gone(process: ProcessId) -> None:
    """Wait without polling, on a file descriptor that becomes readable when the process ends."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(handle, gone.set)
        fields = _stat(process.pid)
        if fields is not None and int(fields[19]) == process.start_ticks:
            await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
