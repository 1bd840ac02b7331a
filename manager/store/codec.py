"""Records as plain documents (what JSON and BSON can hold) and back, without loss.

The shape of a document follows the fields of `manager.domain.model`. Each specification is written once per document, in
its table `specs` (key → specification); where the record has a specification the document has its key. The key is the
digest, which leaves out the job's own document: a second one with the same digest gets a suffix.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Final

from cluster.jobs import JobSpec
from manager.domain.model import Instance, Job, Node, Record, Setting
from manager.ports import Kind

Document = dict[str, Any]
RECORDS: Final[dict[Kind, type[Record]]] = {
    Kind.NODE: Node,
    Kind.JOB: Job,
    Kind.INSTANCE: Instance,
    Kind.SETTING: Setting,
}
_SPECS: Final = "specs"


class Interner:
    """Keeps one object for equal words and equal specifications while many documents are decoded."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._bases: dict[JobSpec, JobSpec] = {}
        self._specs: dict[tuple[JobSpec, str], JobSpec] = {}

    def word(self, value: str) -> str:
        """The one object for this text."""
        return self._words.setdefault(value, value)

    def spec(self, value: JobSpec) -> JobSpec:
        """The one object for this specification; those that differ in `document` only share all else."""
        found = self._specs.get((value, value.document))
        if found is None:
            base = self._bases.setdefault(value, value)
            found = base if base.document == value.document else replace(base, document=value.document)
            self._specs[(found, found.document)] = found
        return found


class _Reader:
    """Decodes one document: the specifications of its table, each once."""

    def __init__(self, table: Document, interner: Interner) -> None:
        self._table = table
        self._decoded: dict[str, JobSpec] = {}
        self.interner = interner

    def spec(self, key: str) -> JobSpec:
        found = self._decoded.get(key)
        if found is None:
            found = self._decoded[key] = self.interner.spec(_decoder(JobSpec, is_whole=True)(self._table[key], self))
        return found


_Encode = Callable[[Any, Document], Any]
_Decode = Callable[[Any, _Reader], Any]


def encode(record: Record) -> Document:
    """The document of a record: only dicts with our own keys, lists, str, int, float, bool and None."""
    table: Document = {}
    document: Document = _encoder(type(record))(record, table)
    if table:
        document[_SPECS] = table
    return document


def decode(kind: Kind, document: Document, interner: Interner) -> Record:
    """The record in a document: unknown keys are passed over, missing ones take the field's default.

    Raises KeyError, TypeError or ValueError where it is none of this kind.
    """
    reader = _Reader(document.get(_SPECS, {}), interner)
    record: Record = _decoder(RECORDS[kind])(document, reader)
    return record


@cache
def _encoder(hint: Any, is_whole: bool = False) -> _Encode | None:
    """How a value of this type becomes plain; None where it is plain already."""
    arguments = typing.get_args(hint)
    if hint is JobSpec and not is_whole:
        return _encode_spec
    if arguments and _is_optional(hint):
        inner = _encoder(_without_none(hint))
        return inner and (lambda value, table: None if value is None else inner(value, table))
    if typing.get_origin(hint) is tuple:
        item = _encoder(arguments[0])
        if item is None:
            return lambda value, _table: list(value)
        return lambda value, table: [item(each, table) for each in value]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value, _table: value.value
    if is_dataclass(hint) or _is_named_tuple(hint):
        return _object_encoder(hint)
    return None


def _object_encoder(cls: Any) -> _Encode:
    hints = _hints(cls)
    names = tuple(hints)
    values = attrgetter(*names)
    nested = [(name, encoder) for name in names if (encoder := _encoder(hints[name])) is not None]

    def encode_object(value: Any, table: Document) -> Document:
        document = dict(zip(names, values(value), strict=True))
        for name, encoder in nested:
            document[name] = encoder(document[name], table)
        return document

    return encode_object


def _encode_spec(spec: JobSpec, table: Document) -> str:
    key, count = spec.digest, 0
    while key in table and table[key]["document"] != spec.document:
        count += 1
        key = f"{spec.digest}-{count}"
    if key not in table:
        table[key] = _required(_encoder(JobSpec, is_whole=True))(spec, table)
    return key


@cache
def _decoder(hint: Any, is_whole: bool = False) -> _Decode | None:
    """How a plain value becomes one of this type; None where it is one already."""
    arguments = typing.get_args(hint)
    if hint is JobSpec and not is_whole:
        return lambda value, reader: reader.spec(value)
    if hint is str:
        return lambda value, reader: reader.interner.word(value)
    if arguments and _is_optional(hint):
        inner = _decoder(_without_none(hint))
        return inner and (lambda value, reader: None if value is None else inner(value, reader))
    if typing.get_origin(hint) is tuple:
        item = _decoder(arguments[0])
        if item is None:
            return lambda value, _reader: tuple(value)
        return lambda value, reader: tuple([item(each, reader) for each in value])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value, _reader: hint(value)
    if is_dataclass(hint) or _is_named_tuple(hint):
        return _object_decoder(hint)
    return None


def _object_decoder(cls: Any) -> _Decode:
    decoders = {name: _decoder(hint) for name, hint in _hints(cls).items()}

    def decode_object(document: Document, reader: _Reader) -> Any:
        known = {}
        for name, value in document.items():
            if name in decoders:
                decoder = decoders[name]
                known[name] = value if decoder is None else decoder(value, reader)
        return cls(**known)

    return decode_object


def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    names = [item.name for item in fields(cls)] if is_dataclass(cls) else cls._fields
    return {name: hints[name] for name in names}
