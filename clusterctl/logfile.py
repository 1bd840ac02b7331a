"""A child's log: appended to by the child, bounded by the supervisor, with one older part beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO, Final

LARGEST_BYTES: Final = 10 * 1024 * 1024
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 8


class LogFile:
    """The log at `path`; its older part is `path`.1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def opened(self) -> BinaryIO:
        """The file for a new run of the child, to append to."""
        self.bound()
        log = self.path.open("ab")
        self._start = log.tell()
        return log

    def bound(self) -> None:
        """Where it has become too large, copy it to the older part and empty it; the child goes on appending."""
        if self.path.exists() and self.path.stat().st_size > LARGEST_BYTES:
            shutil.copyfile(self.path, f"{self.path}.1")
            os.truncate(self.path, 0)
            self._start = 0

    def last_words(self) -> list[str]:
        """The last lines of the last run."""
        with self.path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._start, end - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return text.splitlines()[-_TAIL_LINES:]
