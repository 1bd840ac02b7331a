"""Stores for tests: a file in a folder, or a scratch database on a server of MongoDB's protocol."""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pymongo

from testbed.mongo_server import mongo_server
from testbed.processes import REPOSITORY
from testbed.requirement import require


def sqlite_url(folder: Path) -> str:
    """A store in a file of `folder`."""
    return f"sqlite:///{folder.absolute()}/store.db"


@contextlib.contextmanager
def mongo_address() -> Iterator[str]:
    """The server that STORE_URL names (mongodb://…), else one of our own for the time of the block."""
    given = os.environ.get("STORE_URL", "")
    if given.startswith("mongodb://"):
        yield given
        return
    require("mongo")
    with mongo_server() as server:
        yield server.url


@contextlib.contextmanager
def scratch_database(address: str) -> Iterator[str]:
    """The URL of a database that is gone after the block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    try:
        yield _with_database(address, name)
    finally:
        with contextlib.closing(pymongo.MongoClient[dict[str, object]](address)) as client:
            client.drop_database(name)


def _with_database(address: str, name: str) -> str:
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query))
    if "@" in parts.netloc:
        options.setdefault("authSource", parts.path.strip("/") or "admin")
    return urlunsplit(parts._replace(path=f"/{name}", query=urlencode(options)))


def database_of(
    url: str, client: "pymongo.MongoClient[dict[str, object]]"
) -> "pymongo.database.Database[dict[str, object]]":
    """The database that a store's URL names."""
    return client[urlsplit(url).path.strip("/")]


def writer(url: str, name: str, count: int, batch: int = 1) -> list[str]:
    """The command line of a program that writes and answers; see `testbed.store_writer`."""
    return [sys.executable, "-m", "testbed.store_writer", url, name, str(count), str(batch)]


def writer_environment() -> dict[str, str]:
    """The environment in which that program finds the test support."""
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
