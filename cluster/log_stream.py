"""Standard output and error that never raise: what cannot be written is counted, and the count is told afterwards.

A full disk, a closed pipe, a reader that stopped reading or a closed descriptor must not end or hold up a process
that runs workloads. Whole lines go to the descriptor itself, so that nothing is left in a buffer that fails again at
the next line, or at the end of the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Final

PATIENCE_MS: Final = 100
_PORTION_BYTES: Final = select.PIPE_BUF  # what a pipe that is ready takes without blocking
_CLOSED: Final = -1


def could_not_be_written(count: int) -> str:
    """The line that tells how many others are missing."""
    return f"{count} lines could not be written here"


class LogStream(io.TextIOBase):
    """A text stream on a descriptor; a reader may be late by PATIENCE_MS, once, before lines are lost.

    `lost` counts the lines that are missing and not told yet; `notice` makes the line that tells it.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, handle: int) -> None:
        self.lost = 0
        self.notice: Callable[[int], str] = could_not_be_written
        self._handle = handle
        self._rest = b""
        self._is_torn = False
        self._lock = threading.RLock()  # a finaliser may write while a line is being written

    def write(self, text: str) -> int:
        """Write the lines that are complete now; never raises."""
        with self._lock:
            whole, newline, self._rest = (self._rest + self._encoded(text)).rpartition(b"\n")
            if newline:
                self._write_or_count(whole + newline)
            if len(self._rest) > _PORTION_BYTES:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is there of an incomplete line as well."""
        with self._lock:
            rest, self._rest = self._rest, b""
            if rest:
                self._write_or_count(rest)

    def tell_losses(self) -> None:
        """Say how many lines are missing, if any are and writing works again."""
        with self._lock:
            if self.lost and not self._put(self._encoded(f"{self.notice(self.lost).rstrip()}\n")):
                self.lost = 0

    def close(self) -> None:
        """It stays open: somebody may still have something to say."""
        self.flush()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal is behind it."""
        return self._handle != _CLOSED and os.isatty(self._handle)

    def fileno(self) -> int:
        """The descriptor. Raises UnsupportedOperation where there is none."""
        if self._handle == _CLOSED:
            raise io.UnsupportedOperation("closed before the process began")
        return self._handle

    def _encoded(self, text: str) -> bytes:
        return text.encode(self.encoding, self.errors)

    def _write_or_count(self, lines: bytes) -> None:
        self.tell_losses()
        missing = lines if self.lost else self._put(lines)
        if missing:
            self.lost += max(1, missing.count(b"\n"))

    def _put(self, lines: bytes) -> bytes:
        """What could not be written of it; a line that broke off is ended before the next one."""
        left = b"\n" + lines if self._is_torn else lines
        size, last = len(left), b"\n"
        with contextlib.suppress(OSError, ValueError):
            while left and self._is_ready():
                count = os.write(self._handle, left[:_PORTION_BYTES])
                last, left = left[count - 1 : count], left[count:]
        if len(left) < size:
            self._is_torn = bool(left) and last != b"\n"
        return left

    def _is_ready(self) -> bool:
        waiting = select.poll()
        waiting.register(self._handle, select.POLLOUT)
        return bool(waiting.poll(0 if self.lost else PATIENCE_MS))


def install() -> LogStream:
    """Make this process's standard output and error lasting; answers standard error."""
    out, err = _lasting(1, sys.stdout), _lasting(2, sys.stderr)
    sys.stdout, sys.stderr = out, err
    return err


def _lasting(number: int, stream: object) -> LogStream:
    if isinstance(stream, LogStream):
        return stream
    if stream is None:
        _occupy(number)
        return LogStream(_CLOSED)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()  # type: ignore[attr-defined]
    return LogStream(_own_descriptor(number))


def _own_descriptor(number: int) -> int:
    """Another one for the same file: whoever closes the first, and whatever takes its number then, is left alone."""
    try:
        return os.dup(number)
    except OSError:
        return _CLOSED


def _occupy(number: int) -> None:
    """A number that was closed at the start must not become a database's or a socket's: libraries in C write to it."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
