"""What every store does; each test runs on SQLite and on a server of MongoDB's protocol (STORE_URL names another)."""

import contextlib
import itertools
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pymongo
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.domain.model import Instance, Record
from manager.ports import Contents, Kind, Store, StoreError
from manager.store import migrations
from manager.store.factory import make_store, open_store
from testbed.records import KINDS, change, differences, id_of, instance, node, records, removal, setting
from testbed.store_writer import increment
from testbed.stores import database_of, mongo_address, scratch_database, sqlite_url, writer, writer_environment


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[str]:
    with mongo_address() as address:
        yield address


@pytest.fixture(name="url", params=["sqlite", "mongo"])
def _url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
        return
    with scratch_database(request.getfixturevalue("server")) as url:
        yield url


@pytest.fixture(name="store")
def _store(url: str) -> Iterator[Store]:
    with contextlib.closing(open_store(url)) as store:
        yield store


def _all(contents: Contents) -> dict[tuple[Kind, str], Record]:
    found: tuple[Record, ...] = (*contents.nodes, *contents.jobs, *contents.instances, *contents.settings)
    return {(KINDS[type(record)], id_of(record)): record for record in found}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(records(), max_size=4, unique_by=lambda record: (type(record), id_of(record))))
def test_records_come_back_as_they_were(store: Store, made: list[Record]) -> None:
    """Any record of any kind is loaded with every field equal in value and type; what is removed is not."""
    assert store.write([change(record) for record in made]) == []
    loaded = _all(store.load(0))
    assert store.write([removal(record) for record in made]) == []
    assert len(loaded) == len(made)
    for record in made:
        assert differences(loaded[KINDS[type(record)], id_of(record)], record) == []
    assert _all(store.load(0)) == {}


def test_contents_outlive_the_connection(url: str) -> None:
    """Another opening of the same URL finds what was written."""
    with contextlib.closing(open_store(url)) as store:
        store.write([change(node()), change(instance())])
    with contextlib.closing(open_store(url)) as store:
        assert store.load(0) == Contents(nodes=(node(),), instances=(instance(),))


def test_an_existing_record_is_not_created_again(store: Store) -> None:
    """Expecting nothing where something is answers that change and leaves the record."""
    store.write([change(setting(value="first"))])
    second = change(setting(value="second"))
    assert store.write([second]) == [second]
    assert store.load(0).settings == (setting(value="first"),)


@pytest.mark.parametrize("expected", [1, 3])
def test_another_version_than_expected_is_not_replaced(store: Store, expected: int) -> None:
    """An older or a newer expectation answers that change and leaves the record."""
    store.write([change(setting(version=2))])
    stale = change(setting(value="stale", version=4), expected=expected)
    assert store.write([stale]) == [stale]
    assert store.load(0).settings == (setting(version=2),)


def test_a_missing_record_is_not_replaced(store: Store) -> None:
    """A change of what is not there is answered, and creates nothing."""
    lost = change(setting(version=2), expected=1)
    assert store.write([lost]) == [lost]
    assert store.load(0) == Contents()


def test_removal_compares_too(store: Store) -> None:
    """Only the expected version is removed, and only once; then the id is free again."""
    store.write([change(setting(version=2))])
    stale, right = removal(setting(version=1)), removal(setting(version=2))
    assert store.write([stale]) == [stale]
    assert store.write([right]) == []
    assert store.write([right]) == [right]
    assert store.write([change(setting())]) == []
    assert store.load(0).settings == (setting(),)


def test_changes_apply_in_order(store: Store) -> None:
    """One batch may create, change, remove and create the same record, and fail in between without harm."""
    late = change(setting(value="late", version=9), expected=1)
    batch = [
        change(setting(value="a", version=1)),
        change(setting(value="b", version=2), expected=1),
        late,
        removal(setting(version=2)),
        change(setting(value="c", version=1)),
        change(instance(1)),
    ]
    assert store.write(batch) == [late]
    assert store.load(0) == Contents(settings=(setting(value="c"),), instances=(instance(1),))


def test_exactly_the_conflicts_of_a_large_batch_are_answered(store: Store) -> None:
    """Of creations, changes and removals mixed, those that did not hold come back in order; all others are applied."""
    store.write([change(instance(number)) for number in range(0, 300, 2)])
    batch = [
        change(instance(number, detail="new", version=2 - number % 2), expected=number % 3 and (number + 1) % 2)
        for number in range(200)
    ] + [removal(instance(number)) for number in range(200, 300)]
    held = [
        item
        for number, item in enumerate(batch)
        if (item.expected == 1 and number % 2 == 0) or (item.expected == 0 and number % 2 == 1)
    ]
    assert store.write(batch) == [item for item in batch if item not in held]
    details = {record.key.number: record.detail for record in store.load(0).instances}
    assert {number for number, detail in details.items() if detail == "new"} == {
        int(item.id.partition("/")[2]) for item in held if item.record is not None
    }
    assert details.keys().isdisjoint(range(200, 300))


def test_a_batch_of_thousands_is_written(store: Store) -> None:
    """5,000 instances in one call, changed in a second one."""
    made = [instance(number) for number in range(5000)]
    assert store.write([change(record) for record in made]) == []
    assert store.write([change(replace(record, version=2), expected=1) for record in made]) == []
    loaded = store.load(0).instances
    assert {record.key.number for record in loaded if record.version == 2} == set(range(5000))
    assert len({id(record.spec) for record in loaded}) == 1


def test_four_threads_lose_no_increment(store: Store, url: str) -> None:
    """4 threads × 100 compare-and-set increments of one record are 400; where it can be, each has its own store."""
    is_shared = url.startswith("sqlite")
    stores = [store] * 4 if is_shared else [open_store(url) for _ in range(4)]
    threads = [threading.Thread(target=_count, args=(each, 100)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in stores[: 0 if is_shared else None]:
        each.close()
    assert store.load(0).settings == (setting(value="400", version=400),)


def _count(store: Store, count: int) -> None:
    for _ in range(count):
        increment(store, ["counter"])


@pytest.mark.parametrize("batch", [1, 10])
def test_four_processes_lose_no_increment(server: str, batch: int) -> None:
    """4 processes × 100 compare-and-set increments, alone or ten records at once, are 400 of each record."""
    with scratch_database(server) as url, contextlib.closing(open_store(url)) as store:
        commands = [writer(url, "counter", 100, batch)] * 4
        children = [subprocess.Popen(each, env=writer_environment(), stdout=subprocess.DEVNULL) for each in commands]
        assert [child.wait() for child in children] == [0, 0, 0, 0]
        assert [int(item.value) for item in store.load(0).settings] == [400] * batch


def test_nothing_to_write_is_nothing(store: Store) -> None:
    """An empty batch has no conflicts."""
    assert store.write([]) == []


def test_ping_works_on_an_open_store(store: Store) -> None:
    """It writes, and says nothing when that works."""
    store.ping()
    store.ping()
    assert store.load(0) == Contents()


def test_a_store_that_is_not_open_says_so(url: str) -> None:
    """Before `open` and after `close`, which may be called twice, each call fails with these words."""
    store = make_store(url)
    for call in (lambda: store.load(0), store.ping, lambda: store.write([change(node())])):
        with pytest.raises(StoreError, match="is not open"):
            call()
    store.open()
    store.open()
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is not open"):
        store.ping()


def test_a_record_that_cannot_be_saved_is_named(store: Store) -> None:
    """A number beyond 64 bits is refused before anything is written."""
    with pytest.raises(StoreError):
        store.write([change(setting()), change(replace(instance(), exit_code=2**64))])
    store.ping()
    assert store.load(0).instances == ()


def _older(number: int) -> dict[str, object]:
    plain = {"name": "web", "image": "local/busybox:1", "technology": "docker"}
    key = {"job_id": "j", "number": number}
    return {"key": key, "spec": plain, "is_desired": True, "state": "REQUESTED", "version": 1}


def _make_version_0(url: str, count: int) -> None:
    names = [f"j/{number}" for number in range(count)]
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(
                "CREATE TABLE instance (id TEXT PRIMARY KEY, version INTEGER NOT NULL, schema INTEGER NOT NULL, "
                "name TEXT, state TEXT, job_id TEXT, number INTEGER, document TEXT NOT NULL)"
            )
            rows = [(name, 1, 0, orjson.dumps(_older(number)).decode()) for number, name in enumerate(names)]
            connection.executemany("INSERT INTO instance (id, version, schema, document) VALUES (?, ?, ?, ?)", rows)
        return
    with contextlib.closing(pymongo.MongoClient[dict[str, object]](url)) as client:
        older = [
            {"_id": name, "version": 1, "schema": 0, "document": _older(number)} for number, name in enumerate(names)
        ]
        database_of(url, client)["instance"].insert_many(older)


def _schemas(url: str) -> set[object]:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            rows = connection.execute("SELECT schema FROM instance UNION SELECT user_version FROM pragma_user_version")
            return set(itertools.chain(*rows))
    with contextlib.closing(pymongo.MongoClient[dict[str, object]](url)) as client:
        database = database_of(url, client)
        found = itertools.chain(database["instance"].find(), database["store"].find())
        return {document["schema"] for document in found}


def test_a_store_of_version_0_is_migrated(url: str) -> None:
    """Opening it rewrites each document in today's schema; the records read as they were meant and can be changed."""
    _make_version_0(url, 1200)
    with contextlib.closing(open_store(url)) as store:
        assert _schemas(url) == {migrations.SCHEMA}
        loaded: dict[int, Instance] = {record.key.number: record for record in store.load(0).instances}
        assert loaded == {number: instance(number) for number in range(1200)}
        assert store.write([change(instance(7, version=2), expected=1)]) == []


def _make_newer(url: str) -> None:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(f"PRAGMA user_version={migrations.SCHEMA + 1}")
        return
    with contextlib.closing(pymongo.MongoClient[dict[str, object]](url)) as client:
        database_of(url, client)["store"].update_one({}, {"$set": {"schema": migrations.SCHEMA + 1}})


def test_a_store_of_a_newer_schema_is_refused(url: str) -> None:
    """An older program neither reads nor changes it, and names the remedy; a second try says the same."""
    open_store(url).close()
    _make_newer(url)
    store = make_store(url)
    for _ in range(2):
        with pytest.raises(StoreError, match="run the newer version"):
            store.open()
