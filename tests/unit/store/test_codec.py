"""Records as documents: nothing is lost, little is repeated, other versions are tolerated."""

import json

import orjson
import pytest
from hypothesis import given

from cluster.jobs import JobSpec
from manager.domain.model import Event, Instance, InstanceState, Placement, Record
from manager.ports import Kind, StoreError
from manager.store import codec, shapes
from testbed.records import KINDS, differences, instance, records, setting, spec


def _decoded(record: Record, document: shapes.Document | None = None) -> Record:
    document = codec.encode(record) if document is None else document
    return codec.decode(KINDS[type(record)], orjson.loads(orjson.dumps(document)), codec.Interner())


@given(record=records())
def test_a_record_survives_its_document(record: Record) -> None:
    """What is decoded from the JSON of a document equals the record in every field and type."""
    assert differences(_decoded(record), record) == []


@given(record=records())
def test_a_document_is_plain_json(record: Record) -> None:
    """The standard library's encoder, which knows no enums, dataclasses or long numbers of others, takes it."""
    assert json.loads(json.dumps(codec.encode(record))) == orjson.loads(orjson.dumps(codec.encode(record)))


def _placed(of: JobSpec) -> Placement:
    return Placement(node_id="n1", generation=1, spec=of, state=InstanceState.RUNNING, since_ms=0)


def test_a_specification_is_written_once_per_document() -> None:
    """An instance and its placements share one entry of the table, also where equal specifications are two objects."""
    document = codec.encode(instance(current=_placed(spec()), successor=_placed(spec())))
    assert list(document["specs"]) == [spec().digest]
    assert document["spec"] == document["current"]["spec"] == document["successor"]["spec"] == spec().digest


def test_specifications_that_differ_in_their_document_alone_are_both_kept() -> None:
    """They have one digest and two keys, and come back with their own documents."""
    record = instance(spec=spec(document='{"a":1}'), current=_placed(spec(document='{"a":2}')))
    assert len(codec.encode(record)["specs"]) == 2
    assert differences(_decoded(record), record) == []


def _loaded(*made: Instance) -> tuple[Instance, ...]:
    builder = codec.ContentsBuilder()
    for record in made:
        builder.add(Kind.INSTANCE, str(record.key), orjson.loads(orjson.dumps(codec.encode(record))))
    return builder.build().instances


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
    document = codec.encode(record)
    document["new"] = document["current"]["new"] = document["specs"][spec().digest]["new"] = {"x": [1]}
    assert _decoded(record, document) == record


def test_missing_keys_take_their_defaults() -> None:
    """A document from before a field was there reads as the field's default."""
    document = codec.encode(instance(detail="is lost", exit_code=3))
    del document["detail"], document["exit_code"], document["events"]
    assert _decoded(instance(), document) == instance()


@pytest.mark.parametrize("document", [{}, {"name": "x"}, [], {"name": 5, "value": None, "version": "many"}])
def test_what_is_no_record_is_named(document: object) -> None:
    """The error names kind and id of a document that cannot be read."""
    with pytest.raises(StoreError, match="setting 'x' cannot be read"):
        codec.ContentsBuilder().add(Kind.SETTING, "x", document)  # type: ignore[arg-type]


@pytest.mark.parametrize("hint", [dict[str, int], tuple[object, ...], str | dict[str, str], object])
def test_a_type_without_a_plain_form_is_refused(hint: object) -> None:
    """A field that would be saved wrongly is found when the program starts."""
    with pytest.raises(TypeError, match="no plain form"):
        shapes.shape_of(hint)


def test_columns_say_what_an_operator_looks_for() -> None:
    """Name, state, job and number of an instance; the name of a setting."""
    assert codec.columns(instance(7)) == ("web", "REQUESTED", "j", 7)
    assert codec.columns(setting("root")) == ("root", None, None, None)
