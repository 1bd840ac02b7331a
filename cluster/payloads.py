"""The MQTT messages of every dialect, parsed into frozen records and written from them.

Parsing is for hostile input: whatever is wrong raises InvalidInputError, nothing else. Sources: the documented
contract for `information` and `controls`; section 2 of the deployed ecosystem's contract for `job`, `jobs/resources`,
`control/deploy` and `control/delete`; docs/worker-protocol.md for the keys that this project's worker adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from cluster.documents import MEBIBYTE, job_document, parse_job, parse_job_id
from cluster.errors import InvalidInputError, TooLargeError
from cluster.jobs import JobSpec
from cluster.nodes import Dialect

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
MAX_TEXT: Final = 1024
MOST: Final = 2.0**62  # amounts are shown as signed integers of 64 bits
LARGEST_EXIT_CODE: Final = 2**31 - 1
ANY_SOURCE: Final = "any"
COMMANDS: Final = ("deploy", "delete", "move", "replicate")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuTelemetry:
    """What a node's GPUs do, all together: percent 0..100, degrees Celsius, MiB; `driver` "" where it tells none."""

    percent: float = 0.0
    temperature_c: float = 0.0
    memory_mb: int = 0
    memory_used_mb: int = 0
    driver: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Telemetry:
    """What a node measured of itself; None where it did not say. Percentages are 0..100.

    `beat` marks when the node sent it, by its own clock; leases echo it. `source` tells engines apart that share an
    id: the address, the generation and the number of cores that it names. `gpus` only the newer engines tell.
    """

    cpu_percent: float | None = None
    memory_percent: float | None = None
    memory_free_bytes: int | None = None
    beat: str = ""
    source: str = ""
    gpus: GpuTelemetry | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateReport:
    """A change of one instance. `status` is the node's own word in capitals; `generation` None from engines.

    `restarts` is how often the node started this copy again; None where it does not say.
    """

    job_name: str
    number: int
    status: str
    detail: str = ""
    job_id: str = ""
    generation: int | None = None
    exit_code: int | None = None
    sequence: int | None = None
    at_ms: int | None = None
    incoming: str = ""
    restarts: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceEntry:
    """One running instance in a list. Amounts are None where absent or not a number.

    `cpu_percent` is of the whole node, or of one core and then without an upper limit (`is_cpu_of_one_core`).
    `memory_share` (0..1) is of the memory that the node has left. `logs` are its last words, None where nothing is
    said of them: they are as before. `restarts` as in states.
    """

    job_name: str
    number: int
    technology: str = ""
    status: str = ""
    detail: str = ""
    job_id: str = ""
    generation: int | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    exit_code: int | None = None
    is_cpu_of_one_core: bool = False
    memory_share: float | None = None
    logs: str | None = None
    restarts: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceList:
    """What one runtime of an engine runs, or the whole inventory of this project's worker (`is_inventory`)."""

    entries: tuple[ResourceEntry, ...]
    is_inventory: bool = False
    sequence: int | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """A message on `controls`. `worker` is the target of a move.

    `incoming` belongs to live moves: ANY_SOURCE on a deploy asks the target to wait for the running guest, on a move it
    is the URI where the target waits for it. `beat` echoes the node's newest heartbeat in deploys with `stop_after`:
    from when it was sent the worker counts, however late the command arrives.
    """

    command: str
    job_id: str
    number: int
    generation: int
    spec: JobSpec
    cluster: str = ""
    worker: str = ""
    incoming: str = ""
    beat: str = ""


def bounded_exit_code(value: int) -> int:
    """An exit code within 32 bits with sign: WebAssembly and containerd know larger ones, as for an unknown end."""
    return min(max(value, -LARGEST_EXIT_CODE - 1), LARGEST_EXIT_CODE)


def parse_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in an MQTT payload of at most 1 MiB. Raises InvalidInputError or TooLargeError."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise TooLargeError(f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken")
    try:
        value = orjson.loads(payload)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInputError("not a JSON object")
    return value


def parse_information(payload: bytes, dialect: Dialect) -> Telemetry:
    """Telemetry of any dialect: `memory` is percent, except from an engine that sends no `memory_free_in_MB` beside it.

    Engines of 2026 send `cpu_percent`, `memory_percent` and `memory` in MB available; older ones `cpu`, `memory` in
    percent and `memory_free_in_MB`, as this project's worker does. Of the older ones those without GPU keys send the
    5-minute load average as `cpu`: divided by the cores and clipped to 100 it is the nearest thing to a percentage.
    """
    body = parse_object(payload)
    is_in_megabytes = dialect.is_engine and "memory_free_in_MB" not in body
    free = body.get("memory" if is_in_megabytes else "memory_free_in_MB")
    cpu = _number(body, "cpu_percent" if "cpu_percent" in body else "cpu")
    if dialect.is_engine and cpu is not None and _is_load_average(body):
        cores = _lenient(body, "free_cores")
        cpu = cpu / cores * 100 if cores else None
    memory = _number(body, "memory_percent") if is_in_megabytes else _number(body, "memory")
    if cpu is None and memory is None and free is None:
        raise InvalidInputError("neither cpu nor memory is there", field="cpu")
    free_bytes = None if free is None else _finite(_finite(free, "memory_free_in_MB") * MEBIBYTE, "memory_free_in_MB")
    return Telemetry(
        cpu_percent=_percent(cpu),
        memory_percent=_percent(memory),
        memory_free_bytes=None if free_bytes is None else max(int(free_bytes), 0),
        beat=_optional_text(body, "beat"),
        source=_source(body) if dialect.is_engine else "",
        gpus=_gpus(body) if dialect.is_engine and "gpu_usage" in body else None,
    )


def _gpus(body: Mapping[str, Any]) -> GpuTelemetry:
    """Engines of 2025 name the memory used, those of 2026 its share of `vram`; a driver that they miss is "-"."""
    total_mb = _lenient(body, "vram" if "vram" in body else "gpu_tot_mem") or 0.0
    used_mb = total_mb * (_percent(_lenient(body, "vram_percent")) or 0.0) / 100
    if "vram" not in body:
        used_mb = _lenient(body, "gpu_mem_used") or 0.0
    driver = body.get("gpu_driver")
    return GpuTelemetry(
        percent=_percent(_lenient(body, "gpu_usage")) or 0.0,
        temperature_c=_lenient(body, "gpu_temp") or 0.0,
        memory_mb=max(int(total_mb), 0),
        memory_used_mb=max(int(used_mb), 0),
        driver=driver[:MAX_TEXT] if isinstance(driver, str) and driver != "-" else "",
    )


def _is_load_average(body: Mapping[str, Any]) -> bool:
    return "cpu_percent" not in body and "gpu_usage" not in body and "architecture" not in body


def _source(body: Mapping[str, Any]) -> str:
    cores = body.get("vcpus", body.get("free_cores"))
    generation = "newer" if "vcpus" in body else "older"
    return f"{_optional_text(body, 'ip') or 'a node'}, {generation} engine, {cores} cores"


def parse_state(payload: bytes) -> StateReport:
    """`{"sname", "status", "status_detail", "instance", "publicip"}`; this project's worker adds the optional rest."""
    body = parse_object(payload)
    return StateReport(
        job_name=_string(body, "sname"),
        number=_integer(body, "instance"),
        status=_string(body, "status").upper(),
        detail=_optional_text(body, "status_detail"),
        job_id=_optional_text(body, "job_id"),
        generation=_optional_integer(body, "generation"),
        exit_code=_exit_code(body),
        sequence=_optional_integer(body, "sequence"),
        at_ms=_optional_integer(body, "at_ms"),
        incoming=_optional_text(body, "incoming"),
        restarts=_restarts(body),
    )


def parse_resources(payload: bytes) -> ResourceList:
    """`{"services": [...]}`. Numbers in it are strings or numbers; what cannot be read as one is None."""
    body = parse_object(payload)
    services = body.get("services")
    if not isinstance(services, list) or not all(isinstance(item, dict) for item in services):
        raise InvalidInputError("services must be a list of objects", field="services")
    return ResourceList(
        entries=tuple(_entry(item) for item in services),
        is_inventory=body.get("inventory") is True,
        sequence=_optional_integer(body, "sequence"),
    )


def parse_command(payload: bytes) -> Command:
    """A message on `controls` as a worker reads it. Raises InvalidInputError that names the field."""
    body = parse_object(payload)
    command = body.get("command")
    if command not in COMMANDS:
        raise InvalidInputError(f"unknown command {command!r}; one of {', '.join(COMMANDS)}", field="command")
    job = body.get("job")
    if not isinstance(job, dict):
        raise InvalidInputError("job must be an object", field="job")
    return Command(
        command=command,
        job_id=parse_job_id(job.get("id"), "job.id"),
        number=_integer(job, "instance_number"),
        generation=_integer(job, "generation"),
        spec=parse_job(job),
        cluster=_optional_text(body, "cluster"),
        worker=_optional_text(body, "worker"),
        incoming=_optional_text(body, "incoming"),
        beat=_optional_text(body, "beat"),
    )


def write_command(command: Command) -> bytes:
    """A message on `controls`: the documented keys, then instance_number, generation and the job's other fields."""
    job = {"id": command.job_id, **job_document(command.spec)}
    job.update(id=command.job_id, instance_number=command.number, generation=command.generation)
    body: dict[str, Any] = {"command": command.command, "job": job, "cluster": command.cluster}
    if command.worker:
        body["worker"] = command.worker
    if command.incoming:
        body["incoming"] = command.incoming
    if command.beat:
        body["beat"] = command.beat
    return orjson.dumps(body)


def _number(body: Mapping[str, Any], key: str) -> float | None:
    value = body.get(key)
    return None if value is None or value == "" else _finite(value, key)


def _finite(value: object, key: str) -> float:
    """Numbers also come as strings, in the documented samples too. What no machine has is no number of one."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= MOST:
        raise InvalidInputError(f"{key} is not a number up to 2^62", field=key)
    return number


def _percent(value: float | None) -> float | None:
    return None if value is None else min(max(value, 0.0), 100.0)


def _string(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise InvalidInputError(f"{key} must be a string of 1 to {MAX_TEXT} characters", field=key)
    return value


def _optional_text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _integer(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidInputError(f"{key} must be an integer >= 0", field=key)
    return value


def _optional_integer(body: Mapping[str, Any], key: str) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise InvalidInputError(f"{key} must be an integer", field=key)
    return value


def _exit_code(body: Mapping[str, Any]) -> int | None:
    value = _optional_integer(body, "exit_code")
    return None if value is None else bounded_exit_code(value)


def _restarts(body: Mapping[str, Any]) -> int | None:
    """It is only shown: what is no count costs nothing else of its message."""
    value = body.get("restarts")
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if is_count else None


def _lenient(body: Mapping[str, Any], key: str) -> float | None:
    value = body.get(key)
    if type(value) in (int, float) and -MOST <= value <= MOST:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    try:
        return _number(body, key)
    except InvalidInputError:
        return None


def _entry(item: Mapping[str, Any]) -> ResourceEntry:
    memory = _lenient(item, "memory_bytes" if "memory_bytes" in item else "memory")
    share = _lenient(item, "memory_percent")
    if share is not None and not 0 <= share <= 1:  # engines fall back to bytes, and unikernels always send them
        memory, share = share, None
    cpu = _lenient(item, "cpu_percent" if "cpu_percent" in item else "cpu")
    is_cpu_of_one_core = "cpu_percent" not in item and "cpu" in item
    disk = _lenient(item, "disk")
    return ResourceEntry(
        job_name=_string(item, "job_name"),
        number=_integer(item, "instance"),
        technology=_optional_text(item, "virtualization"),
        status=_optional_text(item, "status").upper(),
        detail=_optional_text(item, "status_detail"),
        job_id=_optional_text(item, "job_id"),
        generation=_optional_integer(item, "generation"),
        cpu_percent=cpu if is_cpu_of_one_core else _percent(cpu),
        memory_bytes=None if memory is None else int(memory),
        disk_bytes=None if disk is None else int(disk),
        exit_code=_exit_code(item),
        is_cpu_of_one_core=is_cpu_of_one_core,
        memory_share=share,
        logs=_optional_text(item, "logs").replace("\0", "") if "logs" in item else None,
        restarts=_restarts(item),
    )
