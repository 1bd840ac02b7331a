"""Skip a test whose real part is missing; in CI, where all parts must be there, fail it."""

import os
from collections.abc import Callable

import pytest


def real_parts_are_required() -> bool:
    """Whether REQUIRE_REAL_PARTS is set, as `.ci/run` does."""
    return os.environ.get("REQUIRE_REAL_PARTS", "") not in {"", "0"}


def missing(part: str, reason: str) -> None:
    """Skip the running test because `part` is missing, or fail it where real parts are required."""
    story = f"real part {part!r} is missing: {reason}; `make setup-real` brings it"
    if real_parts_are_required():
        pytest.fail(story, pytrace=False)
    pytest.skip(story)


def require(part: str) -> None:
    """Skip (or, in CI, fail) unless `part` is available: one of those in `_probes`."""
    reason = _probes()[part]()
    if reason:
        missing(part, reason)


def available(part: str) -> bool:
    """Whether the real `part` can be used on this machine."""
    return not _probes()[part]()


def _probes() -> dict[str, Callable[[], str]]:
    from testbed import clocks, disks, docker_engine, mongo_server, mosquitto, netns, unikernel
    from testbed.commands import lacking

    return {
        "mosquitto": mosquitto.unavailable,
        "docker": docker_engine.unavailable,
        "qemu": unikernel.unavailable,
        "mongo": mongo_server.unavailable,
        "compose": lambda: docker_engine.unavailable() or lacking("docker-compose"),
        "strace": lambda: lacking("strace"),
        "netns": netns.unavailable,
        "small disk": disks.unavailable,
        "ext4 disk": disks.ext4_unavailable,
        "gcc": clocks.unavailable,
    }
