"""Records as plain documents and back, without loss.

A document follows the fields of its record. Each specification is written once per document, in its table `specs`
(key → specification); where the record has a specification the document has its key. The key is the digest, which
leaves out the job's own document: a further one with the same digest gets a suffix.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from cluster.jobs import JobSpec
from manager.domain.model import Instance, Job, Node, Record, Setting
from manager.ports import Contents, Kind, StoreError
from manager.store.shapes import Document, object_codec

_RECORDS: Final = {Kind.NODE: Node, Kind.JOB: Job, Kind.INSTANCE: Instance, Kind.SETTING: Setting}
_CODECS: Final = {cls: object_codec(cls) for cls in (*_RECORDS.values(), JobSpec)}
_SPECS: Final = "specs"


class _Table:
    """The specifications of one document."""

    def __init__(self) -> None:
        self.documents: Document = {}
        self._keys: dict[int, str] = {}

    def key(self, spec: JobSpec) -> str:
        """The key of a specification, which is in the table from then on."""
        found = self._keys.get(id(spec))
        if found is None:
            found = self._keys[id(spec)] = self._add(spec)
        return found

    def _add(self, spec: JobSpec) -> str:
        key, count = spec.digest, 0
        while key in self.documents and self.documents[key]["document"] != spec.document:
            count += 1
            key = f"{spec.digest}-{count}"
        if key not in self.documents:
            self.documents[key] = _encode(spec, self)
        return key


class Interner:
    """Keeps one object for equal words and for equal specifications while many documents are decoded."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._read: dict[bytes, JobSpec] = {}
        self._bases: dict[JobSpec, JobSpec] = {}
        self._specs: dict[tuple[JobSpec, str], JobSpec] = {}

    def word(self, value: str) -> str:
        """The one object for this text."""
        return self._words.setdefault(value, value)

    def spec(self, document: Document, reader: _DocumentReader) -> JobSpec:
        """The one object for this specification; those that differ in `document` alone share all else."""
        text = orjson.dumps(document)
        found = self._read.get(text)
        if found is None:
            value = _decode(JobSpec, document, reader)
            base = self._bases.setdefault(value, value)
            shared = base if base.document == value.document else replace(base, document=value.document)
            found = self._read[text] = self._specs.setdefault((shared, shared.document), shared)
        return found


class _DocumentReader:
    """Decodes one document with the specifications of its table."""

    def __init__(self, table: Document, interner: Interner) -> None:
        self._table = table
        self._specs: dict[str, JobSpec] = {}
        self._interner = interner
        self.word = interner.word

    def spec(self, key: str) -> JobSpec:
        """The specification of this key, read once."""
        found = self._specs.get(key)
        if found is None:
            found = self._specs[key] = self._interner.spec(self._table[key], self)
        return found


def encode(record: Record) -> Document:
    """The document of a record: dicts with our own keys only, lists, str, int, float, bool and None."""
    table = _Table()
    document: Document = _encode(record, table)
    if table.documents:
        document[_SPECS] = table.documents
    return document


def decode(kind: Kind, document: Document, interner: Interner) -> Record:
    """The record in a document: unknown keys are passed over, missing ones take the field's default.

    Raises KeyError, TypeError or ValueError where it is no record of this kind.
    """
    record: Record = _decode(_RECORDS[kind], document, _DocumentReader(document.get(_SPECS, {}), interner))
    return record


def columns(record: Record) -> tuple[str | None, str | None, str | None, int | None]:
    """What an operator looks for beside the document: name, state, job id and number; None without meaning."""
    match record:
        case Instance():
            return record.job_name, record.state.value, record.key.job_id, record.key.number
        case Node():
            return record.name, record.state.value, None, None
        case Job():
            return record.spec.name, None, None, None
        case Setting():
            return record.name, None, None, None


class ContentsBuilder:
    """Collects the decoded records of one load."""

    def __init__(self) -> None:
        self._interner = Interner()
        self._found: dict[Kind, list[Any]] = {kind: [] for kind in Kind}

    def add(self, kind: Kind, record_id: str, document: Document) -> None:
        """Decode one document. Raises StoreError that names it where it cannot be read."""
        try:
            self._found[kind].append(decode(kind, document, self._interner))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(unreadable(kind, record_id, error)) from error

    def build(self) -> Contents:
        """Everything so far."""
        return Contents(
            nodes=tuple(self._found[Kind.NODE]),
            jobs=tuple(self._found[Kind.JOB]),
            instances=tuple(self._found[Kind.INSTANCE]),
            settings=tuple(self._found[Kind.SETTING]),
        )


def unreadable(kind: Kind, record_id: str, error: Exception) -> str:
    """What is said of a document that cannot be decoded."""
    return f"the saved {kind.value} {record_id!r} cannot be read ({error!r}): restore it from a backup or remove it"


def _encode(value: Record | JobSpec, table: _Table) -> Document:
    document: Document = _CODECS[type(value)][0](value, table)
    return document


def _decode(cls: type[Any], document: Document, reader: _DocumentReader) -> Any:
    return _CODECS[cls][1](document, reader)
