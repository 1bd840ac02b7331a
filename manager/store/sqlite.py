"""The embedded store: one SQLite file, written through on every batch, owned by one process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from manager.ports import Change, Contents, Kind, StoreError
from manager.store import codec, migrations
from manager.store.ownership import Ownership
from manager.store.shapes import Document

_BUSY_TIMEOUT_S: Final = 5.0
_TABLE: Final = """CREATE TABLE IF NOT EXISTS KIND (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, schema INTEGER NOT NULL,
    name TEXT, state TEXT, job_id TEXT, number INTEGER, document TEXT NOT NULL)"""
_PINGS: Final = "CREATE TABLE IF NOT EXISTS ping (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)"
_PING: Final = "INSERT INTO ping VALUES (0, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1"
_INSERT: Final = """INSERT INTO KIND (version, schema, name, state, job_id, number, document, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"""
_UPDATE: Final = """UPDATE KIND SET version = ?, schema = ?, name = ?, state = ?, job_id = ?, number = ?, document = ?
    WHERE id = ? AND version = ?"""
_DELETE: Final = "DELETE FROM KIND WHERE id = ? AND version = ?"
_LOAD: Final = "SELECT id, schema, document FROM KIND"
_OLDER: Final = "SELECT id, schema, document FROM KIND WHERE schema < ?"
_MIGRATE: Final = "UPDATE KIND SET schema = ?, document = ? WHERE id = ?"


class SqliteStore:
    """The Store port on a file. WAL and synchronous=FULL: an answered write survives the loss of power.

    After a StoreError the next call connects anew; the file stays owned until `close`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._ownership = Ownership(self._path)
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Make folder and file, own them, migrate. Raises StoreLockedError or StoreError."""
        with self._mutex:
            try:
                _make_folder(self._path.parent)
                self._ownership.take()
                with self._failures_told():
                    self._connected()
            except OSError as error:
                raise StoreError(f"the store {self._path} cannot be made: {error}") from error
            finally:
                if self._connection is None:
                    self._ownership.give_back()

    def load(self) -> Contents:
        """Read everything. Raises StoreError."""
        contents = codec.ContentsBuilder()
        with self._mutex, self._failures_told():
            for kind in Kind:
                for record_id, schema, text in self._connected().execute(_sql(_LOAD, kind)):
                    document = _parsed(kind, record_id, text)
                    contents.add(kind, record_id, migrations.upgraded(kind, document, schema))
        return contents.build()

    def write(self, changes: Sequence[Change]) -> list[Change]:
        """One transaction, one sync; answers the changes whose `expected` did not hold. Raises StoreError."""
        if not changes:
            return []
        statements = [_statement(change) for change in changes]
        with self._mutex, self._transaction() as connection:
            counts = [connection.execute(sql, values).rowcount for sql, values in statements]
        return [change for change, count in zip(changes, counts, strict=True) if count == 0]

    def ping(self) -> None:
        """Write a counter. Raises StoreError where that fails."""
        with self._mutex, self._transaction() as connection:
            connection.execute(_PING)

    def close(self) -> None:
        """Close the file and give it up; may be called twice."""
        with self._mutex:
            self._disconnect()
            self._ownership.give_back()

    def _connected(self) -> sqlite3.Connection:
        if not self._ownership.is_held:
            raise StoreError(f"the store {self._path} is not open")
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            _prepare(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._failures_told():
            connection = self._connected()
            with _transaction(connection):
                yield connection

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Drop a connection that failed (closing it rolls back), and say what the failure means."""
        try:
            yield
        except sqlite3.Error as error:
            self._disconnect()
            raise StoreError(f"the store {self._path} failed: {error}; {_remedy(error)}") from error
        except BaseException:
            self._disconnect()
            raise


def _prepare(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"this file system gives no write-ahead log but {mode!r}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")
    connection.execute("PRAGMA journal_size_limit=67108864")
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    migrations.check(schema)
    if schema < migrations.SCHEMA:
        _migrate(connection)


def _migrate(connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        connection.execute(_PINGS)
        for kind in Kind:
            connection.execute(_sql(_TABLE, kind))
            for record_id, schema, text in connection.execute(_sql(_OLDER, kind), (migrations.SCHEMA,)).fetchall():
                document = migrations.upgraded(kind, _parsed(kind, record_id, text), schema)
                text = orjson.dumps(document).decode()
                connection.execute(_sql(_MIGRATE, kind), (migrations.SCHEMA, text, record_id))
        connection.execute(f"PRAGMA user_version={migrations.SCHEMA}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _statement(change: Change) -> tuple[str, tuple[Any, ...]]:
    record = change.record
    if record is None:
        return _sql(_DELETE, change.kind), (change.id, change.expected)
    try:
        text = orjson.dumps(codec.encode(record)).decode()
    except TypeError as error:
        raise StoreError(f"the {change.kind.value} {change.id!r} cannot be saved: {error}") from error
    values = (record.version, migrations.SCHEMA, *codec.columns(record), text, change.id)
    if change.expected == 0:
        return _sql(_INSERT, change.kind), values
    return _sql(_UPDATE, change.kind), (*values, change.expected)


def _parsed(kind: Kind, record_id: str, text: str) -> Document:
    try:
        document: Document = orjson.loads(text)
    except ValueError as error:
        raise StoreError(codec.unreadable(kind, record_id, error)) from error
    return document


def _sql(template: str, kind: Kind) -> str:
    return template.replace("KIND", kind.value)


def _remedy(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "restore it from a backup, or move it away to begin with an empty one: what runs on the nodes goes on"
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return "another program holds it locked: end that one"
    return "look for a full disk, missing rights and disk errors"


def _make_folder(folder: Path) -> None:
    """Make it with its parents, each name synced: a file is not safe in a folder that a loss of power forgets."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
