"""The collections of the MongoDB store, as mongoengine documents.

They say what the layout is; the adapter writes the same layout in bulk, which mongoengine cannot. `document` is a
DictField whose keys are all ours: what others named (job documents, registrations) is inside it as JSON text.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from mongoengine import DictField, Document, IntField, ListField, LongField, StringField

from manager.domain.model import Record
from manager.ports import Kind
from manager.store import codec, migrations


class _RecordDocument(Document):
    """A record: `version` is compared and set; `writes` names the last changes, newest last."""

    meta: ClassVar[dict[str, Any]] = {"abstract": True, "auto_create_index": False}
    id = StringField(primary_key=True)
    version = LongField(required=True)
    schema = IntField(required=True)
    name = StringField(null=True)
    state = StringField(null=True)
    job_id = StringField(null=True)
    number = LongField(null=True)
    document = DictField(required=True)
    writes = ListField(StringField())


class NodeDocument(_RecordDocument):
    """A node."""

    meta: ClassVar[dict[str, Any]] = {"collection": "node"}


class JobDocument(_RecordDocument):
    """A job."""

    meta: ClassVar[dict[str, Any]] = {"collection": "job"}


class InstanceDocument(_RecordDocument):
    """An instance; an operator asks for those of one job."""

    meta: ClassVar[dict[str, Any]] = {"collection": "instance", "indexes": [{"fields": ["job_id", "number"]}]}


class SettingDocument(_RecordDocument):
    """A setting."""

    meta: ClassVar[dict[str, Any]] = {"collection": "setting"}


class SpecDocument(Document):
    """A specification; its key is its id."""

    meta: ClassVar[dict[str, Any]] = {"collection": "spec", "auto_create_index": False}
    id = StringField(primary_key=True)
    document = DictField(required=True)


class EventDocument(Document):
    """One of the newest events of a subject; its id is SUBJECT#SLOT, so that a newer one takes its place."""

    meta: ClassVar[dict[str, Any]] = {
        "collection": "event",
        "auto_create_index": False,
        "indexes": [{"fields": ["subject", "number"]}],
    }
    id = StringField(primary_key=True)
    subject = StringField(required=True)
    number = LongField(required=True)
    row = ListField()


class QuarantineDocument(Document):
    """A record that cannot be read; its id is KIND:ID."""

    meta: ClassVar[dict[str, Any]] = {"collection": "quarantine", "auto_create_index": False}
    id = StringField(primary_key=True)
    kind = StringField(required=True)
    record = StringField(required=True)
    document = StringField(required=True)
    error = StringField(required=True)
    at_ms = LongField(required=True)


class StoreDocument(Document):
    """One document for the store as a whole: its schema, and a counter that `ping` writes."""

    meta: ClassVar[dict[str, Any]] = {"collection": "store", "auto_create_index": False}
    id = StringField(primary_key=True)
    schema = IntField()
    pings = LongField()


RECORDS: Final = {
    Kind.NODE: NodeDocument,
    Kind.JOB: JobDocument,
    Kind.INSTANCE: InstanceDocument,
    Kind.SETTING: SettingDocument,
}


def collection_name(cls: type[Document]) -> str:
    """The collection of a document class."""
    return str(cls._get_collection_name())


def create_indexes(database: Any) -> None:
    """Make the indexes that the classes declare, in a database of any alias."""
    classes: tuple[Any, ...] = (*RECORDS.values(), EventDocument)
    for cls in classes:
        for index in cls._meta["index_specs"]:
            database[collection_name(cls)].create_index(index["fields"])


def raw(record: Record) -> dict[str, Any]:
    """The fields of a record's document, without `_id` and `writes`.

    Raises TypeError where it has no plain form.
    """
    name, state, job_id, number = codec.columns(record)
    return {
        "version": record.version,
        "schema": migrations.SCHEMA,
        "name": name,
        "state": state,
        "job_id": job_id,
        "number": number,
        "document": codec.encode(record),
    }
