"""Records as plain documents and back, without loss.

A document follows the fields of its record. Where the record has a specification the document has its key: the
specifications are saved beside the records, once each. Documents of schema 1 and before carry a table of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson

from cluster.jobs import JobSpec
from manager.domain.model import MAX_EVENTS, Event, Instance, Job, Logged, Node, Record, Setting
from manager.ports import Change, Contents, Kind, Quarantined, StoreError, UnsavableError
from manager.store.shapes import Document, object_codec, shape_of

_RECORDS: Final = {Kind.NODE: Node, Kind.JOB: Job, Kind.INSTANCE: Instance, Kind.SETTING: Setting}
_CODECS: Final = {cls: object_codec(cls) for cls in (*_RECORDS.values(), JobSpec)}
_EVENT: Final = shape_of(Event)
_TABLE: Final = "specs"
UNREADABLE: Final = (AttributeError, KeyError, TypeError, ValueError, IndexError)
FindSpec = Callable[[str], Document]


class _Keys:
    """Puts the identity of a specification in its place."""

    def key(self, spec: JobSpec) -> str:
        """The key of a specification."""
        return spec.identity


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
    """Decodes one document; `find_spec` gives the document of a specification."""

    def __init__(self, find_spec: FindSpec, interner: Interner) -> None:
        self._find_spec = find_spec
        self._specs: dict[str, JobSpec] = {}
        self._interner = interner
        self.word = interner.word

    def spec(self, key: str) -> JobSpec:
        """The specification of this key, read once."""
        found = self._specs.get(key)
        if found is None:
            found = self._specs[key] = self._interner.spec(self._find_spec(key), self)
        return found


def encode(record: Record) -> Document:
    """The document of a record: dicts with our own keys only, lists, str, int, float, bool and None."""
    document: Document = _CODECS[type(record)][0](record, _Keys())
    return document


def encode_spec(spec: JobSpec) -> Document:
    """The document of a specification."""
    document: Document = _CODECS[JobSpec][0](spec, _Keys())
    return document


def encode_event(event: Event) -> list[Any]:
    """The row of an event."""
    row: list[Any] = _EVENT.encode(event, _Keys())  # type: ignore[misc]
    return row


def decode_event(row: list[Any]) -> Event:
    """The event in a row. Raises one of UNREADABLE."""
    event: Event = _EVENT.decode(row, _DocumentReader(no_spec, Interner()))  # type: ignore[misc]
    return event


def readable_events(parse: Callable[[Any], list[Any]], rows: Iterable[Any]) -> list[Event]:
    """The events in rows that are parsed first; one that cannot be read is passed over: it is history, and no more."""
    events = []
    for row in rows:
        with suppress(*UNREADABLE):
            events.append(decode_event(parse(row)))
    return events


def no_spec(key: str) -> Document:
    """Where a document has no specifications but its own. Raises KeyError."""
    raise KeyError(key)


def text(value: Document | list[Any]) -> str:
    """As JSON. Raises TypeError for what has no form in it."""
    return orjson.dumps(value).decode()


def text_of(change: Change) -> str:
    """The JSON of a change's record; "" where it removes one. Raises UnsavableError."""
    try:
        return "" if change.record is None else text(encode(change.record))
    except TypeError as error:
        raise UnsavableError((change.kind, change.id), str(error)) from error


def spec_texts(specs: Mapping[str, JobSpec], changes: Iterable[Change]) -> list[tuple[str, str]]:
    """Keys and JSON of specifications that these changes need. Raises UnsavableError."""
    try:
        return [(key, text(encode_spec(spec))) for key, spec in specs.items()]
    except TypeError as error:
        for change in changes:
            for spec in specs_of(change.record).values():
                if not _has_text(spec):
                    raise UnsavableError((change.kind, change.id), str(error)) from error
        raise


def _has_text(spec: JobSpec) -> bool:
    try:
        text(encode_spec(spec))
    except TypeError:
        return False
    return True


def specs_of(record: Record | None) -> dict[str, JobSpec]:
    """The specifications that a record refers to, by key."""
    match record:
        case Instance():
            specs = [record.spec, *(placement.spec for _, placement in record.placements())]
        case Job():
            specs = [record.spec, *([record.update.old] if record.update else [])]
        case _:
            specs = []
    return {spec.identity: spec for spec in specs}


def decode(kind: Kind, document: Document, find_spec: FindSpec, interner: Interner) -> Record:
    """The record in a document: unknown keys are passed over, missing ones take the field's default.

    Raises one of UNREADABLE where it is no record of this kind.
    """
    table = document.get(_TABLE)
    find = find_spec if table is None else table.__getitem__
    record: Record = _decode(_RECORDS[kind], document, _DocumentReader(find, interner))
    return record


def slimmed(kind: Kind, record_id: str, record: Record) -> tuple[Record, list[Logged]]:
    """A record of schema 1 with its last events only, and all of them for the log."""
    if isinstance(record, Setting):
        return record, []
    count = max(record.event_count, len(record.events))
    first = count - len(record.events) + 1
    logged = [
        Logged(subject=subject_of(kind, record_id), number=first + index, event=event)
        for index, event in enumerate(record.events)
    ]
    return replace(record, events=record.events[-MAX_EVENTS:], event_count=count), logged


def subject_of(kind: Kind, record_id: str) -> str:
    """What the log calls a record."""
    return f"{kind.value}:{record_id}"


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
    """Collects the decoded records of one load; what cannot be read is set aside."""

    def __init__(self, find_spec: FindSpec, now_ms: int) -> None:
        self._interner = Interner()
        self._find_spec = find_spec
        self._now_ms = now_ms
        self._found: dict[Kind, list[Any]] = {kind: [] for kind in Kind}
        self.unreadable: list[Quarantined] = []

    def add(self, kind: Kind, record_id: str, saved: str | Document, upgrade: Callable[[Document], Document]) -> None:
        """Decode one document, or its JSON. Raises StoreError only where a newer program wrote it."""
        try:
            document = upgrade(orjson.loads(saved) if isinstance(saved, str) else saved)
            self._found[kind].append(decode(kind, document, self._find_spec, self._interner))
        except UNREADABLE as error:
            raw = saved if isinstance(saved, str) else orjson.dumps(saved, default=str).decode()
            self.unreadable.append(
                Quarantined(kind=kind, id=record_id, document=raw, error=_words(error), at_ms=self._now_ms)
            )

    def build(self, quarantined: list[Quarantined]) -> Contents:
        """Everything so far, with what is in quarantine."""
        return Contents(
            nodes=tuple(self._found[Kind.NODE]),
            jobs=tuple(self._found[Kind.JOB]),
            instances=tuple(self._found[Kind.INSTANCE]),
            settings=tuple(self._found[Kind.SETTING]),
            quarantined=tuple(quarantined),
        )


def read_one(kind: Kind, record_id: str, document: Document, find_spec: FindSpec) -> Record:
    """One record. Raises StoreError where it cannot be read."""
    try:
        return decode(kind, document, find_spec, Interner())
    except UNREADABLE as error:
        raise StoreError(f"the saved {kind.value} {record_id!r} cannot be read: {_words(error)}") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _decode(cls: type[Any], document: Document, reader: _DocumentReader) -> Any:
    return _CODECS[cls][1](document, reader)
