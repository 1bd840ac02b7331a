"""What worker engines are told: the job document with the exact types that they parse. Pure.

An engine drops a message silently when one typed key has another type, matches keys without regard to case, and
crashes on a runtime that it does not have. Source: sections 2.5, 2.6 and 12.4 of the deployed ecosystem's contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from cluster.documents import job_document
from cluster.images import full_image_name
from cluster.topics import Channel
from manager.domain.effects import Effect, Verb
from manager.domain.engines import name_problem
from manager.domain.model import Node

_MAX_INTEGER: Final = 2**63 - 1


class WithheldError(Exception):
    """The message would crash the engine or could never work there; the text says why."""


def engine_message(node: Node, effect: Effect) -> tuple[Channel, bytes]:
    """The channel and payload of a deploy or a delete. Raises WithheldError."""
    technology = effect.spec.technology
    if technology not in node.registration.technologies:
        raise WithheldError(f"{node.name} announced no runtime {technology!r}: the message would crash its engine")
    identity = {
        "job_name": effect.spec.name,
        "virtualization": technology,
        "instance_number": effect.key.number,
    }
    if effect.verb is Verb.DELETE:
        return Channel.CONTROL_DELETE, orjson.dumps(identity)
    problem = name_problem(node.kind, effect.spec.name, effect.key.number)
    if problem:
        raise WithheldError(problem)
    document = _typed(job_document(effect.spec)) | identity | {"_id": effect.key.job_id}
    if technology == "docker":
        document["image"] = full_image_name(effect.spec.image)
    return Channel.CONTROL_DEPLOY, orjson.dumps(document)


def _typed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Every key that engines know in the type that they parse, and all others as they came.

    A key that differs from a known one in case only would be taken for it, so it is left out.
    """
    typed: dict[str, Any] = {}
    for key, value in document.items():
        convert = _TYPES.get(key)
        if convert is not None:
            converted = convert(value)
            if converted is not None:
                typed[key] = converted
        elif key.casefold() not in _FOLDED:
            typed[key] = value
    return typed


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    """Amounts are rounded up: the node is to have at least what was asked for."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return math.ceil(value) if abs(value) < _MAX_INTEGER else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _volumes(value: object) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []
    return [_volume(item) for item in items if isinstance(item, Mapping)]


def _volume(item: Mapping[str, Any]) -> dict[str, Any]:
    config = item.get("config")
    pairs = config.items() if isinstance(config, Mapping) else ()
    texts = {key: _text(item.get(key)) or "" for key in ("volume_id", "csi_driver", "mount_path")}
    return {**texts, "config": {key: _setting(setting) for key, setting in pairs}}


def _setting(value: object) -> str:
    """Storage drivers take texts only."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


_TYPES: Final[dict[str, Callable[[object], Any]]] = {
    **dict.fromkeys(("_id", "job_name", "image", "port", "status", "status_detail", "virtualization"), _text),
    "platform": _text,
    **dict.fromkeys(("instance_number", "vcpus", "memory", "storage", "vgpus", "vtpus"), _integer),
    **dict.fromkeys(("cmd", "environment", "arch", "vm_images"), _texts),
    **dict.fromkeys(("one_shot", "privileged"), _flag),
    "volumes": _volumes,
}
_FOLDED: Final = frozenset(_TYPES) | {"pid"}  # a field of the engine's own that has no other name
