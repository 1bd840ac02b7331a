"""A small process that outlives a killed supervisor just long enough to end what that had started.

It reads child ids from a pipe. When the pipe closes, because the supervisor is gone for whatever reason, it asks every
child that is left to end, and kills those that do not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Final

_GRACE_S: Final = 20.0
_POLL_S: Final = 0.05


class Guardian:
    """The supervisor's end of the pipe. Make it before any thread or loop: it forks."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writing)
            _guard(reading)
        os.close(reading)

    def watch(self, pid: int) -> None:
        """End the child `pid`, which leads a process group, when the supervisor is gone."""
        self._say(b"+%d\n" % pid)

    def forget(self, pid: int) -> None:
        """The child has ended."""
        self._say(b"-%d\n" % pid)

    def close(self) -> None:
        """Let it go, and wait until it has."""
        os.close(self._writing)
        os.waitpid(self._pid, 0)

    def _say(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed: the children are supervised all the same
            os.write(self._writing, line)


def _guard(reading: int) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _end(_read_until_closed(reading))
    finally:
        os._exit(0)


def _read_until_closed(reading: int) -> set[int]:
    pids: set[int] = set()
    with os.fdopen(reading) as lines:
        for line in lines:
            change, pid = line[0], int(line[1:])
            if change == "+":
                pids.add(pid)
            else:
                pids.discard(pid)
    return pids


def _end(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
