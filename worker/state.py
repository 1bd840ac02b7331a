"""What the worker keeps on disk: instances, fences, the outbox and its own identity, in SQLite.

One commit carries everything that one batch of events changed, so that a state message and the record it came from are
saved together; `synchronous=FULL` lets a commit survive a power loss. The lease is a plain file: it changes every two
seconds, means nothing after a reboot, and must not wear out flash.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from cluster.documents import parse_job
from cluster.jobs import JobSpec
from worker.records import Cause, Fence, Forget, Instance, Phase, Publish, Ref, Save, Status

SCHEMA_VERSION: Final = 2
FENCES_KEPT: Final = 10_000
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (
    job_id TEXT, number INTEGER, generation INTEGER, name TEXT NOT NULL, document TEXT NOT NULL,
    phase TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL, exit_code INTEGER, failures INTEGER NOT NULL,
    has_run INTEGER NOT NULL, cause TEXT NOT NULL, leased_at REAL,
    PRIMARY KEY (job_id, number, generation)) WITHOUT ROWID;
CREATE TABLE fences (
    job_id TEXT, number INTEGER, generation INTEGER NOT NULL, PRIMARY KEY (job_id, number)) WITHOUT ROWID;
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, number INTEGER NOT NULL,
    generation INTEGER NOT NULL, job_name TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL,
    exit_code INTEGER, at_ms INTEGER NOT NULL, incoming TEXT NOT NULL DEFAULT '');
"""
_FROM_1: Final = "ALTER TABLE outbox ADD COLUMN incoming TEXT NOT NULL DEFAULT '';"
_SAVE: Final = """
INSERT OR REPLACE INTO instances VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)
"""


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


class State:
    """The worker's database. Every method blocks for a moment, a commit for as long as the disk takes."""

    def __init__(self, folder: Path, *, boot_id: str | None = None) -> None:
        """Open or create it. Raises OSError or sqlite3.Error where the folder cannot be used."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lease_file = folder / "lease"
        self._lock = threading.Lock()
        self._database = sqlite3.connect(folder / "worker.db", check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-256", "busy_timeout=5000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._migrate()
        self.boot_id = boot_id if boot_id is not None else _read_boot_id()
        self.is_new_boot = self.meta("boot_id") not in ("", self.boot_id)
        self.set_meta(boot_id=self.boot_id)
        if not self.meta("installation"):
            self.set_meta(installation=uuid.uuid4().hex)

    def close(self) -> None:
        """Close it; nothing is lost without."""
        self._database.close()

    def meta(self, name: str) -> str:
        """A kept fact, e.g. node_id; "" where unknown."""
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_meta(self, **facts: str) -> None:
        """Keep facts."""
        with self._lock:
            self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(facts.items()))

    def instances(self) -> list[Instance]:
        """Every instance on disk."""
        return [_instance(row) for row in self._database.execute("SELECT * FROM instances")]

    def fences(self) -> dict[tuple[str, int], int]:
        """The highest generation of each slot that has ended for good."""
        rows = self._database.execute("SELECT job_id, number, generation FROM fences")
        return {(job_id, number): generation for job_id, number, generation in rows}

    def commit(
        self, changes: Iterable[Save | Publish | Fence | Forget], at_ms: int, acknowledged: Iterable[int] = ()
    ) -> list[Message]:
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
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        return messages

    def outbox(self) -> list[Message]:
        """What the broker has not acknowledged, in order."""
        return [_message(row) for row in self._database.execute("SELECT * FROM outbox ORDER BY sequence")]

    def last_sequence(self) -> int:
        """The sequence of the newest state message ever written here; 0 before the first."""
        row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return int(row[0]) if row else 0

    def save_lease(self, at: float) -> None:
        """Note the last lease, without waiting for the disk."""
        fresh = self._lease_file.with_suffix(".new")
        fresh.write_text(f"{self.boot_id} {at!r}")
        fresh.replace(self._lease_file)

    def lease(self) -> float | None:
        """The last lease of this boot; None where there was none."""
        try:
            boot_id, at = self._lease_file.read_text().split()
            return float(at) if boot_id == self.boot_id else None
        except (OSError, ValueError):
            return None

    def _apply(self, change: Save | Publish | Fence | Forget, at_ms: int) -> Message | None:
        match change:
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
            state.detail,
            state.exit_code,
            at_ms,
            state.incoming,
        )
        cursor = self._database.execute(
            "INSERT INTO outbox (job_id, number, generation, job_name, status, detail, exit_code, at_ms,"
            " incoming) VALUES (?,?,?,?,?,?,?,?,?)",
            row,
        )
        return _message((cursor.lastrowid, *row))

    def _migrate(self) -> None:
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"the state is of version {found}; this worker knows {SCHEMA_VERSION}")
        if found == 0:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif found == 1:
            self._database.executescript(f"BEGIN; {_FROM_1} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
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
        item.detail,
        item.exit_code,
        item.failures,
        item.has_run,
        item.cause,
        item.leased_at,
    )


def _instance(row: tuple[object, ...]) -> Instance:
    job_id, number, generation, _, document, phase, status, detail, exit_code, failures, has_run, cause, leased = row
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
    )


def _spec(document: str) -> JobSpec:
    return parse_job(orjson.loads(document))


def _message(row: tuple[object, ...]) -> Message:
    sequence, job_id, number, generation, job_name, status, detail, exit_code, at_ms, incoming = row
    return Message(
        sequence=_int(sequence),
        ref=Ref(str(job_id), _int(number), _int(generation)),
        job_name=str(job_name),
        status=Status(str(status)),
        detail=str(detail),
        exit_code=None if exit_code is None else _int(exit_code),
        at_ms=_int(at_ms),
        incoming=str(incoming),
    )


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
