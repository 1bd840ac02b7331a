"""One owning process for a store in a file: a lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from manager.ports import StoreLockedError


class Ownership:
    """The lock on `PATH.lock`, which also tells who holds it. The file stays: removing it would race."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def take(self) -> None:
        """Take the lock; a no-op while it is held. Raises StoreLockedError, or OSError where no file can be made."""
        if self._descriptor is not None:
            return
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 100).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreLockedError(self._story(owner)) from None
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):  # who holds it is a courtesy: a full disk must not keep the owner out
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def give_back(self) -> None:
        """Release the lock; a no-op while it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _story(self, owner: str) -> str:
        return (
            f"the store {self._path} belongs to {owner or 'another process'}: stop that one, give this one a store "
            "of its own, or let several managers share a MongoDB (STORE_URL=mongodb://…)"
        )
