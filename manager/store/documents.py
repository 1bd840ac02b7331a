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
    for cls in RECORDS.values():
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
