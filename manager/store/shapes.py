"""How each type of the model becomes plain (dict, list, str, int, float, bool, None) and back; derived from the types.

A new field of a record is saved because it is there: no list of fields has to be kept in step with the model. Events,
of which there are many, are rows of their fields' values; the last fields may be missing.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Protocol

from cluster.jobs import JobSpec
from manager.domain.model import Event

Document = dict[str, Any]


class SpecWriter(Protocol):
    """Takes specifications out of a document that is being written."""

    def key(self, spec: JobSpec) -> str:
        """What stands for the specification."""


class Reader(Protocol):
    """Gives what a document that is being read shares with others."""

    def word(self, value: str) -> str:
        """The one object for this text."""

    def spec(self, key: str) -> JobSpec:
        """The specification that the key stands for."""


Encode = Callable[[Any, SpecWriter], Any]
Decode = Callable[[Any, Reader], Any]


@dataclass(frozen=True)
class Shape:
    """How to encode and decode one type; None where the value is the same on both sides."""

    encode: Encode | None = None
    decode: Decode | None = None


@cache
def shape_of(hint: Any) -> Shape:
    """The shape of a type; a JobSpec is only its key. Raises TypeError for a type without a plain form."""
    if hint in (float, bool):
        return Shape()
    if hint is int:  # MongoDB's driver answers long numbers as a class of its own
        return Shape(decode=lambda value, _reader: int(value))
    if hint is str:
        return Shape(decode=lambda value, reader: reader.word(value))
    if hint is JobSpec:
        return Shape(lambda spec, writer: writer.key(spec), lambda key, reader: reader.spec(key))
    if isinstance(hint, types.UnionType):
        return _optional(hint)
    if typing.get_origin(hint) is tuple:
        return _sequence(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Shape(lambda value, _writer: value.value, lambda value, _reader: hint(value))
    if hint is Event:
        return _event()
    return Shape(*object_codec(hint))


@cache
def object_codec(cls: Any) -> tuple[Encode, Decode]:
    """How a dataclass or a named tuple becomes a dict by field, and back."""
    if not is_dataclass(cls) and not hasattr(cls, "_fields"):
        raise TypeError(f"{cls} has no plain form")
    hints = typing.get_type_hints(cls)
    names = tuple(item.name for item in fields(cls)) if is_dataclass(cls) else cls._fields
    shapes = {name: shape_of(hints[name]) for name in names}
    return _object_encoder(shapes), _object_decoder(cls, shapes)


def _optional(hint: types.UnionType) -> Shape:
    others = [argument for argument in hint.__args__ if argument is not types.NoneType]
    if len(others) != 1:
        raise TypeError(f"{hint} has no plain form")
    inner = shape_of(others[0])
    return Shape(_unless_none(inner.encode), _unless_none(inner.decode))


def _unless_none(function: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any] | None:
    if function is None:
        return None
    return lambda value, context: None if value is None else function(value, context)


def _sequence(hint: Any) -> Shape:
    item_hint, *rest = typing.get_args(hint)
    if rest != [Ellipsis]:
        return _row(hint)
    item = shape_of(item_hint)
    encode, decode = item.encode, item.decode
    return Shape(
        (lambda values, writer: [encode(value, writer) for value in values]) if encode else lambda values, _: [*values],
        (lambda values, reader: tuple([decode(value, reader) for value in values]))
        if decode
        else lambda values, _: tuple(values),
    )


def _row(hint: Any) -> Shape:
    """A tuple of a fixed length, each place with a type of its own."""
    shapes = [shape_of(item) for item in typing.get_args(hint)]

    def encode(values: Any, writer: SpecWriter) -> list[Any]:
        pairs = zip(shapes, values, strict=True)
        return [shape.encode(value, writer) if shape.encode else value for shape, value in pairs]

    def decode(values: Any, reader: Reader) -> tuple[Any, ...]:
        pairs = zip(shapes, values, strict=True)
        return tuple([shape.decode(value, reader) if shape.decode else value for shape, value in pairs])

    return Shape(encode, decode)


def _event() -> Shape:
    encode, decode = object_codec(Event)
    names = tuple(item.name for item in fields(Event))
    return Shape(
        lambda value, writer: [*encode(value, writer).values()],
        lambda value, reader: decode(
            value if isinstance(value, dict) else dict(zip(names, value, strict=False)), reader
        ),
    )


def _object_encoder(shapes: dict[str, Shape]) -> Encode:
    names = tuple(shapes)
    values = attrgetter(*names)
    nested = [(name, shape.encode) for name, shape in shapes.items() if shape.encode]

    def encode_object(value: Any, writer: SpecWriter) -> Document:
        document = dict(zip(names, values(value), strict=True))
        for name, encode in nested:
            document[name] = encode(document[name], writer)
        return document

    return encode_object


def _object_decoder(cls: Any, shapes: dict[str, Shape]) -> Decode:
    def decode_object(document: Document, reader: Reader) -> Any:
        known = {}
        for name, value in document.items():
            if (shape := shapes.get(name)) is not None:
                known[name] = value if shape.decode is None else shape.decode(value, reader)
        return cls(**known)

    return decode_object
