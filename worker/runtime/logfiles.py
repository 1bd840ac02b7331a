"""Log files of detached processes, read from their end and followed; `cluster.log_files` bounds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from cluster.log_files import older_part

_CHUNK: Final = 64 * 1024
_POLL_S: Final = 0.2


async def follow_file(log: Path, tail: int | None, is_followed: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The older and the present file, from their last `tail` lines on; then what is appended while `is_followed`."""
    if _size(log) is None:
        return
    with log.open("rb") as file:
        if tail is None:
            older = older_part(log)
            if _size(older):
                yield await asyncio.to_thread(older.read_bytes)
        else:
            file.seek(_start_of_tail(log, tail))
        while True:
            may_grow = is_followed()
            while chunk := file.read(_CHUNK):
                yield chunk
            if not may_grow:
                return
            if (_size(log) or 0) < file.tell():
                file.seek(0)
            await asyncio.sleep(_POLL_S)


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _start_of_tail(log: Path, lines: int) -> int:
    """The offset at which the last `lines` lines begin; a last line without its end counts."""
    with log.open("rb") as file:
        end = position = file.seek(0, 2)
        if lines <= 0:
            return end
        block = b""
        while position > 0 and block[:-1].count(b"\n") < lines:
            step = min(_CHUNK, position)
            position -= step
            file.seek(position)
            block = file.read(step) + block
        before_last, last = block[:-1], block[-1:]
        return end - len(b"\n".join(before_last.split(b"\n")[-lines:]) + last)
