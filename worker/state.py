"""What the worker keeps on disk: instances, fences, the outbox and its own identity, in SQLite.

One commit carries everything that one batch of events changed, so that a state message and the record it came from are
saved together; `synchronous=FULL` lets a commit survive a power loss, and a reserve lets it succeed on a full disk. One
process has the database at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import orjson
import structlog

from cluster.documents import parse_job
from cluster.errors import ClusterError
from cluster.jobs import JobSpec
from worker import reserve
from worker.lease_file import LeaseFile
from worker.records import Cause, Fence, Forget, Instance, Phase, Publish, Ref, Save, Status

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
SCHEMA_VERSION: Final = 3
FENCES_KEPT: Final = 10_000
LOCKED_S: Final = 5.0
_NO_VALUE: Final = (OverflowError, ValueError, TypeError)
_NEVER: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    *_NO_VALUE,
)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PRAGMAS: Final = (
    "locking_mode=EXCLUSIVE",  # the log's index is in memory then: a file of it could not be made on a full disk
    "journal_mode=WAL",
    "synchronous=FULL",
    "temp_store=MEMORY",
    "cache_size=-256",
    f"wal_autocheckpoint={reserve.CHECKPOINT_PAGES}",
)
_SCHEMA: Final = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (
    job_id TEXT, number INTEGER, generation INTEGER, name TEXT NOT NULL, document TEXT NOT NULL,
    phase TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL, exit_code INTEGER, failures INTEGER NOT NULL,
    has_run INTEGER NOT NULL, cause TEXT NOT NULL, leased_at REAL, restarts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, number, generation)) WITHOUT ROWID;
CREATE TABLE fences (
    job_id TEXT, number INTEGER, generation INTEGER NOT NULL, PRIMARY KEY (job_id, number)) WITHOUT ROWID;
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, number INTEGER NOT NULL,
    generation INTEGER NOT NULL, job_name TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL,
    exit_code INTEGER, at_ms INTEGER NOT NULL, incoming TEXT NOT NULL DEFAULT '',
    restarts INTEGER NOT NULL DEFAULT 0);
{reserve.SCHEMA}
"""
_UPGRADES: Final = {
    1: "ALTER TABLE outbox ADD COLUMN incoming TEXT NOT NULL DEFAULT '';",
    2: f"""
    ALTER TABLE instances ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE outbox ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
    {reserve.SCHEMA}
    """,
}
_SAVE: Final = "INSERT OR REPLACE INTO instances VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_KEEP: Final = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


@dataclass(frozen=True, kw_only=True)
class Message:
    """A state message that the broker has not acknowledged yet."""

    sequence: int
    ref: Ref
    job_name: str
    status: Status
    detail: str
    exit_code: int | None
    at_ms: int
    incoming: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Keep:
    """Keep a fact about this worker, e.g. its node_id."""

    name: str
    value: str


Change: TypeAlias = Save | Publish | Fence | Forget | Keep


class State:
    """The worker's database. Every method blocks for a moment, a commit for as long as the disk takes."""

    def __init__(self, folder: Path, *, boot_id: str | None = None) -> None:
        """Open or create it. Raises OSError or sqlite3.Error where the folder cannot be used."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "worker.db"
        self._lock = threading.Lock()
        reserve.give_back_log(self._path)
        self._database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=LOCKED_S)
        try:
            self._open()
        except BaseException:
            self._database.close()
            raise
        self.boot_id = boot_id if boot_id is not None else _read_boot_id()
        self._lease = LeaseFile(folder / "lease", self.boot_id)
        self.is_new_boot = self.meta("boot_id") not in ("", self.boot_id)
        self._prepare_for_a_full_disk()

    def _open(self) -> None:
        try:
            for pragma in _PRAGMAS:
                self._database.execute(f"PRAGMA {pragma}").fetchall()
            self._migrate()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            words = f"{self._path} is in use by another worker; give each its own WORKER_DATA_DIR"
            raise sqlite3.OperationalError(words) from None
        if not self.meta("installation"):
            self.commit([Keep("installation", uuid.uuid4().hex)], 0)

    def _prepare_for_a_full_disk(self) -> None:
        """What cannot be had now because it is full already is made up for later, or is not needed."""
        try:
            if self.meta("boot_id") != self.boot_id:
                self.commit([Keep("boot_id", self.boot_id)], 0)
            reserve.top_up(self._database, self._path)
            self._lease.reserve()
        except (OSError, sqlite3.Error) as error:
            LOG.warning("the disk of the worker's data is full", why=str(error), path=str(self._path.parent))

    def close(self) -> None:
        """Close it; nothing is lost without."""
        reserve.keep_log(self._path)
        self._database.close()

    def meta(self, name: str) -> str:
        """A kept fact, e.g. node_id; "" where unknown."""
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def instances(self) -> list[Instance]:
        """Every instance on disk; one that cannot be read is left there and told, and holds up no other."""
        found = []
        for row in self._database.execute("SELECT * FROM instances").fetchall():
            try:
                found.append(_instance(row))
            except (ValueError, AssertionError, ClusterError) as error:
                LOG.error("a saved instance cannot be read and is passed over", instance=row[:3], why=str(error))
        return found

    def fences(self) -> dict[tuple[str, int], int]:
        """The highest generation of each slot that has ended for good."""
        rows = self._database.execute("SELECT job_id, number, generation FROM fences")
        return {(job_id, number): generation for job_id, number, generation in rows}

    def commit(self, changes: Iterable[Change], at_ms: int, acknowledged: Iterable[int] = ()) -> list[Message]:
        """Write one batch in one transaction; answers the messages that were added to the outbox.

        Those of `acknowledged` sequences leave it.

        Raises sqlite3.Error, e.g. on a full disk; nothing of the batch is written then.
        """
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                messages = [fresh for change in changes if (fresh := self._apply(change, at_ms))]
                self._database.executemany("DELETE FROM outbox WHERE sequence = ?", [(item,) for item in acknowledged])
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, _NO_VALUE):  # no value that SQLite knows
                    raise sqlite3.DataError(str(error)) from error
                raise
            with contextlib.suppress(sqlite3.Error):
                reserve.top_up(self._database, self._path)
        return messages

    def refusal(self, change: Change) -> str:
        """Why this can never be saved, whatever the disk; "" where it can."""
        with self._lock:
            self._database.execute("BEGIN")
            try:
                self._apply(change, 0)
            except _NEVER as error:
                return str(error)
            except sqlite3.Error:
                return ""
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
        return ""

    def outbox(self) -> list[Message]:
        """What the broker has not acknowledged, in order."""
        return [_message(row) for row in self._database.execute("SELECT * FROM outbox ORDER BY sequence")]

    def last_sequence(self) -> int:
        """The sequence of the newest state message ever written here; 0 before the first."""
        row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return int(row[0]) if row else 0

    def save_lease(self, at: float) -> None:
        """Note the last lease, without waiting for the disk. Raises OSError."""
        self._lease.save(at)

    def lease(self) -> float | None:
        """The last lease of this boot; None where there was none."""
        return self._lease.read()

    def _apply(self, change: Change, at_ms: int) -> Message | None:
        match change:
            case Keep(name, value):
                self._database.execute(_KEEP, (name, value))
            case Publish():
                return self._enqueue(change, at_ms)
            case Save(instance):
                self._database.execute(_SAVE, _row(instance))
            case Fence(ref):
                row = (ref.job_id, ref.number, ref.generation)
                self._database.execute("INSERT OR REPLACE INTO fences VALUES (?, ?, ?)", row)
            case Forget(ref):
                where = "DELETE FROM instances WHERE job_id = ? AND number = ? AND generation = ?"
                self._database.execute(where, (ref.job_id, ref.number, ref.generation))
        return None

    def _enqueue(self, state: Publish, at_ms: int) -> Message:
        ref = state.ref
        row = (
            ref.job_id,
            ref.number,
            ref.generation,
            state.job_name,
            state.status,
            _storable(state.detail),
            state.exit_code,
            at_ms,
            state.incoming,
            state.restarts,
        )
        cursor = self._database.execute(
            "INSERT INTO outbox (job_id, number, generation, job_name, status, detail, exit_code, at_ms,"
            " incoming, restarts) VALUES (?,?,?,?,?,?,?,?,?,?)",
            row,
        )
        return _message((cursor.lastrowid, *row))

    def _migrate(self) -> None:
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"the state is of version {found}; this worker knows {SCHEMA_VERSION}")
        if found == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        for version in range(max(found, 1), SCHEMA_VERSION if found else 0):
            self._database.executescript(f"BEGIN; {_UPGRADES[version]} PRAGMA user_version = {version + 1}; COMMIT;")
        self._database.execute(
            "DELETE FROM fences WHERE generation < (SELECT generation FROM fences ORDER BY generation DESC"
            " LIMIT 1 OFFSET ?)",
            (FENCES_KEPT,),
        )


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def _row(item: Instance) -> tuple[object, ...]:
    return (
        item.ref.job_id,
        item.ref.number,
        item.ref.generation,
        item.spec.name,
        item.spec.document,
        item.phase,
        item.status,
        _storable(item.detail),
        item.exit_code,
        item.failures,
        item.has_run,
        item.cause,
        item.leased_at,
        item.restarts,
    )


def _instance(row: tuple[object, ...]) -> Instance:
    job_id, number, generation, _, document, phase, status, detail, exit_code, failures, *later = row
    has_run, cause, leased, restarts = later
    return Instance(
        ref=Ref(str(job_id), _int(number), _int(generation)),
        spec=_spec(str(document)),
        phase=Phase(str(phase)),
        status=Status(str(status)),
        detail=str(detail),
        exit_code=None if exit_code is None else _int(exit_code),
        failures=_int(failures),
        has_run=bool(has_run),
        cause=Cause(str(cause)),
        leased_at=leased if isinstance(leased, float) else None,
        restarts=_int(restarts),
    )


def _spec(document: str) -> JobSpec:
    return parse_job(orjson.loads(document))


def _message(row: tuple[object, ...]) -> Message:
    sequence, job_id, number, generation, job_name, status, detail, exit_code, at_ms, incoming, restarts = row
    return Message(
        sequence=_int(sequence),
        ref=Ref(str(job_id), _int(number), _int(generation)),
        job_name=str(job_name),
        status=Status(str(status)),
        detail=str(detail),
        exit_code=None if exit_code is None else _int(exit_code),
        at_ms=_int(at_ms),
        incoming=str(incoming),
        restarts=_int(restarts),
    )


def _storable(text: str) -> str:
    """A file's name may hold what is no text; that must keep no batch from being saved and no state from leaving."""
    return text.encode(errors="backslashreplace").decode()


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
