"""Fixtures on real parts; each skips, or in CI fails, where its part is missing."""

import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from testbed.docker_engine import DockerEngine, docker_engine
from testbed.mongo_server import MongoServer, mongo_server
from testbed.mosquitto import Mosquitto, mosquitto
from testbed.requirement import real_parts_are_required, require
from testbed.unikernel import build

REAL_FIXTURES = {"mosquitto", "docker_engine", "mongo_server", "unikernel_image"}


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C, so that fixtures take down what they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour `@pytest.mark.real("part")`."""
    for mark in item.iter_markers("real"):
        for part in mark.args:
            require(part)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where real parts are required, a skipped test that needs one has failed, whatever it skipped for."""
    report = yield
    if report.skipped and real_parts_are_required() and not hasattr(report, "wasxfail") and _needs_real_part(item):
        report.outcome = "failed"
        report.longrepr = f"real parts are required, yet this was skipped: {report.longrepr}"
    return report


def _needs_real_part(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("real") is not None or not REAL_FIXTURES.isdisjoint(fixtures)


@pytest.fixture(name="mosquitto")
def _mosquitto() -> Iterator[Mosquitto]:
    """A fresh running broker."""
    require("mosquitto")
    with mosquitto() as broker:
        yield broker


@pytest.fixture(name="docker_engine", scope="session")
def _docker_engine() -> Iterator[DockerEngine]:
    """One private engine for the whole session, with `local/busybox:1`."""
    require("docker")
    with docker_engine() as engine:
        yield engine


@pytest.fixture(name="mongo_server")
def _mongo_server() -> Iterator[MongoServer]:
    """A fresh running MongoDB-protocol server."""
    require("mongo")
    with mongo_server() as server:
        yield server


@pytest.fixture(name="unikernel_image", scope="session")
def _unikernel_image() -> Path:
    """The test unikernel's ELF."""
    require("qemu")
    return build()
