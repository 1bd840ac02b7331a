"""Records as documents: nothing is lost, little is repeated, other versions are tolerated."""

import json

import orjson
import pytest
from hypothesis import given, settings

from cluster.jobs import JobSpec
from manager.domain.model import MAX_EVENTS, Event, Instance, InstanceState, Placement, Record
from manager.ports import Change, Kind, StoreError, UnsavableError
from manager.store import codec, shapes
from testbed.records import KINDS, differences, instance, records, setting, spec


def _through_json(document: shapes.Document) -> shapes.Document:
    read: shapes.Document = orjson.loads(orjson.dumps(document))
    return read


def _library(*made: Record) -> dict[str, shapes.Document]:
    """The documents of the specifications of records, as they are saved beside them."""
    specs = {key: spec for record in made for key, spec in codec.specs_of(record).items()}
    return {key: _through_json(codec.encode_spec(spec)) for key, spec in specs.items()}


def _decoded(record: Record, document: shapes.Document | None = None) -> Record:
    document = codec.encode(record) if document is None else document
    find_spec = _library(record).__getitem__
    return codec.decode(KINDS[type(record)], _through_json(document), find_spec, codec.Interner())


@settings(deadline=None)
@given(record=records())
def test_a_record_survives_its_document(record: Record) -> None:
    """What is decoded from the JSON of a document equals the record in every field and type."""
    assert differences(_decoded(record), record) == []


@settings(deadline=None)
@given(record=records())
def test_a_document_is_plain_json(record: Record) -> None:
    """The standard library's encoder, which knows no enums, dataclasses or long numbers of others, takes it."""
    assert json.loads(json.dumps(codec.encode(record))) == orjson.loads(orjson.dumps(codec.encode(record)))


def _placed(of: JobSpec) -> Placement:
    return Placement(node_id="n1", generation=1, spec=of, state=InstanceState.RUNNING, since_ms=0)


def test_a_specification_is_saved_beside_its_records() -> None:
    """A document has its key alone, the same for equal specifications that are two objects."""
    record = instance(current=_placed(spec()), successor=_placed(spec()))
    document = codec.encode(record)
    assert document["spec"] == document["current"]["spec"] == document["successor"]["spec"] == spec().identity
    assert codec.specs_of(record) == {spec().identity: spec()}


def test_specifications_that_differ_in_their_document_alone_are_both_kept() -> None:
    """They have one digest and two keys, and come back with their own documents."""
    record = instance(spec=spec(document='{"a":1}'), current=_placed(spec(document='{"a":2}')))
    assert len(codec.specs_of(record)) == 2
    assert differences(_decoded(record), record) == []


def _loaded(*made: Instance) -> tuple[Instance, ...]:
    builder = codec.ContentsBuilder(_library(*made).__getitem__, 0)
    for record in made:
        builder.add(Kind.INSTANCE, str(record.key), orjson.dumps(codec.encode(record)).decode(), lambda read: read)
    return builder.build([]).instances


def test_equal_specifications_are_one_object_after_a_load() -> None:
    """Instances of one job share their specification in memory."""
    first, second = _loaded(instance(1), instance(2, current=_placed(spec())))
    assert first.spec is second.spec
    assert second.current is not None
    assert second.current.spec is first.spec


def test_documents_of_their_own_share_the_rest_of_the_specification() -> None:
    """Where only the job documents differ, the parts of the specifications are the same objects."""
    command = ("sleep", "600")
    first, second = _loaded(
        instance(1, spec=spec(command=command, document='{"n":1}')),
        instance(2, spec=spec(command=command, document='{"n":2}')),
    )
    assert (first.spec.document, second.spec.document) == ('{"n":1}', '{"n":2}')
    assert first.spec.command is second.spec.command


def test_equal_words_are_one_object_after_a_load() -> None:
    """The words of a history are shared by all histories."""
    event = Event(at_ms=1, actor="the root's link", kind="requested", state="REQUESTED", cause="deploy")
    first, second = _loaded(instance(1, events=(event,)), instance(2, events=(event,)))
    assert first.events[0].actor is second.events[0].actor


def test_unknown_keys_are_passed_over() -> None:
    """A key that this version does not know, at any depth, does no harm."""
    record = instance(current=_placed(spec()))
    document, specs = codec.encode(record), _library(record)
    document["new"] = document["current"]["new"] = specs[spec().identity]["new"] = {"x": [1]}
    assert codec.decode(Kind.INSTANCE, document, specs.__getitem__, codec.Interner()) == record


def test_missing_keys_take_their_defaults() -> None:
    """A document from before a field was there reads as the field's default."""
    document = codec.encode(instance(detail="is lost", exit_code=3))
    del document["detail"], document["exit_code"], document["events"]
    assert _decoded(instance(), document) == instance()


@pytest.mark.parametrize(
    "saved", ["{}", '{"name":"x"}', "[]", "5", "{not json", "", '{"name":5,"value":null,"version":"many"}']
)
def test_what_is_no_record_is_set_aside(saved: str) -> None:
    """The rest is read; what cannot be is kept as it was saved, with the error and the time."""
    builder = codec.ContentsBuilder(codec.no_spec, 17)
    builder.add(Kind.SETTING, "x", saved, lambda read: read)
    builder.add(Kind.SETTING, "y", codec.text(codec.encode(setting("y"))), lambda read: read)
    assert builder.build([]).settings == (setting("y"),)
    [aside] = builder.unreadable
    assert (aside.kind, aside.id, aside.document, aside.at_ms) == (Kind.SETTING, "x", saved, 17)
    assert aside.error


def test_a_record_whose_specification_is_gone_is_set_aside() -> None:
    """Nothing is guessed about what it was to run; the key of what it lacks is named."""
    builder = codec.ContentsBuilder(codec.no_spec, 0)
    builder.add(Kind.INSTANCE, "j/0", codec.text(codec.encode(instance())), lambda read: read)
    assert builder.build([]).instances == ()
    assert spec().identity in builder.unreadable[0].error


@pytest.mark.parametrize("document", [{}, {"name": "x"}, {"name": 5, "value": None, "version": "many"}])
def test_what_is_no_record_is_named(document: shapes.Document) -> None:
    """Where one record is asked for, the error names its kind and id."""
    with pytest.raises(StoreError, match="setting 'x' cannot be read"):
        codec.read_one(Kind.SETTING, "x", document, codec.no_spec)


@pytest.mark.parametrize("bad", [instance(number=2**70), instance(detail="\ud800"), instance(spec=spec("\ud800"))])
def test_a_record_without_a_form_is_named(bad: Instance) -> None:
    """The one of a batch that cannot be saved is told from the others before anything is written."""
    changes = [
        Change(kind=Kind.INSTANCE, id=name, expected=0, record=record)
        for name, record in (("a", instance()), ("b", bad))
    ]
    specs = {key: found for change in changes for key, found in codec.specs_of(change.record).items()}
    with pytest.raises(UnsavableError, match="the instance 'b' cannot be saved") as caught:
        _ = [codec.text_of(change) for change in changes], codec.spec_texts(specs, changes)
    assert caught.value.record_id == (Kind.INSTANCE, "b")


@settings(deadline=None)
@given(record=records())
def test_an_event_survives_its_row(record: Record) -> None:
    """What the log gives back is what was logged."""
    for event in getattr(record, "events", ()):
        assert differences(codec.decode_event(orjson.loads(codec.text(codec.encode_event(event)))), event) == []


@pytest.mark.parametrize(("count", "event_count"), [(0, 0), (3, 0), (50, 0), (8, 120)])
def test_a_long_history_goes_into_the_log(count: int, event_count: int) -> None:
    """A record keeps its last events and how many there were; all of them are numbered, the last by that number."""
    events = tuple(Event(at_ms=at, actor="a", kind="k", state="s", cause="c") for at in range(count))
    record, logged = codec.slimmed(Kind.INSTANCE, "j/0", instance(events=events, event_count=event_count))
    total = max(count, event_count)
    assert isinstance(record, Instance)
    assert (record.events, record.event_count) == (events[-MAX_EVENTS:], total)
    assert [item.event for item in logged] == list(events)
    assert [item.number for item in logged] == list(range(total - count + 1, total + 1))
    assert {item.subject for item in logged} <= {"instance:j/0"}


@pytest.mark.parametrize("hint", [dict[str, int], tuple[object, ...], str | dict[str, str], object])
def test_a_type_without_a_plain_form_is_refused(hint: object) -> None:
    """A field that would be saved wrongly is found when the program starts."""
    with pytest.raises(TypeError, match="no plain form"):
        shapes.shape_of(hint)


def test_columns_say_what_an_operator_looks_for() -> None:
    """Name, state, job and number of an instance; the name of a setting."""
    assert codec.columns(instance(7)) == ("web", "REQUESTED", "j", 7)
    assert codec.columns(setting("root")) == ("root", None, None, None)
