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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
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
from cluster.jobs import JobSpec
from manager.domain.model import KEPT_EVENTS, Event, Logged, Record
from manager.ports import Change, Contents, Kind, Quarantined, RecordId, StoreError
from manager.store import codec, documents, migrations
from manager.store.library import SpecLibrary
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
        self._library = SpecLibrary()

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

    def load(self, now_ms: int) -> Contents:
        """Read everything that a majority has; what cannot be read goes into quarantine. Raises StoreError."""
        with self._failures_told():
            specs = {item["_id"]: item["document"] for item in self._specs().find()}
            contents = codec.ContentsBuilder(specs.__getitem__, now_ms)
            for kind in Kind:
                found = self._collection(kind).find({"version": {"$ne": _REMOVED}}, {"schema": 1, "document": 1})
                for item in found:
                    upgrade = partial(migrations.upgraded, kind, schema=item["schema"])
                    contents.add(kind, item["_id"], item["document"], upgrade)
            self._set_aside(contents.unreadable)
            loaded = contents.build([_quarantined(item) for item in self._quarantine().find().sort("_id")])
            aside = "".join(item.document for item in loaded.quarantined)
            self._library.count((*loaded.nodes, *loaded.jobs, *loaded.instances), specs, aside)
        return loaded

    def read(self, ids: Sequence[RecordId]) -> dict[RecordId, Record]:
        """Those of these records that are there, as a majority has them. Raises StoreError."""
        found: dict[RecordId, Record] = {}
        with self._failures_told():
            for kind in Kind:
                wanted = [record_id for its_kind, record_id in ids if its_kind is kind]
                query = {"_id": {"$in": wanted}, "version": {"$ne": _REMOVED}}
                for item in self._collection(kind).find(query, {"schema": 1, "document": 1}) if wanted else ():
                    document = migrations.upgraded(kind, item["document"], item["schema"])
                    found[kind, item["_id"]] = codec.read_one(kind, item["_id"], document, self._find_spec)
        return found

    def write(self, changes: Sequence[Change], events: Sequence[Logged] = ()) -> list[Change]:
        """One command for each run of one kind; answers the changes whose `expected` did not hold.

        Specifications are there before what refers to them; events, of which each record keeps the last, come after
        their records. Raises StoreError.
        """
        conflicts: list[Change] = []
        for change in changes:
            codec.text_of(change)
        fresh = self._library.fresh(change.record for change in changes)
        codec.spec_texts(fresh, changes)
        with self._doubted(), self._failures_told():
            self._write_specs(fresh)
            for run in _runs(self._named(change) for change in changes):
                conflicts += [item.change for item in self._write_run(run)]
            self._write_events(changes, events)
        lost = {(change.kind, change.id) for change in conflicts}
        held = [change for change in changes if (change.kind, change.id) not in lost]
        self._library.replaced((change.before, change.record) for change in held)
        if conflicts:
            self._library.doubt()  # others write here too, and use what nothing of ours does
        return conflicts

    def events(self, subject: str) -> list[Event]:
        """The logged events of a subject, oldest first. Raises StoreError."""
        with self._failures_told():
            rows = [item["row"] for item in self._events().find({"subject": subject}).sort("number")]
        return codec.readable_events(list, rows)

    def release(self, kind: Kind, record_id: str) -> None:
        """Drop a record from quarantine. Raises StoreError."""
        with self._failures_told():
            self._quarantine().delete_one({"_id": f"{kind.value}:{record_id}"})

    def _write_specs(self, fresh: Mapping[str, JobSpec]) -> None:
        if unused := self._library.unused(fresh):
            self._specs().delete_many({"_id": {"$in": unused}})
        if fresh:
            self._specs().bulk_write([_spec_operation(key, spec) for key, spec in fresh.items()])

    def _write_events(self, changes: Sequence[Change], events: Sequence[Logged]) -> None:
        gone = [codec.subject_of(change.kind, change.id) for change in changes if change.record is None]
        if gone:
            self._events().delete_many({"subject": {"$in": gone}})
        if events:
            self._events().bulk_write([_event_operation(logged) for logged in events], ordered=False)

    def _set_aside(self, unreadable: Sequence[Quarantined]) -> None:
        for item in unreadable:
            values = {"kind": item.kind.value, "record": item.id, "document": item.document, "error": item.error}
            operation = {"$set": {**values, "at_ms": item.at_ms}}
            self._quarantine().update_one({"_id": f"{item.kind.value}:{item.id}"}, operation, upsert=True)
            self._collection(item.kind).delete_one({"_id": item.id})

    def _find_spec(self, key: str) -> Document:
        item = self._specs().find_one({"_id": key})
        if item is None:
            raise KeyError(key)
        document: Document = item["document"]
        return document

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
                self._migrate(kind)
        self._state().update_one(_STATE, {"$max": {"schema": migrations.SCHEMA}}, upsert=True)

    def _migrate(self, kind: Kind) -> None:
        collection = self._collection(kind)
        older = collection.find({"schema": {"$lt": migrations.SCHEMA}, "version": {"$ne": _REMOVED}})
        while chunk := list(itertools.islice(older, _MIGRATED_AT_ONCE)):
            operations = [operation for item in chunk if (operation := self._migration(kind, item))]
            if operations:
                collection.bulk_write(operations)

    def _migration(self, kind: Kind, item: Document) -> UpdateOne | None:
        """Brings one document up to date; one that cannot be read stays as it is, for `load` to set aside."""
        try:
            document = migrations.upgraded(kind, item["document"], item["schema"])
            record = codec.decode(kind, document, codec.no_spec, codec.Interner())
        except codec.UNREADABLE:
            return None
        record, events = codec.slimmed(kind, item["_id"], record)
        specs = [_spec_operation(key, spec) for key, spec in codec.specs_of(record).items()]
        if specs:
            self._specs().bulk_write(specs)
        self._write_events((), events)
        seen = {name: item[name] for name in ("_id", "version", "schema")}
        return UpdateOne(seen, {"$set": {"schema": migrations.SCHEMA, "document": codec.encode(record)}})

    def _opened(self) -> Database[dict[str, Any]]:
        if self._database is None:
            raise StoreError(f"the store at {self._address} is not open")
        return self._database

    def _collection(self, kind: Kind) -> _Documents:
        return self._opened()[documents.collection_name(documents.RECORDS[kind])]

    def _specs(self) -> _Documents:
        return self._opened()[documents.collection_name(documents.SpecDocument)]

    def _events(self) -> _Documents:
        return self._opened()[documents.collection_name(documents.EventDocument)]

    def _quarantine(self) -> _Documents:
        return self._opened()[documents.collection_name(documents.QuarantineDocument)]

    def _state(self) -> _Documents:
        return self._opened()[documents.collection_name(documents.StoreDocument)]

    def _named(self, change: Change) -> _Named:
        name = next(self._names)
        return _Named(name, change, _operation(name, change))

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
    def _doubted(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._library.doubt()
            raise

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


def _spec_operation(key: str, spec: JobSpec) -> UpdateOne:
    return UpdateOne({"_id": key}, {"$setOnInsert": {"document": codec.encode_spec(spec)}}, upsert=True)


def _event_operation(logged: Logged) -> UpdateOne:
    values = {"subject": logged.subject, "number": logged.number, "row": codec.encode_event(logged.event)}
    slot = f"{logged.subject}#{logged.number % KEPT_EVENTS}"
    return UpdateOne({"_id": slot}, {"$set": values}, upsert=True)


def _quarantined(item: Document) -> Quarantined:
    return Quarantined(
        kind=Kind(item["kind"]), id=item["record"], document=item["document"], error=item["error"], at_ms=item["at_ms"]
    )
