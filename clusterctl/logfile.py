"""A child's log: appended to by the child, bounded by the supervisor, with one older part beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

from cluster import log_files

_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 8


class LogFile:
    """The log at `path`; its older part is `path`.1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def opened(self) -> BinaryIO:
        """The file for a new run of the child, to append to; where it cannot be opened the child runs without."""
        self.bound()
        try:
            log = self.path.open("ab")
        except OSError:
            return Path(os.devnull).open("ab")
        self._start = log.tell()
        return log

    def bound(self) -> None:
        """Where it has become too large, move what is there to the older part; the child goes on appending."""
        if log_files.bound(self.path):
            self._start = 0

    def last_words(self) -> list[str]:
        """The last lines of the last run, as far as they could be written."""
        try:
            with self.path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._start, end - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-_TAIL_LINES:]
