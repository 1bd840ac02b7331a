"""The store that several managers can share: MongoDB, or any server that speaks its protocol.

Every change is a compare-and-set on one document; many go into one command. A bulk answers only how many documents
matched. Where that is fewer than were asked, the documents tell which: each keeps the names of its last changes in
`writes`, so a change that held is found there even after others came on top of it. A removal is such a change too: it
marks the document, and what is marked is then deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import mongoengine
from bson.errors import BSONError
from pymongo import InsertOne, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from cluster.errors import InvalidInputError
from manager.ports import Change, Contents, Kind, StoreError
from manager.store import codec, documents, migrations
from manager.store.shapes import Document

_DEFAULT_DATABASE: Final = "cluster"
_SERVER_SELECTION_MS: Final = 5_000
_SOCKET_MS: Final = 30_000
_WRITE_CONCERN: Final = WriteConcern("majority", wtimeout=10_000, j=True)
_KEPT_WRITES: Final = 8
_REMOVED: Final = -1
_DUPLICATE_KEY: Final = 11000
_MIGRATED_AT_ONCE: Final = 500
_STATE: Final = {"_id": "store"}

_Documents = Collection[dict[str, Any]]


class _Named(NamedTuple):
    """A change with a name of its own among all changes of all writers, and what carries it out."""

    name: str
    change: Change
    operation: InsertOne[dict[str, Any]] | UpdateOne


class MongoStore:
    """The Store port on a MongoDB. Writes are acknowledged by a majority that has them in its journals.

    After a StoreError the next call connects anew. Raises InvalidInputError for a URL that is none.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = parse_uri(url)
        except (PyMongoError, ValueError) as error:
            raise InvalidInputError(f"the store's URL is no MongoDB URL: {error}", field="STORE_URL") from error
        self._url = url
        self._address = ", ".join(f"{host}:{port}" for host, port in parsed["nodelist"])
        self._alias = f"store-{uuid.uuid4().hex}"
        self._names = (f"{self._alias[6:18]}-{number}" for number in itertools.count())
        self._database: Database[dict[str, Any]] | None = None

    def open(self) -> None:
        """Connect, make indexes, migrate. Raises StoreError."""
        if self._database is not None:
            return
        try:
            with self._failures_told():
                self._database = self._connect()
                self._prepare()
        except BaseException:
            self.close()
            raise

    def load(self) -> Contents:
        """Read everything that a majority has. Raises StoreError."""
        contents = codec.ContentsBuilder()
        with self._failures_told():
            for kind in Kind:
                found = self._collection(kind).find({"version": {"$ne": _REMOVED}}, {"schema": 1, "document": 1})
                for item in found:
                    contents.add(kind, item["_id"], migrations.upgraded(kind, item["document"], item["schema"]))
        return contents.build()

    def write(self, changes: Sequence[Change]) -> list[Change]:
        """One command for each run of one kind; answers the changes whose `expected` did not hold.

        Raises StoreError.
        """
        conflicts: list[Change] = []
        with self._failures_told():
            for run in _runs(self._named(change) for change in changes):
                conflicts += [item.change for item in self._write_run(run)]
        return conflicts

    def ping(self) -> None:
        """Write a counter. Raises StoreError where that fails."""
        with self._failures_told():
            self._state().update_one(_STATE, {"$inc": {"pings": 1}}, upsert=True)

    def close(self) -> None:
        """Disconnect; may be called twice."""
        mongoengine.disconnect(self._alias)
        self._database = None

    def _connect(self) -> Database[dict[str, Any]]:
        mongoengine.connect(
            db=_DEFAULT_DATABASE,
            alias=self._alias,
            host=self._url,
            appname="cluster-manager",
            serverSelectionTimeoutMS=_SERVER_SELECTION_MS,
            connectTimeoutMS=_SERVER_SELECTION_MS,
            socketTimeoutMS=_SOCKET_MS,
            uuidRepresentation="standard",
        )
        database: Database[dict[str, Any]] = mongoengine.get_db(self._alias)
        return database.with_options(  # here, so that no option in the URL weakens it
            write_concern=_WRITE_CONCERN,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )

    def _prepare(self) -> None:
        schema = (self._state().find_one(_STATE) or {}).get("schema", 0)
        migrations.check(schema)
        documents.create_indexes(self._opened())
        for kind in Kind:
            self._collection(kind).delete_many({"version": _REMOVED})
            if schema < migrations.SCHEMA:
                _migrate(kind, self._collection(kind))
        self._state().update_one(_STATE, {"$max": {"schema": migrations.SCHEMA}}, upsert=True)

    def _opened(self) -> Database[dict[str, Any]]:
        if self._database is None:
            raise StoreError(f"the store at {self._address} is not open")
        return self._database

    def _collection(self, kind: Kind) -> _Documents:
        return self._opened()[documents.collection_name(documents.RECORDS[kind])]

    def _state(self) -> _Documents:
        return self._opened()[documents.collection_name(documents.StoreDocument)]

    def _named(self, change: Change) -> _Named:
        name = next(self._names)
        try:
            return _Named(name, change, _operation(name, change))
        except TypeError as error:
            raise StoreError(f"the {change.kind.value} {change.id!r} cannot be saved: {error}") from error

    def _write_run(self, run: list[_Named]) -> list[_Named]:
        collection = self._collection(run[0].change.kind)
        removals = [item.change.id for item in run if item.change.record is None]
        conflicts: list[_Named] = []
        while run:
            done, run, matched = _send(collection, run)
            conflicts += _unmatched(collection, done, matched)
            if run:
                run, existing = _without_existing(collection, run)
                conflicts += existing
        if removals:
            _purge(collection, removals)
        return conflicts

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except (PyMongoError, mongoengine.ConnectionFailure, BSONError, OverflowError, UnicodeError) as error:
            raise StoreError(f"MongoDB at {self._address} failed: {error}") from error


def _runs(items: Iterable[_Named]) -> Iterator[list[_Named]]:
    """Cut into runs of one kind, in each of which no id comes twice."""
    run: list[_Named] = []
    ids: set[str] = set()
    for item in items:
        if run and (item.change.kind is not run[0].change.kind or item.change.id in ids):
            yield run
            run, ids = [], set()
        run.append(item)
        ids.add(item.change.id)
    if run:
        yield run


def _operation(name: str, change: Change) -> InsertOne[dict[str, Any]] | UpdateOne:
    values = {"version": _REMOVED} if change.record is None else documents.raw(change.record)
    if change.expected == 0 and change.record is not None:
        return InsertOne({"_id": change.id, **values, "writes": [name]})
    push = {"writes": {"$each": [name], "$slice": -_KEPT_WRITES}}
    return UpdateOne({"_id": change.id, "version": change.expected}, {"$set": values, "$push": push})


def _send(collection: _Documents, run: list[_Named]) -> tuple[list[_Named], list[_Named], int]:
    """What was carried out, what was not (from the first insert whose id exists), how many updates matched."""
    try:
        return run, [], collection.bulk_write([item.operation for item in run]).matched_count
    except BulkWriteError as error:
        details = error.details or {}
        failed = details.get("writeErrors", ())
        if details.get("writeConcernErrors") or len(failed) != 1 or failed[0]["code"] != _DUPLICATE_KEY:
            raise
        index = failed[0]["index"]
        return run[:index], run[index:], details["nMatched"]


def _unmatched(collection: _Documents, done: list[_Named], matched: int) -> list[_Named]:
    updates = [item for item in done if isinstance(item.operation, UpdateOne)]
    if matched == len(updates):
        return []
    if matched == 0:
        return updates
    ids = [item.change.id for item in updates]
    found = {item["_id"]: item for item in _latest(collection).find({"_id": {"$in": ids}}, {"version": 1, "writes": 1})}
    return [item for item in updates if not _held(item, found.get(item.change.id))]


def _held(item: _Named, document: Document | None) -> bool:
    """Whether a change was applied; one that was and whose record is gone by now may count as not applied."""
    if document is None or item.name in document.get("writes", ()):
        return document is not None
    record = item.change.record
    if record is not None and document["version"] - record.version >= _KEPT_WRITES:
        raise StoreError(f"others changed {item.change.id!r} so often at once that it must be loaded again")
    return False


def _without_existing(collection: _Documents, run: list[_Named]) -> tuple[list[_Named], list[_Named]]:
    """Split off the inserts whose id is taken, after what is marked as removed has made room."""
    ids = [item.change.id for item in run if isinstance(item.operation, InsertOne)]
    _purge(collection, ids)
    taken = {item["_id"] for item in _latest(collection).find({"_id": {"$in": ids}}, {"_id": 1})}
    return [item for item in run if item.change.id not in taken], [item for item in run if item.change.id in taken]


def _latest(collection: _Documents) -> _Documents:
    return collection.with_options(read_concern=ReadConcern("local"))


def _purge(collection: _Documents, ids: list[str]) -> None:
    collection.delete_many({"_id": {"$in": ids}, "version": _REMOVED})


def _migrate(kind: Kind, collection: _Documents) -> None:
    older = collection.find({"schema": {"$lt": migrations.SCHEMA}})
    while chunk := list(itertools.islice(older, _MIGRATED_AT_ONCE)):
        collection.bulk_write([_migration(kind, item) for item in chunk])


def _migration(kind: Kind, item: Document) -> UpdateOne:
    document = migrations.upgraded(kind, item["document"], item["schema"])
    seen = {name: item[name] for name in ("_id", "version", "schema")}
    return UpdateOne(seen, {"$set": {"schema": migrations.SCHEMA, "document": document}})
