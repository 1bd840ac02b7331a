"""The embedded store: one SQLite file, written through on every batch, owned by one process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from manager.domain.model import KEPT_EVENTS, Event, Logged, Record
from manager.ports import Change, Contents, Kind, Quarantined, RecordId, StoreError
from manager.store import codec, migrations
from manager.store.library import SpecLibrary
from manager.store.ownership import Ownership
from manager.store.shapes import Document

_BUSY_TIMEOUT_S: Final = 5.0
_TABLE: Final = """CREATE TABLE IF NOT EXISTS KIND (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, schema INTEGER NOT NULL,
    name TEXT, state TEXT, job_id TEXT, number INTEGER, document TEXT NOT NULL)"""
_BESIDE: Final = (
    "CREATE TABLE IF NOT EXISTS ping (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS spec (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS event (
    subject TEXT NOT NULL, slot INTEGER NOT NULL, number INTEGER NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (subject, slot)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS quarantine (
    kind TEXT NOT NULL, id TEXT NOT NULL, document TEXT NOT NULL, error TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, id)) WITHOUT ROWID""",
)
_PING: Final = "INSERT INTO ping VALUES (0, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1"
_INSERT: Final = """INSERT INTO KIND (version, schema, name, state, job_id, number, document, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"""
_UPDATE: Final = """UPDATE KIND SET version = ?, schema = ?, name = ?, state = ?, job_id = ?, number = ?, document = ?
    WHERE id = ? AND version = ?"""
_DELETE: Final = "DELETE FROM KIND WHERE id = ? AND version = ?"
_LOAD: Final = "SELECT id, schema, document FROM KIND"
_READ: Final = "SELECT schema, document FROM KIND WHERE id = ?"
_OLDER: Final = "SELECT id, schema, document FROM KIND WHERE schema < ?"
_MIGRATE: Final = "UPDATE KIND SET schema = ?, document = ? WHERE id = ?"
_SPEC: Final = "INSERT OR IGNORE INTO spec VALUES (?, ?)"
_FIND_SPEC: Final = "SELECT document FROM spec WHERE key = ?"
_DROP_SPEC: Final = "DELETE FROM spec WHERE key = ?"
_EVENT: Final = "INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)"
_EVENTS: Final = "SELECT document FROM event WHERE subject = ? ORDER BY number"
_DROP_EVENTS: Final = "DELETE FROM event WHERE subject = ?"
_SET_ASIDE: Final = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?)"
_SET_OUT: Final = "DELETE FROM KIND WHERE id = ?"
_ASIDE: Final = "SELECT kind, id, document, error, at_ms FROM quarantine ORDER BY kind, id"
_RELEASE: Final = "DELETE FROM quarantine WHERE kind = ? AND id = ?"


class SqliteStore:
    """The Store port on a file. WAL and synchronous=FULL: an answered write survives the loss of power.

    After a StoreError the next call connects anew; the file stays owned until `close`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._ownership = Ownership(self._path)
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._library = SpecLibrary()

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

    def load(self, now_ms: int) -> Contents:
        """Read everything; what cannot be read goes into quarantine. Raises StoreError."""
        with self._mutex, self._failures_told():
            connection = self._connected()
            specs = dict(connection.execute("SELECT key, document FROM spec"))
            contents = codec.ContentsBuilder(lambda key: orjson.loads(specs[key]), now_ms)
            for kind in Kind:
                for record_id, schema, text in connection.execute(_sql(_LOAD, kind)):
                    contents.add(kind, record_id, text, partial(migrations.upgraded, kind, schema=schema))
            with _transaction(connection):
                _set_aside(connection, contents.unreadable)
            found = contents.build([_quarantined(row) for row in connection.execute(_ASIDE)])
            aside = "".join(item.document for item in found.quarantined)
            self._library.count((*found.nodes, *found.jobs, *found.instances), specs, aside)
        return found

    def read(self, ids: Sequence[RecordId]) -> dict[RecordId, Record]:
        """Those of these records that are there. Raises StoreError."""
        found: dict[RecordId, Record] = {}
        with self._mutex, self._failures_told():
            connection = self._connected()
            for kind, record_id in ids:
                row = connection.execute(_sql(_READ, kind), (record_id,)).fetchone()
                if row is not None:
                    document = migrations.upgraded(kind, orjson.loads(row[1]), row[0])
                    found[kind, record_id] = codec.read_one(kind, record_id, document, self._find_spec)
        return found

    def write(self, changes: Sequence[Change], events: Sequence[Logged] = ()) -> list[Change]:
        """One transaction, one sync; answers the changes whose `expected` did not hold. Raises StoreError."""
        if not changes and not events:
            return []
        with self._mutex:
            specs = self._library.fresh(change.record for change in changes)
            texts = [codec.text_of(change) for change in changes]
            spec_rows = codec.spec_texts(specs, changes)
            with self._doubted(), self._transaction() as connection:
                connection.executemany(_DROP_SPEC, [(key,) for key in self._library.unused(specs)])
                connection.executemany(_SPEC, spec_rows)
                counts = [_apply(connection, change, text) for change, text in zip(changes, texts, strict=True)]
                connection.executemany(_EVENT, [_event_row(logged) for logged in events])
            held = [change for change, count in zip(changes, counts, strict=True) if count]
            self._library.replaced((change.before, change.record) for change in held)
        return [change for change, count in zip(changes, counts, strict=True) if not count]

    def events(self, subject: str) -> list[Event]:
        """The logged events of a subject, oldest first. Raises StoreError."""
        with self._mutex, self._failures_told():
            rows = self._connected().execute(_EVENTS, (subject,)).fetchall()
        return codec.readable_events(orjson.loads, (text for (text,) in rows))

    def release(self, kind: Kind, record_id: str) -> None:
        """Drop a record from quarantine. Raises StoreError."""
        with self._mutex, self._transaction() as connection:
            connection.execute(_RELEASE, (kind.value, record_id))

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
            self._connection.text_factory = _readable
            _prepare(self._connection)
        return self._connection

    def _find_spec(self, key: str) -> Document:
        row = self._connected().execute(_FIND_SPEC, (key,)).fetchone()
        document: Document = orjson.loads(row[0])
        return document

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
    def _doubted(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._library.doubt()
            raise

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
        for statement in _BESIDE:
            connection.execute(statement)
        for kind in Kind:
            connection.execute(_sql(_TABLE, kind))
            for row in connection.execute(_sql(_OLDER, kind), (migrations.SCHEMA,)).fetchall():
                _migrate_one(connection, kind, *row)
        connection.execute(f"PRAGMA user_version={migrations.SCHEMA}")


def _readable(raw: bytes) -> str:
    """A text as it is, else one that is no JSON and shows which bytes it holds: its record is set aside."""
    return raw.decode(errors="backslashreplace")


def _migrate_one(connection: sqlite3.Connection, kind: Kind, record_id: str, schema: int, text: str) -> None:
    """Bring one document up to date; one that cannot be read stays as it is, for `load` to set aside."""
    try:
        document = migrations.upgraded(kind, orjson.loads(text), schema)
        record = codec.decode(kind, document, codec.no_spec, codec.Interner())
    except codec.UNREADABLE:
        return
    record, events = codec.slimmed(kind, record_id, record)
    specs = [(key, codec.text(codec.encode_spec(spec))) for key, spec in codec.specs_of(record).items()]
    connection.executemany(_SPEC, specs)
    connection.executemany(_EVENT, [_event_row(logged) for logged in events])
    connection.execute(_sql(_MIGRATE, kind), (migrations.SCHEMA, codec.text(codec.encode(record)), record_id))


def _set_aside(connection: sqlite3.Connection, unreadable: Sequence[Quarantined]) -> None:
    for item in unreadable:
        connection.execute(_SET_ASIDE, (item.kind.value, item.id, item.document, item.error, item.at_ms))
        connection.execute(_sql(_SET_OUT, item.kind), (item.id,))


def _quarantined(row: tuple[str, str, str, str, int]) -> Quarantined:
    kind, record_id, document, error, at_ms = row
    return Quarantined(kind=Kind(kind), id=record_id, document=document, error=error, at_ms=at_ms)


def _event_row(logged: Logged) -> tuple[str, int, int, str]:
    return (logged.subject, logged.number % KEPT_EVENTS, logged.number, codec.text(codec.encode_event(logged.event)))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _apply(connection: sqlite3.Connection, change: Change, text: str) -> int:
    """How many rows it changed: 0 where `expected` did not hold."""
    record = change.record
    if record is None:
        connection.execute(_DROP_EVENTS, (codec.subject_of(change.kind, change.id),))
        return connection.execute(_sql(_DELETE, change.kind), (change.id, change.expected)).rowcount
    values = (record.version, migrations.SCHEMA, *codec.columns(record), text, change.id)
    if change.expected == 0:
        return connection.execute(_sql(_INSERT, change.kind), values).rowcount
    return connection.execute(_sql(_UPDATE, change.kind), (*values, change.expected)).rowcount


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
