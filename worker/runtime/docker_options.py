"""Between a workload and the engine's API, as pure functions: what a container is created with, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from worker.records import Exit
from worker.runtime.base import RuntimeFailure, Workload
from worker.runtime.ports import parse_ports

LABEL_WORKER: Final = "cluster.worker"
LABEL_REF: Final = "cluster.ref"
LABEL_JOB: Final = "cluster.job_id"
LABEL_INSTANCE: Final = "cluster.instance"
LABEL_GENERATION: Final = "cluster.generation"
_ANY_ADDRESS: Final = ("", "0.0.0.0", "::")


def container_name(workload: Workload) -> str:
    """The name that the deployed ecosystem's tools look for."""
    return f"{workload.spec.name}.instance.{workload.ref.number}"


def create_options(workload: Workload, installation: str) -> dict[str, Any]:
    """Keyword arguments of the SDK's `containers.create`. Raises RuntimeFailure for what cannot be had here."""
    spec, ref = workload.spec, workload.ref
    options: dict[str, Any] = {
        "environment": list(spec.environment),
        "labels": {
            LABEL_WORKER: installation,
            LABEL_REF: str(ref),
            LABEL_JOB: ref.job_id,
            LABEL_INSTANCE: str(ref.number),
            LABEL_GENERATION: str(ref.generation),
        },
        "ports": _ports(workload),
        "volumes": _volumes(workload),
        "privileged": spec.privileged,
        "log_config": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
    }
    if spec.command:
        options["command"] = list(spec.command)
    if spec.demand.memory_bytes:
        options["mem_limit"] = options["memswap_limit"] = spec.demand.memory_bytes
    if spec.demand.cpu_millicores:
        options["nano_cpus"] = spec.demand.cpu_millicores * 1_000_000
    return options


def _ports(workload: Workload) -> dict[str, list[tuple[str, int] | int]]:
    published: dict[str, list[tuple[str, int] | int]] = {}
    for port in parse_ports(workload.spec.ports):
        binding = port.host if workload.ip in _ANY_ADDRESS else (workload.ip, port.host)
        published.setdefault(f"{port.inside}/{port.protocol}", []).append(binding)
    return published


def _volumes(workload: Workload) -> dict[str, dict[str, str]]:
    for volume in workload.spec.volumes:
        if volume.csi_driver:
            raise RuntimeFailure(f"the CSI driver {volume.csi_driver} is not on this node", is_final=True)
    return {v.id: {"bind": v.mount_path, "mode": "rw"} for v in workload.spec.volumes if v.mount_path}


def is_running(attrs: Mapping[str, Any]) -> bool:
    """Whether the engine says that the container runs."""
    return attrs["State"]["Status"] in ("running", "paused", "restarting")


def exit_of(attrs: Mapping[str, Any], boot_time: float | None = None) -> Exit:
    """How a container ended.

    One that was started before the machine's boot and closed after it did not end by itself: nobody knows its outcome.
    """
    state = attrs["State"]
    boot = _boot_time() if boot_time is None else boot_time
    if state["Status"] == "created":
        return Exit(reason="its container was never started", is_outcome_known=False)
    if _seconds(state["StartedAt"]) < boot <= _seconds(state["FinishedAt"]):
        return Exit(reason="the machine was restarted", is_outcome_known=False)
    reason = "out of memory" if state.get("OOMKilled") else state.get("Error", "")
    return Exit(code=int(state["ExitCode"]), reason=reason)


def _seconds(text: str) -> float:
    """The engine's time stamps have nanoseconds, which `fromisoformat` refuses."""
    if text.startswith("0001"):
        return 0.0
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def _boot_time() -> float:
    import psutil

    return psutil.boot_time()
