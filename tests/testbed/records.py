"""Records of every kind for tests of what saves them: made-up ones, and strategies with every field set."""

import dataclasses
import types
import typing
from typing import Any

from hypothesis import strategies as st

from cluster.jobs import JobSpec
from cluster.nodes import Registration
from manager.domain.model import Instance, InstanceKey, InstanceState, Job, Node, Record, Setting
from manager.ports import Change, Kind
from testbed.texts import texts

KINDS: dict[type[Record], Kind] = {
    Node: Kind.NODE,
    Job: Kind.JOB,
    Instance: Kind.INSTANCE,
    Setting: Kind.SETTING,
}
_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_WORDS = texts(max_size=8) | st.sampled_from(['{"a.b":{"$c":12345678901234567890}}', "", "Ünï\0cödé", "$set", "a.b"])


def records() -> st.SearchStrategy[Record]:
    """Any record, every field drawn by its type; versions are at least 1."""
    return st.one_of([strategy_for(cls) for cls in KINDS])


def strategy_for(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type of the model."""
    if hint is int:
        return _INTEGERS
    if hint is str:
        return _WORDS
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(hint, types.UnionType):
        return st.one_of([st.none() if item is types.NoneType else strategy_for(item) for item in hint.__args__])
    if typing.get_origin(hint) is tuple:
        first, *rest = typing.get_args(hint)
        if rest == [Ellipsis]:
            return st.lists(strategy_for(first), max_size=2).map(tuple)
        return st.tuples(*(strategy_for(item) for item in (first, *rest)))
    if dataclasses.is_dataclass(hint) or hasattr(hint, "_fields"):
        return st.deferred(lambda: _object(hint))
    return st.from_type(hint)


def _object(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    names = [item.name for item in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else cls._fields
    drawn = {name: strategy_for(hints[name]) for name in names}
    if "version" in drawn:
        drawn["version"] = st.integers(1, 2**63 - 1)
    return st.builds(cls, **drawn)


def differences(one: object, other: object) -> list[str]:
    """Where two values differ in value or in type, the fields that `==` leaves out included."""
    if type(one) is not type(other):
        return [f"{one!r} is no {type(other).__name__} {other!r}"]
    if dataclasses.is_dataclass(one):
        pairs = [(getattr(one, item.name), getattr(other, item.name)) for item in dataclasses.fields(one)]
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = list(zip(one, other, strict=True))
    else:
        return [] if one == other else [f"{one!r} != {other!r}"]
    return [text for left, right in pairs for text in differences(left, right)]


def id_of(record: Record) -> str:
    """The id under which a record is saved."""
    if isinstance(record, Instance):
        return str(record.key)
    return record.name if isinstance(record, Setting) else record.id


def change(record: Record, expected: int = 0, before: Record | None = None) -> Change:
    """The compare-and-set that saves a record."""
    return Change(kind=KINDS[type(record)], id=id_of(record), expected=expected, record=record, before=before)


def removal(record: Record) -> Change:
    """The compare-and-set that removes a record of this version."""
    return Change(kind=KINDS[type(record)], id=id_of(record), expected=record.version, record=None, before=record)


def spec(name: str = "web", **fields: Any) -> JobSpec:
    """A plain specification."""
    return JobSpec(**{"name": name, "image": "local/busybox:1", "technology": "docker", **fields})


def instance(number: int = 0, *, version: int = 1, **fields: Any) -> Instance:
    """A plain instance of the job `j`."""
    facts = {"spec": spec(), "is_desired": True, "state": InstanceState.REQUESTED, **fields}
    return Instance(key=InstanceKey("j", number), version=version, **facts)


def setting(name: str = "counter", value: str = "0", version: int = 1) -> Setting:
    """A setting; its value counts in tests of compare-and-set."""
    return Setting(name=name, value=value, version=version)


def node(name: str = "n1", version: int = 1) -> Node:
    """A plain node."""
    registration = Registration(name=name, ip="127.0.0.1", port=1)
    return Node(id=name, registration=registration, registered_at_ms=0, version=version)
