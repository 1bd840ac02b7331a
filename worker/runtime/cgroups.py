"""CPU limits and figures through control groups, version 1 or 2; without root there are none."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
_OURS: Final = "cluster-worker"
_PERIOD_US: Final = 100_000


def limit_cpu(name: str, millicores: int, root: Path = ROOT) -> tuple[Path, ...]:
    """Make a group that may use `millicores` thousandths of a core; () where that is not possible here."""
    quota_us = max(1000, millicores * _PERIOD_US // 1000)
    try:
        if (root / "cgroup.controllers").exists():
            return (_limit_v2(root, name, quota_us),)
        return (_limit_v1(root, name, quota_us),)
    except OSError:
        return ()


def _limit_v2(root: Path, name: str, quota_us: int) -> Path:
    group = root / _OURS / name
    for parent in (root, root / _OURS):
        parent.mkdir(exist_ok=True)
        (parent / "cgroup.subtree_control").write_text("+cpu")
    group.mkdir(exist_ok=True)
    (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
    return group


def _limit_v1(root: Path, name: str, quota_us: int) -> Path:
    group = root / "cpu" / _OURS / name
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    return group


def remove_limit(name: str, root: Path = ROOT) -> None:
    """Remove the group, if there is one and it is empty."""
    for group in (root / _OURS / name, root / "cpu" / _OURS / name):
        with contextlib.suppress(OSError):
            group.rmdir()


def can_limit(root: Path = ROOT) -> bool:
    """Whether this process may make control groups."""
    return os.geteuid() == 0 and os.access(root, os.W_OK)


def figures_of(pid: int, root: Path = ROOT) -> tuple[float, int] | None:
    """Cpu seconds and memory bytes of the control group that `pid` is in; None where they cannot be read."""
    try:
        groups = dict(_groups_of(pid))
        if "" in groups and (root / "cgroup.controllers").exists():
            group = root / groups[""].lstrip("/")
            cpu_us = next(line for line in (group / "cpu.stat").read_text().splitlines() if "usage_usec" in line)
            return int(cpu_us.split()[1]) / 1e6, int((group / "memory.current").read_text())
        cpu = (root / "cpuacct" / groups["cpuacct"].lstrip("/") / "cpuacct.usage").read_text()
        memory = (root / "memory" / groups["memory"].lstrip("/") / "memory.usage_in_bytes").read_text()
        return int(cpu) / 1e9, int(memory)
    except (OSError, KeyError, ValueError, StopIteration):
        return None


def _groups_of(pid: int) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        pairs.extend((controller, path) for controller in controllers.split(","))
    return pairs
