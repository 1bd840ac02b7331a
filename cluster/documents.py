"""The documented JSON that comes in, checked field by field: job documents and node registrations.

Sources: contracts of the orchestrator (the documented four-key messages) and the deployed ecosystem's documents, whose
words (`virtualization`, `vcpus`, `job_name`, `host`) exist only here. Unknown keys are kept and passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster.errors import InvalidInputError, TooLargeError
from cluster.jobs import (
    DEFAULT_STOP_AFTER_S,
    DEFAULT_STOP_GRACE_S,
    TECHNOLOGIES,
    Constraint,
    JobSpec,
    OnDisconnect,
    Probe,
    Resources,
    RestartPolicy,
    Volume,
)

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 64
MEBIBYTE: Final = 1024 * 1024
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")
JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_PORTS: Final = re.compile(r"\s*(?:\d{1,5}(?::\d{1,5})?(?:/(?:tcp|udp))?\s*(?:;\s*|\Z))*\Z")
_NUMBER: Final = re.compile(r"\d+", re.ASCII)
_LAST_PORT: Final = 65535
_UNION_TAGS: Final = ("str", "int")
_NAME_RULE: Final = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most {} characters"


def parse_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8, at most 4 MiB and 64 levels deep, without NaN or Infinity.

    Raises TooLargeError or InvalidInputError.
    """
    if len(body) > MAX_BODY_BYTES:
        raise TooLargeError(f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are taken", field="body")
    if _is_deeper_than(body, MAX_DEPTH):
        raise TooLargeError(f"the body nests deeper than {MAX_DEPTH} levels", field="body")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(_not_json(body, error), field="body") from None


def _not_json(body: bytes, error: orjson.JSONDecodeError) -> str:
    if not body.strip():
        return "the body is empty: send a JSON object"
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return f"the body is not UTF-8: byte {wrong.start} is 0x{body[wrong.start]:02x}"
    return f"the body is not JSON: {error}"


def _is_deeper_than(body: bytes, limit: int) -> bool:
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    in_string = False
    for match in re.finditer(rb'\\.|["\[\]{}]', body, re.DOTALL):
        token = match.group()
        if token == b'"':
            in_string = not in_string
        elif not in_string and token in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif not in_string and token in b"]}":
            depth -= 1
    return False


def parse_job_id(value: object, field: str = "job_id") -> str:
    """A job id: up to 128 characters of those of a name, or an integer, read as its digits."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if isinstance(value, str) and JOB_ID.match(value):
        return value
    raise InvalidInputError(f"a job id has {_NAME_RULE.format(128)}", field=field)


Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
Strings = list[str] | None
Model = TypeVar("Model", bound=BaseModel)


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)


class HttpCheckDocument(_Document):
    """`{"path": "/", "port": 8080}`."""

    path: Annotated[str, Field(pattern="^/")] = "/"
    port: Annotated[int, Field(ge=1, le=65535)]


class TcpCheckDocument(_Document):
    """`{"port": 8080}`."""

    port: Annotated[int, Field(ge=1, le=65535)]


class ProbeDocument(_Document):
    """A liveness or readiness check: exactly one of `http`, `tcp`, `exec`; times in seconds."""

    http: HttpCheckDocument | None = None
    tcp: TcpCheckDocument | None = None
    exec: Annotated[list[str], Field(min_length=1)] | None = None
    initial_delay_s: Seconds = 0.0
    interval_s: Annotated[float, Field(ge=0.1, le=86_400)] = 10.0
    timeout_s: Annotated[float, Field(ge=0.1, le=3_600)] = 1.0
    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = 3

    @model_validator(mode="after")
    def _one_check(self) -> ProbeDocument:
        if sum(check is not None for check in (self.http, self.tcp, self.exec)) != 1:
            raise ValueError("give exactly one of http, tcp, exec")
        return self

    def to_probe(self) -> Probe:
        """The frozen record."""
        port = self.http.port if self.http else self.tcp.port if self.tcp else 0
        return Probe(
            http_path=self.http.path if self.http else "",
            port=port,
            command=tuple(self.exec or ()),
            initial_delay_s=self.initial_delay_s,
            interval_s=self.interval_s,
            timeout_s=self.timeout_s,
            failure_threshold=self.failure_threshold,
        )


class VolumeDocument(_Document):
    """A volume of the ecosystem's descriptors."""

    volume_id: str
    csi_driver: str | None = ""
    mount_path: str | None = ""
    config: dict[str, Any] | None = None


class ConstraintDocument(_Document):
    """A constraint of the ecosystem's descriptors; `node` is `h1;h2` for type direct."""

    type: str
    node: str | None = None
    needs: Strings = None


class JobDocument(_Document):
    """A job as a root, an operator or a file describes it. Memory and storage in MB (2^20 bytes), vcpus in cores."""

    id: str | int | None = Field(default=None, alias="_id")
    name: str | None = None
    job_name: str | None = None
    image: str | None = None
    code: str | None = None
    technology: str | None = None
    virtualization: str | None = None
    cmd: Strings = None
    environment: Strings = None
    port: str | None = None
    memory: Amount | None = None
    storage: Amount | None = None
    vcpus: Amount | None = None
    vgpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    arch: Strings = None
    vm_images: Strings = None
    one_shot: bool | None = None
    privileged: bool | None = None
    constraints: list[ConstraintDocument] | None = None
    volumes: list[VolumeDocument] | None = None
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    restart_policy: Literal["never", "on-failure", "always"] | None = None
    max_attempts: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    stop_grace_s: Seconds | None = None
    on_disconnect: Literal["replace", "keep", "stop_after"] | None = None
    stop_after_s: Seconds | None = None
    liveness: ProbeDocument | None = None
    readiness: ProbeDocument | None = None

    @field_validator("port")
    @classmethod
    def _ports(cls, value: str | None) -> str | None:
        if value and (not _PORTS.match(value) or any(int(number) > _LAST_PORT for number in _NUMBER.findall(value))):
            raise ValueError("write ports as 'host:container[/tcp|udp];...', such as '8080:80/tcp', up to 65535")
        return value


def parse_job(document: object) -> JobSpec:
    """The specification in a job document. Raises InvalidInputError that names the field and the remedy."""
    parsed = _validate(JobDocument, document, "the job document")
    one_shot = bool(parsed.one_shot)
    return JobSpec(
        name=_job_name(parsed),
        image=_image(parsed),
        technology=_technology(parsed),
        command=tuple(parsed.cmd or ()),
        environment=tuple(parsed.environment or ()),
        ports=parsed.port or "",
        one_shot=one_shot,
        privileged=bool(parsed.privileged),
        architectures=tuple(parsed.arch or ()),
        demand=_demand(parsed),
        constraints=tuple(_constraint(item) for item in parsed.constraints or ()),
        volumes=tuple(_volume(item) for item in parsed.volumes or ()),
        restart_policy=RestartPolicy(parsed.restart_policy) if parsed.restart_policy else _default_restart(one_shot),
        max_attempts=parsed.max_attempts or 0,
        stop_grace_s=DEFAULT_STOP_GRACE_S if parsed.stop_grace_s is None else parsed.stop_grace_s,
        on_disconnect=OnDisconnect(parsed.on_disconnect or OnDisconnect.REPLACE),
        stop_after_s=DEFAULT_STOP_AFTER_S if parsed.stop_after_s is None else parsed.stop_after_s,
        liveness=parsed.liveness.to_probe() if parsed.liveness else None,
        readiness=parsed.readiness.to_probe() if parsed.readiness else None,
        vm_images=tuple(parsed.vm_images or ()),
        document=orjson.dumps(document).decode(),
    )


def job_document(spec: JobSpec) -> dict[str, Any]:
    """The specification as a job document: what was received, and every field that differs from its default.

    `parse_job` of it gives the same specification again.
    """
    document: dict[str, Any] = orjson.loads(spec.document)
    document.update(name=spec.name, image=spec.image, technology=spec.technology)
    typed = {
        "cmd": list(spec.command),
        "environment": list(spec.environment),
        "port": spec.ports,
        "arch": list(spec.architectures),
        "vm_images": list(spec.vm_images),
        "one_shot": spec.one_shot,
        "privileged": spec.privileged,
        "vcpus": _in_units(spec.demand.cpu_millicores, 1000),
        "memory": _in_units(spec.demand.memory_bytes, MEBIBYTE),
        "storage": _in_units(spec.demand.storage_bytes, MEBIBYTE),
        "vgpus": spec.demand.gpus,
        "restart_policy": None if spec.restart_policy is _default_restart(spec.one_shot) else spec.restart_policy.value,
        "max_attempts": spec.max_attempts or None,
        "stop_grace_s": None if spec.stop_grace_s == DEFAULT_STOP_GRACE_S else spec.stop_grace_s,
        "on_disconnect": None if spec.on_disconnect is OnDisconnect.REPLACE else spec.on_disconnect.value,
        "stop_after_s": None if spec.stop_after_s == DEFAULT_STOP_AFTER_S else spec.stop_after_s,
        "liveness": _probe_document(spec.liveness),
        "readiness": _probe_document(spec.readiness),
        "constraints": [_constraint_document(item) for item in spec.constraints],
        "volumes": [_volume_document(item) for item in spec.volumes],
    }
    document.update({key: value for key, value in typed.items() if value or (value == 0 and value is not False)})
    return document


def _in_units(amount: int | None, unit: int) -> int | float | None:
    if amount is None:
        return None
    return amount // unit if amount % unit == 0 else amount / unit


def _default_restart(one_shot: bool) -> RestartPolicy:
    return RestartPolicy.NEVER if one_shot else RestartPolicy.ALWAYS


def _probe_document(probe: Probe | None) -> dict[str, Any] | None:
    if probe is None:
        return None
    check: dict[str, Any] = {"tcp": {"port": probe.port}}
    if probe.command:
        check = {"exec": list(probe.command)}
    elif probe.http_path:
        check = {"http": {"path": probe.http_path, "port": probe.port}}
    times = ("initial_delay_s", "interval_s", "timeout_s", "failure_threshold")
    return check | {name: getattr(probe, name) for name in times}


def _constraint_document(item: Constraint) -> dict[str, Any]:
    document: dict[str, Any] = {"type": item.type, **orjson.loads(item.document)}
    if item.nodes:
        document["node"] = ";".join(item.nodes)
    if item.needs:
        document["needs"] = list(item.needs)
    return document


def _volume_document(item: Volume) -> dict[str, Any]:
    return {
        "volume_id": item.id,
        "csi_driver": item.csi_driver,
        "mount_path": item.mount_path,
        "config": orjson.loads(item.config),
    }


def replicas_of(document: Mapping[str, Any]) -> int:
    """The integer `replicas` of a checked job document; 1 where there is none."""
    value = document.get("replicas")
    return value if isinstance(value, int) else 1


def _job_name(parsed: JobDocument) -> str:
    for field, value in (("name", parsed.name), ("job_name", parsed.job_name)):
        if value:
            if not NAME.match(value):
                raise InvalidInputError(f"a job name has {_NAME_RULE.format(253)}", field=field)
            return value
    raise InvalidInputError("a job needs a name: give `name` or `job_name`", field="name")


def _image(parsed: JobDocument) -> str:
    image = parsed.image or parsed.code
    if not image or not image.strip():
        raise InvalidInputError("a job needs an image: give `image`", field="image")
    return image


def _technology(parsed: JobDocument) -> str:
    field = "technology" if parsed.technology else "virtualization"
    value = parsed.technology or parsed.virtualization
    if not value:
        raise InvalidInputError(f"a job needs a technology: one of {', '.join(TECHNOLOGIES)}", field="technology")
    value = "docker" if value == "container" else value
    if value not in TECHNOLOGIES:
        raise InvalidInputError(f"unknown technology {value!r}; use one of {', '.join(TECHNOLOGIES)}", field=field)
    return value


def _demand(parsed: JobDocument) -> Resources:
    return Resources(
        cpu_millicores=None if parsed.vcpus is None else round(parsed.vcpus * 1000),
        memory_bytes=None if parsed.memory is None else round(parsed.memory * MEBIBYTE),
        storage_bytes=None if parsed.storage is None else round(parsed.storage * MEBIBYTE),
        gpus=parsed.vgpus,
    )


def _constraint(item: ConstraintDocument) -> Constraint:
    return Constraint(
        type=item.type,
        nodes=tuple(name for part in (item.node or "").split(";") if (name := part.strip())),
        needs=tuple(item.needs or ()),
        document=orjson.dumps(item.model_dump(exclude_unset=True)).decode(),
    )


def _volume(item: VolumeDocument) -> Volume:
    return Volume(
        id=item.volume_id,
        csi_driver=item.csi_driver or "",
        mount_path=item.mount_path or "",
        config=orjson.dumps(item.config or {}).decode(),
    )


def _validate(model: type[Model], document: object, what: str) -> Model:
    if not isinstance(document, Mapping):
        raise InvalidInputError(f"{what} must be a JSON object", field="body")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part not in _UNION_TAGS) or "body"
        words = first["msg"].removeprefix("Value error, ")
        told = words.replace("Input should", f"{field} should", 1) if words.startswith("Input") else f"{field}: {words}"
        raise InvalidInputError(told, field=field) from None
