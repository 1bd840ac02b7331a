"""A record that cannot be read costs itself only: it is set aside with its document, and the rest is loaded."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from manager.domain.model import Event, Logged
from manager.ports import Kind, StoreError, StoreTooNewError
from manager.store import migrations
from manager.store.sqlite import SqliteStore
from testbed.records import change, instance, node, setting, spec

NOW = 1_700_000_000_000


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture(name="store")
def _store(path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        store.write([change(node()), change(instance()), change(instance(1)), change(setting())])
        yield store


def _execute(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


_BROKEN = ["{not json", "[]", "{}", '{"spec":"nowhere"}', '{"key":{"job_id":"j","number":"one"}}', ""]


@pytest.mark.parametrize("broken", _BROKEN)
def test_an_unreadable_record_is_set_aside(store: SqliteStore, path: Path, broken: str) -> None:
    """The others are there; what it was, why it cannot be read and since when is kept, over any number of starts."""
    _execute(path, "UPDATE instance SET document = ? WHERE id = 'j/0'", broken)
    contents = store.load(NOW)
    assert (contents.nodes, contents.instances, contents.settings) == ((node(),), (instance(1),), (setting(),))
    [aside] = contents.quarantined
    assert (aside.kind, aside.id, aside.document, aside.at_ms) == (Kind.INSTANCE, "j/0", broken, NOW)
    assert aside.error
    assert store.load(NOW + 1) == contents


def test_a_text_that_is_none_is_set_aside(store: SqliteStore, path: Path) -> None:
    """What a failing disk left may be no text at all: its bytes are shown, and exported."""
    _execute(path, "UPDATE instance SET document = CAST(x'7b22ff' AS TEXT) WHERE id = 'j/0'")
    for _ in range(2):
        contents = store.load(NOW)
        assert contents.instances == (instance(1),)
        assert [item.document for item in contents.quarantined] == ['{"\\xff']


@pytest.mark.parametrize("broken", ["x'7b22ff'", "x'6e6f'", "'[]'", "'[1,2]'"])
def test_an_event_that_cannot_be_read_costs_no_other(store: SqliteStore, path: Path, broken: str) -> None:
    """History is told without it."""
    told = [Event(at_ms=at_ms, actor="a", kind="k", state="s", cause="c") for at_ms in range(3)]
    store.write([], [Logged(subject="instance:j/0", number=n, event=event) for n, event in enumerate(told)])
    _execute(path, f"UPDATE event SET document = CAST({broken} AS TEXT) WHERE number = 1")
    assert store.events("instance:j/0") == [told[0], told[2]]


def test_its_place_is_free(store: SqliteStore, path: Path) -> None:
    """The same id can be created anew beside it; a second one of that id takes the first one's place aside."""
    for _ in range(2):
        _execute(path, "UPDATE instance SET document = '{' WHERE id = 'j/0'")
        assert len(store.load(NOW).quarantined) == 1
        assert store.write([change(instance())]) == []
    assert store.load(NOW).instances == (instance(1), instance())


def test_it_can_be_dropped(store: SqliteStore, path: Path) -> None:
    """Once and for all; what is not there is no matter."""
    _execute(path, "UPDATE node SET document = 'x'")
    assert len(store.load(NOW).quarantined) == 1
    store.release(Kind.INSTANCE, "n1")
    assert len(store.load(NOW).quarantined) == 1
    store.release(Kind.NODE, "n1")
    store.release(Kind.NODE, "n1")
    assert store.load(NOW).quarantined == ()


def test_its_specification_is_kept_while_it_is_there(store: SqliteStore, path: Path) -> None:
    """Whoever mends the document by hand finds what it was to run."""
    document = orjson.dumps({"spec": spec("other").identity}).decode()
    store.write([change(instance(2, spec=spec("other")))])
    _execute(path, "UPDATE instance SET document = ? WHERE number = 2", document)
    store.load(NOW)
    store.write([change(node("n2"))])
    assert _execute(path, "SELECT count(*) FROM spec") == [(2,)]
    store.release(Kind.INSTANCE, "j/2")
    store.load(NOW)
    store.write([change(node("n3"))])
    assert _execute(path, "SELECT key FROM spec") == [(spec().identity,)]


def test_an_unreadable_specification_costs_its_records_only(store: SqliteStore, path: Path) -> None:
    """All that refer to it are set aside; nodes, settings and other jobs are not."""
    store.write([change(instance(2, spec=spec("other")))])
    _execute(path, "UPDATE spec SET document = '{' WHERE key = ?", spec().identity)
    contents = store.load(NOW)
    assert [record.key.number for record in contents.instances] == [2]
    assert [item.id for item in contents.quarantined] == ["j/0", "j/1"]
    assert contents.nodes == (node(),)


def test_where_one_record_is_asked_for_it_is_not_passed_over(store: SqliteStore, path: Path) -> None:
    """What cannot be read is not taken for missing."""
    _execute(path, "UPDATE instance SET document = '{}' WHERE id = 'j/0'")
    with pytest.raises(StoreError, match="the saved instance 'j/0' cannot be read"):
        store.read([(Kind.NODE, "n1"), (Kind.INSTANCE, "j/0")])


def test_a_record_of_a_newer_schema_is_refused(store: SqliteStore, path: Path) -> None:
    """It is not unreadable but another program's: nothing is set aside, and the remedy is named."""
    _execute(path, "UPDATE instance SET document = '{' WHERE id = 'j/0'")
    _execute(path, "UPDATE instance SET schema = ? WHERE id = 'j/1'", migrations.SCHEMA + 1)
    for _ in range(2):
        with pytest.raises(StoreTooNewError, match="run the newer version"):
            store.load(NOW)
    assert _execute(path, "SELECT count(*) FROM quarantine") == [(0,)]
    assert _execute(path, "SELECT count(*) FROM instance") == [(2,)]
