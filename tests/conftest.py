"""Fixtures on real parts; each skips, or in CI fails, where its part is missing."""

import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from testbed.docker_engine import DockerEngine, docker_engine
from testbed.mongo_server import MongoServer, mongo_server
from testbed.mosquitto import Mosquitto, mosquitto
from testbed.requirement import fail_if_skipped, require
from testbed.unikernel import build


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C, so that fixtures take down what they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour `@pytest.mark.real("part")`."""
    for mark in item.iter_markers("real"):
        for part in mark.args:
            require(part)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where real parts are required, a skipped test has failed."""
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where real parts are required, a module that skips itself as a whole has failed."""
    report = yield
    fail_if_skipped(report)
    return report


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
