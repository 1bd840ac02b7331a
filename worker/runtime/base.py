"""The `Runtime` protocol that every technology implements, and its vocabulary."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from cluster.jobs import JobSpec
from worker.records import Exit, Ref

LAST_WORDS: Final = 1024

Progress: TypeAlias = Callable[[str], None]


class RuntimeFailure(Exception):  # noqa: N818 - "failure" is the word of the life cycle
    """A workload cannot be prepared or started. `is_final`: no further try on this node can succeed."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_final = is_final


def is_disk_full(error: OSError) -> bool:
    """Whether it says that there is no room, or none for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a runtime is told of an instance; `ip` is the address that published ports are bound to."""

    ref: Ref
    spec: JobSpec
    ip: str


def last_words_of(output: bytes) -> str:
    """The end of an output as text of at most `LAST_WORDS` characters."""
    return output[-4 * LAST_WORDS :].decode(errors="replace")[-LAST_WORDS:]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a workload takes: cpu in percent of the whole node, memory and disk in bytes; and what it wrote last."""

    cpu_percent: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    last_words: str = ""


class Runtime(Protocol):
    """One technology on this node.

    A runtime keeps what it needs to find a workload again outside the worker's memory: every method but `prepare` and
    `start` takes the `Ref` alone, and works for workloads that an earlier worker process started.
    """

    technology: str

    async def unavailable(self) -> str:
        """Why it cannot be used here and what would enable it; "" when it can."""

    async def prepare(self, workload: Workload, progress: Progress) -> None:
        """Bring the image unless it is there; `progress` is told in words. Raises RuntimeFailure."""

    async def start(self, workload: Workload) -> None:
        """Run it; what is left of an earlier run is removed first. Raises RuntimeFailure."""

    async def is_running(self, ref: Ref) -> bool:
        """Whether it runs now."""

    async def wait(self, ref: Ref) -> Exit:
        """Wait for its end; of something that left no trace the outcome is unknown."""

    async def stop(self, ref: Ref) -> None:
        """Ask it to end; succeeds where nothing runs."""

    async def kill(self, ref: Ref) -> None:
        """End it at once; succeeds where nothing runs."""

    async def remove(self, ref: Ref) -> None:
        """Delete what is left of it, logs included."""

    def logs(self, ref: Ref, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """Its output, the last `tail` lines or all that is kept, and with `follow` what comes until it ends."""

    async def address(self, workload: Workload, port: int) -> tuple[str, int]:
        """Where `port` of the workload is reached from this node."""

    async def usage(self, ref: Ref) -> Usage:
        """What it takes now; zeros where nothing runs."""

    async def execute(self, ref: Ref, command: tuple[str, ...], timeout_s: float) -> tuple[int, str]:
        """Run a command inside it: exit status and output. Raises RuntimeFailure where that is not possible."""

    async def close(self) -> None:
        """Let go of connections; workloads go on."""


@runtime_checkable
class LiveRuntime(Runtime, Protocol):
    """What a runtime adds whose workloads can go to another node while they run."""

    async def receive(self, workload: Workload) -> str:
        """Wait for a workload that runs elsewhere; answers the URI at which it does. Raises RuntimeFailure."""

    async def awaiting(self, ref: Ref) -> str:
        """The URI at which it waits; "" where it does not."""

    async def arrived(self, ref: Ref) -> None:
        """Return once it has arrived and runs. What waited is gone when this raises RuntimeFailure: nothing came."""

    async def send(self, ref: Ref, target: str, uri: str, progress: Progress) -> None:
        """Send it to the node `target`; its end here, with `is_moved`, is told by `wait`.

        Raises RuntimeFailure where it stays.
        """
