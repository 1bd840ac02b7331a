"""Room on the disk that the worker's database has in advance, so that it can save on a full one.

Free pages inside the database file, and a write-ahead log that is as long already as it ever becomes: commits of
ordinary size then overwrite what is allocated. That holds where files are overwritten in place (ext4, xfs, tmpfs,
overlayfs upon them); file systems that write every change anew (btrfs, ZFS) may refuse it all the same.

SQLite removes the log when it closes the database. A second name keeps the file, and the next start gives it back.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

SCHEMA: Final = "CREATE TABLE reserve (filling BLOB NOT NULL);"
RESERVE_BYTES: Final = 1024 * 1024
CHECKPOINT_PAGES: Final = 100
_FEWEST_FREE_PAGES: Final = 64
_MARGIN_BYTES: Final = RESERVE_BYTES // 4
_HEADER_BYTES: Final = 32


def log_of(database: Path) -> Path:
    """SQLite's write-ahead log."""
    return Path(f"{database}-wal")


def _kept_log_of(database: Path) -> Path:
    return Path(f"{database}-reserve")


def give_back_log(database: Path) -> None:
    """Before the database is opened: the log's file as it was kept, without its header, which makes it an empty log."""
    log, kept = log_of(database), _kept_log_of(database)
    with contextlib.suppress(OSError):
        if log.exists() or not database.exists():
            kept.unlink(missing_ok=True)
        else:
            with kept.open("r+b") as file:
                file.write(bytes(_HEADER_BYTES))
                file.flush()
                os.fsync(file.fileno())
            kept.rename(log)


def keep_log(database: Path) -> None:
    """Before the database is closed: what SQLite removes then is there under another name still."""
    with contextlib.suppress(OSError):  # a file system without hard links keeps nothing
        if log_of(database).exists():
            _kept_log_of(database).unlink(missing_ok=True)
            _kept_log_of(database).hardlink_to(log_of(database))


def is_enough(connection: sqlite3.Connection, database: Path) -> bool:
    """Whether commits of ordinary size need no more room."""
    free_pages = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return bool(free_pages >= _FEWEST_FREE_PAGES and _size_bytes(log_of(database)) >= RESERVE_BYTES)


def top_up(connection: sqlite3.Connection, database: Path) -> None:
    """Make it whole, where the disk has room for that. Raises sqlite3.Error."""
    if is_enough(connection, database):
        return
    needed_bytes = RESERVE_BYTES + max(0, RESERVE_BYTES - _size_bytes(log_of(database)))
    if not _has_room(database.with_suffix(".probe"), needed_bytes + _MARGIN_BYTES):
        return
    try:
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (RESERVE_BYTES,))
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    finally:
        connection.execute("DELETE FROM reserve")


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _has_room(probe: Path, size_bytes: int) -> bool:
    """Whether the disk takes that much, quotas included: half a reserve is worse than none."""
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError:
        return False
    else:
        return True
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
