"""What the MongoDB adapter puts on the wire, and what several managers on one database see of each other."""

import contextlib
from collections.abc import Iterator
from typing import Any

import mongoengine.connection
import pymongo
import pymongo.monitoring
import pytest

from manager.domain.model import Event, InstanceState, Placement
from manager.ports import Change, Store, StoreError
from manager.store import documents, mongo
from manager.store.factory import make_store, open_store
from testbed.ports import free_port
from testbed.records import change, instance, node, removal, setting, spec
from testbed.stores import database_of, mongo_address, scratch_database

_WRITES = {"insert", "update", "delete", "findAndModify", "createIndexes", "drop"}


class _Wire(pymongo.monitoring.CommandListener):
    """Keeps the commands that are sent."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        """Keep it."""
        self.commands.append((event.command_name, dict(event.command)))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        """Nothing."""

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        """Nothing."""


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[str]:
    with mongo_address() as address:
        yield address


@pytest.fixture(name="url")
def _url(server: str) -> Iterator[str]:
    with scratch_database(server) as url:
        yield url


@pytest.fixture(name="wire")
def _wire() -> Iterator[_Wire]:
    listener = _Wire()
    pymongo.monitoring.register(listener)
    yield listener
    pymongo.monitoring._LISTENERS.command_listeners.remove(listener)


def _use_all(store: Store) -> None:
    store.write([change(node()), change(setting()), *(change(instance(number)) for number in range(3))])
    store.write([change(instance(0)), change(instance(9)), change(setting(version=2), expected=1)])
    store.write([change(instance(1, version=2), expected=1), change(instance(2, version=2), expected=7)])
    store.write([removal(node())])
    store.ping()
    store.load(0)


@pytest.mark.parametrize("options", ["retryWrites=true", "w=0", "w=1&journal=false&readConcernLevel=local"])
def test_every_write_asks_for_a_majority_and_its_journals(url: str, wire: _Wire, options: str) -> None:
    """Each writing command carries j: true and w: majority, whatever the URL says; each load reads majority data."""
    with contextlib.closing(open_store(f"{url}{'&' if '?' in url else '?'}{options}")) as store:
        _use_all(store)
    writes = [command for name, command in wire.commands if name in _WRITES]
    concerns = [command["writeConcern"] for command in writes]
    assert {name for name, _ in wire.commands} >= {"insert", "update", "delete", "createIndexes", "find"}
    assert [item for item in concerns if (item["w"], item["j"]) != ("majority", True)] == []


def test_a_batch_is_one_command(url: str, wire: _Wire) -> None:
    """A thousand changes without conflict cost one round trip."""
    with contextlib.closing(open_store(url)) as store:
        store.write([change(instance(number)) for number in range(1000)])
        wire.commands.clear()
        assert store.write([change(instance(number, version=2), expected=1) for number in range(1000)]) == []
    assert [name for name, _ in wire.commands if name != "endSessions"] == ["update"]


def test_nothing_is_asked_that_some_servers_lack(url: str, wire: _Wire) -> None:
    """No transactions, array filters or positional operators."""
    with contextlib.closing(open_store(url)) as store:
        _use_all(store)
    lacking = ("arrayFilters", "startTransaction", "$elemMatch", "changeStream", ".$")
    assert [word for word in lacking if word in repr(wire.commands)] == []


@contextlib.contextmanager
def _overwritten(url: str, times: int) -> Iterator[None]:
    """Before a store asks which of its changes held, another one changes the instances 0 and 2 on top of it."""
    original = mongo._latest

    def latest(collection: Any) -> Any:
        with contextlib.closing(open_store(url)) as other:
            for version in range(2, 2 + times):
                batch = [change(instance(number, version=version + 1), expected=version) for number in (0, 2)]
                assert other.write(batch) == []
        return original(collection)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(mongo, "_latest", latest)
        yield


def _three(store: Store) -> list[Change]:
    """Changes of which the middle one does not hold."""
    store.write([change(instance(0)), change(instance(1, version=5)), change(instance(2))])
    return [change(instance(number, version=2), expected=1) for number in range(3)]


@pytest.mark.parametrize("times", [1, 7])
def test_a_change_that_was_overwritten_at_once_has_held(url: str, times: int) -> None:
    """Which changes of a batch held is known although another manager already built on them."""
    with contextlib.closing(open_store(url)) as store:
        batch = _three(store)
        with _overwritten(url, times):
            assert store.write(batch) == [batch[1]]


def test_what_cannot_be_known_is_an_error(url: str) -> None:
    """More foreign changes than a document remembers, in that moment: the caller is told to load again."""
    with contextlib.closing(open_store(url)) as store:
        batch = _three(store)
        with _overwritten(url, 8), pytest.raises(StoreError, match="loaded again"):
            store.write(batch)


def test_what_is_half_removed_is_gone(url: str) -> None:
    """A removal that was interrupted between its mark and the deletion counts: the id is free, nothing is loaded."""
    with contextlib.closing(open_store(url)) as store:
        store.write([change(instance(number)) for number in range(3)])
        with pytest.MonkeyPatch.context() as context:
            context.setattr(mongo, "_purge", lambda *_: None)
            assert store.write([removal(instance(number)) for number in range(3)]) == []
        assert store.load(0).instances == ()
        assert store.write([change(instance(0, detail="new"))]) == []
        assert store.load(0).instances == (instance(0, detail="new"),)
    with contextlib.closing(open_store(url)), contextlib.closing(pymongo.MongoClient[dict[str, Any]](url)) as client:
        assert [item["_id"] for item in database_of(url, client)["instance"].find()] == ["j/0"]


def test_what_is_saved_are_valid_documents(url: str) -> None:
    """The mongoengine classes read and validate what the adapter writes in bulk; job documents are text in it."""
    text = '{"a.b": {"$set": 123456789012345678901234567890}}'
    placement = Placement(node_id="n", generation=1, spec=spec(document=text), state=InstanceState.RUNNING, since_ms=1)
    event = Event(at_ms=1, actor="a", kind="k", state="RUNNING", cause="c")
    record = instance(spec=spec(document=text), current=placement, events=(event,))
    with contextlib.closing(open_store(url)) as store, contextlib.closing(pymongo.MongoClient[Any](url)) as client:
        store.write([change(record), change(node()), change(setting())])
        assert store.load(0).instances == (record,)
        for cls in documents.RECORDS.values():
            for item in database_of(url, client)[documents.collection_name(cls)].find():
                cls._from_son(item).validate()
        assert "job_id_1_number_1" in database_of(url, client)["instance"].index_information()


def test_stores_are_independent(url: str, server: str) -> None:
    """Two stores of one process on two databases do not meet, and closing leaves no alias behind."""
    before = set(mongoengine.connection._connections)
    with scratch_database(server) as other_url, contextlib.closing(open_store(url)) as one:
        with contextlib.closing(open_store(other_url)) as other:
            one.write([change(setting(value="one"))])
            other.write([change(setting(value="other"))])
        assert one.load(0).settings == (setting(value="one"),)
    assert set(mongoengine.connection._connections) == before


def test_a_server_that_does_not_answer_is_named() -> None:
    """Opening fails within the driver's own bound, may be tried again, and leaves no connection behind."""
    address = f"127.0.0.1:{free_port()}"
    store = make_store(f"mongodb://user:secret@{address}/x")
    with pytest.raises(StoreError, match=f"MongoDB at {address} failed") as caught:
        store.open()
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="is not open"):
        store.ping()
