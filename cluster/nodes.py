"""What a machine says of itself when it registers, in every dialect, as one frozen record."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from cluster.documents import JOB_ID, MEBIBYTE, NAME
from cluster.errors import InvalidInputError
from cluster.jobs import TECHNOLOGIES, Resources

_SEED_TECHNOLOGIES: Final = ("docker", "unikernel")
_GOARCH: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Dialect(StrEnum):
    """The set of messages that a node speaks; decided by what it sent at registration."""

    SEED = "seed"
    WORKER = "worker"
    ENGINE_A = "engine_a"
    ENGINE_C = "engine_c"

    @property
    def is_engine(self) -> bool:
        """Whether it is commanded on control/deploy and control/delete."""
        return self in (Dialect.ENGINE_A, Dialect.ENGINE_C)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A node's own words. `given_id` is the id in the body ("" at first); `document` the body as JSON text.

    `ip` is "" for an engine on a machine that has no address but loopback.
    """

    name: str
    ip: str
    port: int
    given_id: str = ""
    dialect: Dialect = Dialect.SEED
    technologies: tuple[str, ...] = _SEED_TECHNOLOGIES
    capacity: Resources = field(default_factory=Resources)
    architecture: str = ""
    addons: tuple[str, ...] = ()
    csi_drivers: tuple[str, ...] = ()
    document: str = field(default="{}", compare=False)

    @property
    def offered(self) -> tuple[str, ...]:
        """The technologies that a job may name; engines also announce runtimes that none can ask for."""
        return tuple(word for word in self.technologies if word in TECHNOLOGIES)


def parse_registration(document: object) -> Registration:
    """The registration in a body with `name` (the documented contract) or `host` (a worker engine).

    Of the documented form `{id, name, ip, port}` the id may be absent or empty; all are strings or integers. This
    project's worker adds `"dialect": "worker"` and what it has: `technology` [words], `vcpus`, `memory_in_MB` and
    `storage_in_MB` (totals), `vgpus`, `architecture`, `supported_addons`, `csi_drivers`.
    Raises InvalidInputError that names the field and the remedy.
    """
    if not isinstance(document, Mapping):
        raise InvalidInputError("a registration must be a JSON object", field="body")
    is_engine = "host" in document and "name" not in document
    name = _text(document, "host" if is_engine else "name")
    if not NAME.match(name):
        raise InvalidInputError(
            "a node name has letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 253",
            field="host" if is_engine else "name",
        )
    dialect = _dialect(document, is_engine)
    return Registration(
        name=name,
        given_id=_given_id(document),
        ip="" if is_engine and document.get("ip") == "" else _ip(document),
        port=_port(document),
        dialect=dialect,
        technologies=_technologies(document, dialect),
        capacity=_capacity(document, dialect),
        architecture=_architecture(document),
        addons=_words(document, "supported_addons"),
        csi_drivers=_csi_drivers(document),
        document=orjson.dumps(document).decode(),
    )


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value:
        return value
    if value is None or value == "":
        raise InvalidInputError(f"a registration needs `{key}`, a string or an integer", field=key)
    raise InvalidInputError(f"{key} must be a string or an integer of at most 64 bits, not {value!r:.40}", field=key)


def _given_id(document: Mapping[str, Any]) -> str:
    if document.get("id") in (None, ""):
        return ""
    value = _text(document, "id")
    if not JOB_ID.match(value):
        raise InvalidInputError(
            "a node id has letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128", field="id"
        )
    return value


def _ip(document: Mapping[str, Any]) -> str:
    value = _text(document, "ip")
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise InvalidInputError(f"{value!r} is not a literal IPv4 or IPv6 address", field="ip") from None


def _port(document: Mapping[str, Any]) -> int:
    value = _text(document, "port")
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:6]) <= 65535 or len(value) > 5:
        raise InvalidInputError(f"{value!r} is not a port; use 1 to 65535", field="port")
    return int(value)


def _dialect(document: Mapping[str, Any], is_engine: bool) -> Dialect:
    if not is_engine:
        return Dialect.WORKER if document.get("dialect") == Dialect.WORKER else Dialect.SEED
    is_newer = "vcpus" in document or "memory_percent" in document or "virtualization" in document
    return Dialect.ENGINE_C if is_newer else Dialect.ENGINE_A


def _technologies(document: Mapping[str, Any], dialect: Dialect) -> tuple[str, ...]:
    for key in ("technology", "virtualization"):
        if document.get(key) is not None:
            return _words(document, key)
    return _SEED_TECHNOLOGIES if dialect is Dialect.SEED else ()


def _words(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInputError(f"{key} must be a list of strings", field=key)
    return tuple(value)


def _capacity(document: Mapping[str, Any], dialect: Dialect) -> Resources:
    memory_key = {Dialect.ENGINE_A: "memory_free_in_MB", Dialect.ENGINE_C: "memory"}.get(dialect, "memory_in_MB")
    cores = _amount(document, "free_cores" if dialect is Dialect.ENGINE_A else "vcpus")
    memory = _amount(document, memory_key)
    storage = _amount(document, "storage_in_MB")
    gpus = _amount(document, "vgpus") if dialect is not Dialect.ENGINE_A else _gpus_of_old_engine(document)
    return Resources(
        cpu_millicores=None if cores is None else round(cores * 1000),
        memory_bytes=None if memory is None else round(memory * MEBIBYTE),
        storage_bytes=None if storage is None else round(storage * MEBIBYTE),
        gpus=None if gpus is None else int(gpus),
    )


def _gpus_of_old_engine(document: Mapping[str, Any]) -> float:
    """Generation B counts them in `gpu_cores`; A lists them in `gpu_info`. Neither is there without a GPU."""
    info = document.get("gpu_info")
    return _amount(document, "gpu_cores") or (len(info) if isinstance(info, Mapping) else 0)


def _amount(document: Mapping[str, Any], key: str) -> float | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise InvalidInputError(f"{key} must be a number from 0 to 1e9", field=key)
    return value


def _architecture(document: Mapping[str, Any]) -> str:
    info = document.get("system_info")
    value = document.get("architecture") or (info.get("architecture") if isinstance(info, Mapping) else "")
    return _GOARCH.get(value, value) if isinstance(value, str) else ""


def _csi_drivers(document: Mapping[str, Any]) -> tuple[str, ...]:
    value = document.get("csi_drivers")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidInputError("csi_drivers must be a list", field="csi_drivers")
    names = [item.get("csi_driver_name") if isinstance(item, Mapping) else item for item in value]
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError("each CSI driver is a string or has csi_driver_name", field="csi_drivers")
    return tuple(str(name) for name in names)
