"""Keeping a file that others append to within a bound, its older part beside it; a full disk does not stop that."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

LARGEST_BYTES: Final = 10 * 1024 * 1024
KEPT_BYTES: Final = 64 * 1024


def older_part(log: Path) -> Path:
    """Where what was cut off lies."""
    return Path(f"{log}.1")


def bound(log: Path, largest_bytes: int = LARGEST_BYTES) -> bool:
    """Where it has become larger, copy it to its older part and empty it: who writes appends, and goes on doing so.

    Where there is no room for the copy only its end is kept. Answers whether it was cut; raises nothing.
    """
    try:
        if log.stat().st_size <= largest_bytes:
            return False
        end = b"" if _copied(log) else _end_of(log, min(KEPT_BYTES, largest_bytes // 2))
        os.truncate(log, 0)
    except OSError:
        return False
    if end:
        with contextlib.suppress(OSError), log.open("ab") as file:
            file.write(end)
    return True


def _copied(log: Path) -> bool:
    older = older_part(log)
    try:
        shutil.copyfile(log, older)
    except OSError:
        with contextlib.suppress(OSError):
            older.unlink(missing_ok=True)
        return False
    return True


def _end_of(log: Path, size_bytes: int) -> bytes:
    with log.open("rb") as file:
        file.seek(-size_bytes, os.SEEK_END)
        return file.read()
