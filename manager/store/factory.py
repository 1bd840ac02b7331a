"""The store that a URL names. Each adapter is imported where it is asked for: SQLite's users carry no MongoDB."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cluster.errors import InvalidInputError
from manager.ports import Store

_SQLITE: Final = "sqlite:///"
_MONGODB: Final = "mongodb://"


def open_store(url: str) -> Store:
    """The open store of `sqlite:///relative`, `sqlite:////absolute` or `mongodb://host[:port][/database]`.

    Raises InvalidInputError that tells the remedy, StoreLockedError or StoreError.
    """
    store = make_store(url)
    store.open()
    return store


def make_store(url: str) -> Store:
    """As `open_store`, but not yet open: for callers that retry `open`. Raises InvalidInputError."""
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from manager.store.sqlite import SqliteStore

        return SqliteStore(Path(url.removeprefix(_SQLITE)))
    if url.startswith(_MONGODB):
        from manager.store.mongo import MongoStore

        return MongoStore(url)
    scheme = url.partition(":")[0] if "://" in url else url
    raise InvalidInputError(
        f"no store is named by a URL that begins with {scheme!r}: use sqlite:///relative/path, "
        "sqlite:////absolute/path or mongodb://host:port/database",
        field="STORE_URL",
    )
