"""What this node is and how busy it is, through psutil, never blocking."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

MEBIBYTE: Final = 1024 * 1024
_GOARCH: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Percent of all cores in use since the sample before, percent of memory in use, MB of memory available."""

    cpu_percent: float
    memory_percent: float
    memory_free_mb: int


def sample() -> Sample:
    """Measure now; the first call since the start answers 0 for cpu."""
    memory = psutil.virtual_memory()
    return Sample(
        cpu_percent=psutil.cpu_percent(interval=None),
        memory_percent=memory.percent,
        memory_free_mb=memory.available // MEBIBYTE,
    )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Totals of this node."""

    vcpus: int
    memory_mb: int
    storage_mb: int
    architecture: str


def capacity(folder: Path) -> Capacity:
    """The totals; storage is that of the file system that `folder` is on."""
    return Capacity(
        vcpus=psutil.cpu_count() or 1,
        memory_mb=psutil.virtual_memory().total // MEBIBYTE,
        storage_mb=shutil.disk_usage(folder).total // MEBIBYTE,
        architecture=_GOARCH.get(platform.machine(), platform.machine()),
    )
