"""A service document parsed as Go's encoding/json parses it into a struct: strict in types, blind to case."""

import json
from dataclasses import dataclass, field
from typing import Any, Final


class DroppedError(Exception):
    """The engine logs a line and tells nobody."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys in order, repeated ones too."""


class _Float(float):
    """A number written with a point or an exponent, which Go takes for no integer."""


_COMMON: Final = {
    "_id": "string",
    "job_name": "string",
    "instance_number": "int",
    "image": "string",
    "cmd": "strings",
    "environment": "strings",
    "port": "string",
    "status": "string",
    "status_detail": "string",
    "virtualization": "string",
    "vtpus": "int",
    "vgpus": "int",
    "vcpus": "int",
    "memory": "int",
    "pid": "int",
}
OLDER: Final = _COMMON
NEWER: Final = _COMMON | {
    "platform": "string",
    "storage": "int",
    "vm_images": "strings",
    "arch": "strings",
    "volumes": "volumes",
    "one_shot": "bool",
    "privileged": "bool",
}


@dataclass
class Service:
    """What the engine got out of a message; a missing or null key has the zero value of its type."""

    values: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.values.get("job_name") or "")

    @property
    def number(self) -> int:
        """The instance number."""
        return int(self.values.get("instance_number") or 0)

    @property
    def runtime(self) -> str:
        """The runtime that is asked for."""
        return str(self.values.get("virtualization") or "")

    @property
    def image(self) -> str:
        """The image."""
        return str(self.values.get("image") or "")

    @property
    def command(self) -> list[str]:
        """The command."""
        return list(self.values.get("cmd") or [])

    @property
    def is_one_shot(self) -> bool:
        """Whether it runs once."""
        return bool(self.values.get("one_shot"))

    @property
    def container(self) -> str:
        """The name of its container."""
        return f"{self.name}.instance.{self.number}"


def parse_service(payload: bytes, fields: dict[str, str]) -> Service:
    """The service in a control message. Raises DroppedError."""
    try:
        parsed = json.loads(payload, object_pairs_hook=_Pairs, parse_float=_Float, parse_constant=_refuse)
    except ValueError as error:
        raise DroppedError(str(error)) from None
    if parsed is None:
        return Service()
    if not isinstance(parsed, _Pairs):
        raise DroppedError("no object")
    values: dict[str, Any] = {}
    for key, value in parsed:
        name = _fold(key)
        if name in fields and value is not None:
            values[name] = _typed(value, fields[name], key)
    return Service(values)


def _refuse(word: str) -> Any:
    raise ValueError(word)


def _fold(key: str) -> str:
    return key.replace("\u212a", "k").replace("\u017f", "s").lower()


def _typed(value: Any, kind: str, key: str) -> Any:
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if kind == "strings" and _is_list(value) and all(item is None or isinstance(item, str) for item in value):
        return [item or "" for item in value]
    if kind == "volumes" and _is_list(value) and all(isinstance(item, _Pairs) for item in value):
        return [_volume(item, key) for item in value]
    raise DroppedError(f"cannot unmarshal {value!r} into {key} of type {kind}")


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and not isinstance(value, _Pairs)


def _volume(pairs: _Pairs, key: str) -> dict[str, Any]:
    volume: dict[str, Any] = {}
    for name, value in pairs:
        if name == "config" and value is not None:
            if not isinstance(value, _Pairs) or not all(isinstance(item, str) for _, item in value):
                raise DroppedError(f"cannot unmarshal {key}.config")
        elif value is not None and not isinstance(value, str):
            raise DroppedError(f"cannot unmarshal {key}.{name}")
        volume[name] = value
    return volume
