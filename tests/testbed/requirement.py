"""Skip a test whose real part is missing; in CI, where all parts must be there, fail it.

This is the only place from which a test may be skipped: `tests/unit/test_house.py` holds that.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def real_parts_are_required() -> bool:
    """Whether REQUIRE_REAL_PARTS is set, as `.ci/run` does."""
    return os.environ.get("REQUIRE_REAL_PARTS", "") not in {"", "0"}


def missing(part: str, reason: str) -> None:
    """Skip the running test because `part` is missing, or fail it where real parts are required."""
    story = f"real part {part!r} is missing: {reason}; `make setup-real`, as root, brings what is not installed"
    if real_parts_are_required():
        pytest.fail(story, pytrace=False)
    pytest.skip(story)


def require(part: str) -> None:
    """Skip (or, in CI, fail) unless `part` is available: one of those in `_probes`."""
    reason = _probes()[part]()
    if reason:
        missing(part, reason)


def available(part: str) -> bool:
    """Whether the real `part` can be used on this machine; where real parts are required, its want is a failure."""
    if real_parts_are_required():
        require(part)
    return not _probes()[part]()


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Where real parts are required, turn a report of something skipped, whatever for, into one of a failure."""
    if report.skipped and real_parts_are_required() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"real parts are required, yet this was skipped: {report.longrepr}"


def _probes() -> dict[str, Callable[[], str]]:
    from testbed import clocks, disks, docker_engine, mongo_server, mosquitto, netns, unikernel
    from testbed.commands import lacking

    return {
        "mosquitto": mosquitto.unavailable,
        "docker": docker_engine.unavailable,
        "qemu": unikernel.unavailable,
        "mongo": mongo_server.unavailable,
        "compose": lambda: docker_engine.unavailable() or lacking("docker-compose", "javac", "jlink"),
        "strace": lambda: lacking("strace"),
        "netns": netns.unavailable,
        "small disk": disks.unavailable,
        "ext4 disk": disks.ext4_unavailable,
        "gcc": clocks.unavailable,
        "binutils": lambda: lacking("as", "ld"),
        "control groups": _no_control_groups,
        "procfs": lambda: "" if Path("/proc/self/statm").exists() else "there is no /proc of Linux here",
    }


def _no_control_groups() -> str:
    from worker.runtime.cgroups import can_limit

    return "" if can_limit() else "making control groups needs root and a writable /sys/fs/cgroup"
