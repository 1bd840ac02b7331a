"""Steps between schemas."""

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from manager.domain.model import Event, Logged
from manager.ports import Kind, StoreError
from manager.store import codec, migrations
from manager.store.shapes import Document
from manager.store.sqlite import SqliteStore
from testbed.records import change, instance, spec

_PLAIN = {"name": "web", "image": "i", "technology": "docker"}


def _version_0() -> Document:
    placement = {"node_id": "n", "generation": 1, "state": "RUNNING", "since_ms": 5, "spec": {**_PLAIN, "ports": "1"}}
    key = {"job_id": "j", "number": 3}
    return {"key": key, "spec": _PLAIN, "is_desired": True, "state": "RUNNING", "current": placement, "retiring": None}


def test_version_0_moves_its_specifications_into_the_table() -> None:
    """Inline copies become keys, and the record reads as it was meant."""
    document = migrations.upgraded(Kind.INSTANCE, _version_0(), 0)
    record = codec.decode(Kind.INSTANCE, document, codec.no_spec, codec.Interner())
    assert record.spec == spec(image="i")  # type: ignore[union-attr]
    assert record.current.spec == spec(image="i", ports="1")  # type: ignore[union-attr]


def test_equal_copies_become_one_entry() -> None:
    """A placement with the instance's own specification refers to the same entry."""
    document = _version_0()
    document["current"]["spec"] = dict(reversed(_PLAIN.items()))
    upgraded = migrations.upgraded(Kind.INSTANCE, document, 0)
    assert len(upgraded["specs"]) == 1
    assert upgraded["spec"] == upgraded["current"]["spec"]


def test_the_original_is_left_alone() -> None:
    """A step makes a new document."""
    document = _version_0()
    migrations.upgraded(Kind.INSTANCE, document, 0)
    assert document == _version_0()


def test_a_document_of_today_is_not_touched() -> None:
    """Nothing happens between equal schemas."""
    document = codec.encode(instance())
    assert migrations.upgraded(Kind.INSTANCE, document, migrations.SCHEMA) is document


def test_a_newer_schema_is_refused_with_the_remedy() -> None:
    """An old program does not guess at what a newer one wrote."""
    with pytest.raises(StoreError, match="run the newer version"):
        migrations.upgraded(Kind.NODE, {}, migrations.SCHEMA + 1)


# A whole store of schema 1


_TABLE = """CREATE TABLE {} (id TEXT PRIMARY KEY, version INTEGER NOT NULL, schema INTEGER NOT NULL,
    name TEXT, state TEXT, job_id TEXT, number INTEGER, document TEXT NOT NULL)"""
_OTHER = {**_PLAIN, "ports": "1"}


def _event(at_ms: int, state: str = "RUNNING") -> list[object]:
    return [at_ms, "worker:n1", "running", state, f"the {at_ms}th", "n"]


def _version_1(number: int, event_count: int) -> Document:
    placement = {"node_id": "n", "generation": 7, "state": "RUNNING", "since_ms": 5, "spec": "b", "has_run": True}
    return {
        "key": {"job_id": "j", "number": number},
        "spec": "a",
        "specs": {"a": _PLAIN, "b": _OTHER},
        "is_desired": True,
        "state": "RUNNING",
        "detail": "it runs",
        "current": placement,
        "ended": [{"node_id": "o", "generation": 3, "at_ms": 4}],
        "generation": 7,
        "attempts": 2,
        "version": 9,
        "events": [_event(at_ms) for at_ms in range(1, event_count + 1)],
    }


def _job() -> Document:
    update = {"old": "b", "phase": "rolling", "began": [[0, 5]]}
    return {
        "id": "j",
        "spec": "a",
        "specs": {"a": _PLAIN, "b": _OTHER},
        "created_at_ms": 1,
        "update": update,
        "version": 4,
        "events": [_event(1, "")],
    }


def _node(state: str) -> Document:
    registration = {"name": "n", "ip": "10.0.0.1", "port": 1, "dialect": "worker", "technologies": ["docker"]}
    return {"id": "n", "registration": registration, "registered_at_ms": 1, "state": state, "version": 2}


def _make_version_1(path: Path, instances: list[Document], state: str = "READY") -> None:
    rows: dict[str, list[tuple[str, Document]]] = {
        "node": [("n", _node(state))],
        "job": [("j", _job())],
        "instance": [(f"j/{number}", document) for number, document in enumerate(instances)],
        "setting": [("cluster_id", {"name": "cluster_id", "value": "c1", "version": 1})],
    }
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for kind, made in rows.items():
            connection.execute(_TABLE.format(kind))
            connection.executemany(
                f"INSERT INTO {kind} (id, version, schema, document) VALUES (?, ?, 1, ?)",
                [(name, document.get("version", 1), orjson.dumps(document).decode()) for name, document in made],
            )
        connection.execute("CREATE TABLE ping (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
        connection.execute("PRAGMA user_version=1")


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_store_of_version_1_keeps_everything(path: Path) -> None:
    """Records, versions, placements, updates and settings are as they were; of histories the log has all."""
    _make_version_1(path, [_version_1(number, 50) for number in range(3)])
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        contents = store.load(0)
        assert contents.quarantined == ()
        assert [item.value for item in contents.settings] == ["c1"]
        [job] = contents.jobs
        assert job.update is not None
        assert (job.spec, job.update.old, job.version) == (spec(image="i"), spec(image="i", ports="1"), 4)
        for number, record in enumerate(contents.instances):
            assert record.current is not None
            assert (record.spec, record.current.spec) == (spec(image="i"), spec(image="i", ports="1"))
            assert (record.key.number, record.version, record.generation, record.attempts) == (number, 9, 7, 2)
            assert [item.generation for item in record.ended] == [3]
            assert ([event.at_ms for event in record.events], record.event_count) == (list(range(43, 51)), 50)
            assert [event.at_ms for event in store.events(f"instance:j/{number}")] == list(range(1, 51))
        assert len({id(record.spec) for record in (*contents.instances, job)}) == 1


def test_what_was_migrated_goes_on(path: Path) -> None:
    """The next change holds, and its event takes the place of the oldest."""
    _make_version_1(path, [_version_1(0, 50)])
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        [before] = store.load(0).instances
        after = replace(before.recorded(Event(at_ms=51, actor="a", kind="k", state="s", cause="c")), version=10)
        logged = Logged(subject="instance:j/0", number=after.event_count, event=after.events[-1])
        assert store.write([change(after, 9, before)], [logged]) == []
        assert [event.at_ms for event in store.events("instance:j/0")] == list(range(2, 52))


def test_a_migration_that_was_interrupted_goes_on_where_it_was(path: Path) -> None:
    """Documents of both schemas side by side are all read."""
    _make_version_1(path, [_version_1(0, 3)])
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        store.write([change(instance(1))])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        document = orjson.dumps(_version_1(2, 3)).decode()
        connection.execute("INSERT INTO instance (id, version, schema, document) VALUES ('j/2', 9, 1, ?)", (document,))
        connection.execute("PRAGMA user_version=1")
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        contents = store.load(0)
        assert ([record.key.number for record in contents.instances], contents.quarantined) == ([0, 1, 2], ())


def test_a_document_of_version_1_that_cannot_be_read_is_set_aside(path: Path) -> None:
    """The migration passes it over; the load keeps it as it was."""
    bad = {**_version_1(1, 1), "specs": {}}
    _make_version_1(path, [_version_1(0, 1), bad])
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        contents = store.load(5)
        assert [record.key.number for record in contents.instances] == [0]
        assert [(item.id, orjson.loads(item.document)) for item in contents.quarantined] == [("j/1", bad)]


@pytest.mark.parametrize(("state", "now"), [("SUSPECT", "READY"), ("READY", "READY"), ("DOWN", "DOWN")])
def test_a_suspicion_of_version_1_is_not_taken_over(path: Path, state: str, now: str) -> None:
    """A node that was late had been READY, and is judged as one of these: it counts among those lost together."""
    _make_version_1(path, [], state)
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        assert [node.state for node in store.load(0).nodes] == [now]
