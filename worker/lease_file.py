"""The last lease, in a file that is overwritten in place: it changes every two seconds and must not need a free disk.

Nobody waits for it to reach the disk: it means nothing after a reboot, and must not wear out flash.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_SIZE_BYTES: Final = 128


class LeaseFile:
    """Holds the boot and the time of the last lease, blanks behind them."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id

    def save(self, at: float) -> None:
        """Note a lease. Raises OSError, on a full disk only where none was ever noted before."""
        text = f"{self._boot_id} {at!r}".ljust(_SIZE_BYTES - 1) + "\n"
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(handle, text.encode(), 0)
        finally:
            os.close(handle)

    def read(self) -> float | None:
        """The last lease of this boot; None where there was none."""
        try:
            boot_id, at = self._path.read_text().split()
            return float(at) if boot_id == self._boot_id else None
        except (OSError, ValueError):
            return None

    def reserve(self) -> None:
        """Have its room before the disk is full. Raises OSError where it is full already."""
        with self._path.open("ab") as file:
            file.write(b" " * max(0, _SIZE_BYTES - file.tell()))
