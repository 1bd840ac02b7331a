"""What the embedded store keeps beside the records: their history, and the specifications that they share."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.jobs import JobSpec
from manager.domain.model import KEPT_EVENTS, Event, Instance, Logged
from manager.ports import StoreError
from manager.store import sqlite
from manager.store.library import SpecLibrary
from manager.store.sqlite import SqliteStore
from testbed.records import change, instance, node, removal, spec


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture(name="store")
def _store(path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(path)) as store:
        store.open()
        yield store


def _logged(number: int, subject: str = "instance:j/0") -> Logged:
    event = Event(at_ms=number, actor="a", kind="k", state="s", cause=f"the {number}th")
    return Logged(subject=subject, number=number, event=event)


def _rows(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


def test_the_log_keeps_the_newest_of_each_subject(store: SqliteStore, path: Path) -> None:
    """However many there were, however they were cut into writes, one subject takes no room from another."""
    store.write([], [_logged(1, "node:n1")])
    for start in range(1, 131, 10):
        store.write([], [_logged(number) for number in range(start, start + 10)])
    assert [event.at_ms for event in store.events("instance:j/0")] == list(range(131 - KEPT_EVENTS, 131))
    assert len(store.events("node:n1")) == 1
    assert _rows(path, "event") == KEPT_EVENTS + 1


def test_a_history_goes_with_its_record(store: SqliteStore) -> None:
    """What is removed leaves nothing in the log; what is called alike and of another kind keeps its own."""
    store.write([change(instance())], [_logged(1), _logged(1, "node:j/0")])
    store.write([removal(instance())])
    assert store.events("instance:j/0") == []
    assert len(store.events("node:j/0")) == 1


def test_a_write_and_its_history_are_one(store: SqliteStore) -> None:
    """Where the write fails nothing of it is there, neither records nor events nor specifications."""
    bad = Logged(subject="s", number=1, event=replace(_logged(1).event, cause="\ud800"))
    with pytest.raises(TypeError):
        store.write([change(instance())], [_logged(1), bad])
    assert store.load(0).instances == ()
    assert store.events("instance:j/0") == []


def _specs(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM spec")}


def test_a_specification_is_saved_once_and_goes_after_its_last_record(store: SqliteStore, path: Path) -> None:
    """A thousand instances of one job have one; when nothing refers to it any more, the next write drops it."""
    store.write([change(instance(number)) for number in range(1000)])
    assert _specs(path) == {spec().identity}
    newer = [instance(number, version=2, spec=spec(image="new")) for number in range(1000)]
    store.write([change(record, 1, instance(record.key.number)) for record in newer[1:]])
    assert _specs(path) == {spec().identity, spec(image="new").identity}
    store.write([change(newer[0], 1, instance(0))])
    store.write([change(node())])
    assert _specs(path) == {spec(image="new").identity}
    store.write([removal(record) for record in newer])
    store.write([change(node("n2"))])
    assert _specs(path) == set()


def test_a_specification_that_is_used_again_at_once_is_kept(store: SqliteStore) -> None:
    """The write that would drop it refers to it."""
    store.write([change(instance())])
    store.write([removal(instance())])
    store.write([change(instance(1))])
    assert store.load(0).instances == (instance(1),)


def test_what_nothing_refers_to_at_the_start_goes(store: SqliteStore, path: Path) -> None:
    """A process that ended between two writes leaves nothing behind."""
    store.write([change(instance()), change(instance(1, spec=spec("other")))])
    store.write([removal(instance())])
    store.load(0)
    store.write([change(node())])
    assert _specs(path) == {spec("other").identity}


_SPECS = {"a": spec("a"), "b": spec("b"), "a with its own document": spec("a", document='{"a":1}')}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 4), st.sampled_from(["", *_SPECS]), min_size=1),
            st.sampled_from(["", "", "", "refused", "answer lost"]),
        ),
        max_size=12,
    )
)
def test_every_record_keeps_its_specification_whatever_fails(
    writes: list[tuple[dict[int, str], str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Writes that fail, also after they reached the file, never lose what a saved record refers to."""
    with contextlib.closing(SqliteStore(tmp_path_factory.mktemp("store") / "store.db")) as store:
        store.open()
        for wanted, fault in writes:
            _write(store, wanted, fault)
            found = {record.key.number: record for record in store.read(_ALL).values() if isinstance(record, Instance)}
            assert {number: record.spec for number, record in found.items()} == _told(store)


_ALL = [(change(instance(number)).kind, f"j/{number}") for number in range(5)]


def _told(store: SqliteStore) -> dict[int, JobSpec]:
    """As a process that starts anew reads it; nothing is unreadable."""
    with contextlib.closing(sqlite3.connect(store._path)) as connection:
        keys = dict(connection.execute("SELECT number, json_extract(document, '$.spec') FROM instance"))
    return {number: next(item for item in _SPECS.values() if item.identity == key) for number, key in keys.items()}


def _write(store: SqliteStore, wanted: dict[int, str], fault: str) -> None:
    found = store.read(_ALL)
    before = {number: found.get(_ALL[number]) for number in wanted}
    changes = []
    for number, name in wanted.items():
        old = before[number]
        version = old.version if old else 0
        if name:
            changes.append(change(instance(number, version=version + 1, spec=_SPECS[name]), version, old))
        elif old is not None:
            changes.append(removal(old))
    with pytest.MonkeyPatch.context() as patch:
        if fault:
            patch.setattr(sqlite, "_transaction", _failing(fault))
        if fault and changes:
            with pytest.raises(StoreError):
                store.write(changes)
        else:
            assert store.write(changes) == []


def _failing(fault: str) -> object:
    @contextlib.contextmanager
    def transaction(connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        yield
        if fault == "answer lost":
            connection.execute("COMMIT")
        raise sqlite3.OperationalError("disk I/O error")

    return transaction


def test_uses_are_counted_by_record() -> None:
    """A change that keeps a specification is none to it; the last record that goes leaves it unused."""
    library, key = SpecLibrary(), spec().identity
    library.count([instance(), instance(1)], [key])
    for before, after, unused in (
        (instance(), instance(version=2), []),
        (instance(version=2), None, []),
        (instance(1), None, [key]),
    ):
        library.replaced([(before, after)])
        assert library.unused(()) == unused
    assert library.unused([key]) == []
    assert list(library.fresh([instance()])) == [key]


def test_after_a_failed_write_nothing_is_taken_for_unused() -> None:
    """Nobody knows what it left; what was counted as unused before is kept as well. The next start counts again."""
    library, key = SpecLibrary(), spec().identity
    library.count([], [key])
    assert library.unused(()) == [key]
    library.doubt()
    assert library.unused(()) == []
    library.replaced([(instance(), None)])
    assert library.unused(()) == []
    assert list(library.fresh([instance()])) == [key]
    library.count([instance()], [key])
    library.replaced([(instance(), None)])
    assert library.unused(()) == [key]
