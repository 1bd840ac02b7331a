"""Between the frozen job records and their protobuf messages, both ways without loss."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cluster.jobs import (
    DEFAULT_STOP_AFTER_S,
    DEFAULT_STOP_GRACE_S,
    Constraint,
    JobSpec,
    OnDisconnect,
    Probe,
    Resources,
    RestartPolicy,
    Volume,
)
from cluster.v1 import job_pb2, resources_pb2

_AMOUNTS: Final = ("cpu_millicores", "memory_bytes", "storage_bytes", "gpus")
_RESTARTS: Final = {
    RestartPolicy.NEVER: job_pb2.RESTART_POLICY_NEVER,
    RestartPolicy.ON_FAILURE: job_pb2.RESTART_POLICY_ON_FAILURE,
    RestartPolicy.ALWAYS: job_pb2.RESTART_POLICY_ALWAYS,
}
_RESTARTS_BACK: Final = {value: key for key, value in _RESTARTS.items()}
_DISCONNECTS: Final = {
    OnDisconnect.REPLACE: job_pb2.ON_DISCONNECT_REPLACE,
    OnDisconnect.KEEP: job_pb2.ON_DISCONNECT_KEEP,
    OnDisconnect.STOP_AFTER: job_pb2.ON_DISCONNECT_STOP_AFTER,
}
_DISCONNECTS_BACK: Final = {value: key for key, value in _DISCONNECTS.items()}


def resources_to_proto(amounts: Resources) -> resources_pb2.Resources:
    """Unknown amounts stay absent."""
    known = {name: value for name in _AMOUNTS if (value := getattr(amounts, name)) is not None}
    return resources_pb2.Resources(**known)


def resources_from_proto(message: resources_pb2.Resources) -> Resources:
    """Absent amounts become None."""
    return Resources(**{name: getattr(message, name) for name in _AMOUNTS if message.HasField(name)})


def duration(seconds: float) -> Duration:
    """Seconds as a Duration, to the nanosecond."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def seconds(message: Duration) -> float:
    """A Duration in seconds."""
    return message.seconds + message.nanos / 1e9


def timestamp(unix_ms: int) -> Timestamp:
    """Milliseconds since 1970 as a Timestamp."""
    return Timestamp(seconds=unix_ms // 1000, nanos=unix_ms % 1000 * 1_000_000)


def unix_ms(message: Timestamp) -> int:
    """A Timestamp in milliseconds since 1970."""
    return message.seconds * 1000 + message.nanos // 1_000_000


def probe_to_proto(probe: Probe) -> job_pb2.Probe:
    """The check that is set decides the kind."""
    message = job_pb2.Probe(
        initial_delay=duration(probe.initial_delay_s),
        interval=duration(probe.interval_s),
        timeout=duration(probe.timeout_s),
        failure_threshold=probe.failure_threshold,
    )
    if probe.command:
        message.exec.command.extend(probe.command)
    elif probe.http_path:
        message.http.port, message.http.path = probe.port, probe.http_path
    else:
        message.tcp.port = probe.port
    return message


def probe_from_proto(message: job_pb2.Probe) -> Probe:
    """Absent times take their defaults."""
    defaults = Probe()
    return Probe(
        http_path=message.http.path,
        port=message.http.port or message.tcp.port,
        command=tuple(message.exec.command),
        initial_delay_s=seconds(message.initial_delay),
        interval_s=seconds(message.interval) if message.HasField("interval") else defaults.interval_s,
        timeout_s=seconds(message.timeout) if message.HasField("timeout") else defaults.timeout_s,
        failure_threshold=message.failure_threshold or defaults.failure_threshold,
    )


def spec_to_proto(spec: JobSpec) -> job_pb2.JobSpec:
    """The whole specification."""
    message = job_pb2.JobSpec(
        name=spec.name,
        image=spec.image,
        technology=spec.technology,
        command=spec.command,
        environment=spec.environment,
        ports=spec.ports,
        one_shot=spec.one_shot,
        privileged=spec.privileged,
        architectures=spec.architectures,
        demand=resources_to_proto(spec.demand),
        restart_policy=_RESTARTS[spec.restart_policy],
        max_attempts=spec.max_attempts,
        stop_grace=duration(spec.stop_grace_s),
        on_disconnect=_DISCONNECTS[spec.on_disconnect],
        stop_after=duration(spec.stop_after_s),
        vm_images=spec.vm_images,
        document_json=spec.document,
    )
    for item in spec.constraints:
        message.constraints.add(type=item.type, nodes=item.nodes, needs=item.needs, document_json=item.document)
    for volume in spec.volumes:
        message.volumes.add(
            id=volume.id, csi_driver=volume.csi_driver, mount_path=volume.mount_path, config_json=volume.config
        )
    if spec.liveness:
        message.liveness.CopyFrom(probe_to_proto(spec.liveness))
    if spec.readiness:
        message.readiness.CopyFrom(probe_to_proto(spec.readiness))
    return message


def spec_from_proto(message: job_pb2.JobSpec) -> JobSpec:
    """The whole specification; absent fields take the defaults that their comments name."""
    default_restart = RestartPolicy.NEVER if message.one_shot else RestartPolicy.ALWAYS
    return JobSpec(
        name=message.name,
        image=message.image,
        technology=message.technology,
        command=tuple(message.command),
        environment=tuple(message.environment),
        ports=message.ports,
        one_shot=message.one_shot,
        privileged=message.privileged,
        architectures=tuple(message.architectures),
        demand=resources_from_proto(message.demand),
        constraints=tuple(
            Constraint(type=c.type, nodes=tuple(c.nodes), needs=tuple(c.needs), document=c.document_json or "{}")
            for c in message.constraints
        ),
        volumes=tuple(
            Volume(id=v.id, csi_driver=v.csi_driver, mount_path=v.mount_path, config=v.config_json or "{}")
            for v in message.volumes
        ),
        restart_policy=_RESTARTS_BACK.get(message.restart_policy, default_restart),
        max_attempts=message.max_attempts,
        stop_grace_s=seconds(message.stop_grace) if message.HasField("stop_grace") else DEFAULT_STOP_GRACE_S,
        on_disconnect=_DISCONNECTS_BACK.get(message.on_disconnect, OnDisconnect.REPLACE),
        stop_after_s=seconds(message.stop_after) if message.HasField("stop_after") else DEFAULT_STOP_AFTER_S,
        liveness=probe_from_proto(message.liveness) if message.HasField("liveness") else None,
        readiness=probe_from_proto(message.readiness) if message.HasField("readiness") else None,
        vm_images=tuple(message.vm_images),
        document=message.document_json or "{}",
    )
