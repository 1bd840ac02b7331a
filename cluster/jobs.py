"""What is to run: the frozen records that every process shares, whatever JSON or proto they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Final

TECHNOLOGIES: Final = ("docker", "unikernel", "wasm")
DEFAULT_STOP_GRACE_S: Final = 10.0
DEFAULT_STOP_AFTER_S: Final = 60.0
MIN_STOP_AFTER_S: Final = 3.0  # leases come every 2 s: a worker would take its deploy for too late


class RestartPolicy(StrEnum):
    """When a worker starts an ended instance again on the same node."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class OnDisconnect(StrEnum):
    """What becomes of an instance on a node that is cut off."""

    REPLACE = "replace"
    KEEP = "keep"
    STOP_AFTER = "stop_after"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Amounts; None is unknown in a capacity and nothing asked in a demand."""

    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None
    gpus: int | None = None

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millicores=(self.cpu_millicores or 0) + (other.cpu_millicores or 0),
            memory_bytes=(self.memory_bytes or 0) + (other.memory_bytes or 0),
            storage_bytes=(self.storage_bytes or 0) + (other.storage_bytes or 0),
            gpus=(self.gpus or 0) + (other.gpus or 0),
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millicores=(self.cpu_millicores or 0) - (other.cpu_millicores or 0),
            memory_bytes=(self.memory_bytes or 0) - (other.memory_bytes or 0),
            storage_bytes=(self.storage_bytes or 0) - (other.storage_bytes or 0),
            gpus=(self.gpus or 0) - (other.gpus or 0),
        )

    def fits(self, demand: Resources, allocated: Resources) -> str:
        """The first amount of this capacity that `demand` beside `allocated` exceeds; "" where it fits.

        An amount of cpu, memory or storage that is unknown excludes nothing; GPUs that are unknown are not there.
        """
        if (demand.gpus or 0) > 0 and (demand.gpus or 0) + (allocated.gpus or 0) > (self.gpus or 0):
            return "gpu"
        for name, have, want, taken in (
            ("cpu", self.cpu_millicores, demand.cpu_millicores, allocated.cpu_millicores),
            ("memory", self.memory_bytes, demand.memory_bytes, allocated.memory_bytes),
            ("storage", self.storage_bytes, demand.storage_bytes, allocated.storage_bytes),
        ):
            if want and have is not None and want + (taken or 0) > have:
                return name
        return ""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A restriction on the nodes; `document` is its JSON object as text."""

    type: str
    nodes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    document: str = "{}"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Storage that is attached to an instance; `config` is a JSON object as text."""

    id: str
    csi_driver: str = ""
    mount_path: str = ""
    config: str = "{}"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A repeated check of a running instance: exactly one of `http_path` with `port`, `port` alone, or `command`."""

    http_path: str = ""
    port: int = 0
    command: tuple[str, ...] = ()
    initial_delay_s: float = 0.0
    interval_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """Everything that decides where and how the instances of a job run.

    `document` is the job document as it was received (a JSON object as text): unknown keys live there and are passed
    on. Two specifications are the same when all else is equal (`digest`): a root's document changes with its own
    bookkeeping.
    """

    name: str
    image: str
    technology: str
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    ports: str = ""
    one_shot: bool = False
    privileged: bool = False
    architectures: tuple[str, ...] = ()
    demand: Resources = field(default_factory=Resources)
    constraints: tuple[Constraint, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    max_attempts: int = 0
    stop_grace_s: float = DEFAULT_STOP_GRACE_S
    on_disconnect: OnDisconnect = OnDisconnect.REPLACE
    stop_after_s: float = DEFAULT_STOP_AFTER_S
    liveness: Probe | None = None
    readiness: Probe | None = None
    vm_images: tuple[str, ...] = ()
    document: str = field(default="{}", compare=False)

    @property
    def runs_once(self) -> bool:
        """Whether what has run to its end is not to run again by itself, however it ended."""
        return self.one_shot or self.restart_policy is RestartPolicy.NEVER

    @cached_property
    def digest(self) -> str:
        """16 hex digits over every field but the document."""
        text = repr([getattr(self, item.name) for item in fields(self) if item.compare])
        return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def identity(self) -> str:
        """32 hex digits over every field, the document too."""
        text = repr([getattr(self, item.name) for item in fields(self)])
        return hashlib.blake2s(text.encode(), digest_size=16).hexdigest()
