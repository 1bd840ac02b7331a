"""The store that a URL names."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import InvalidInputError
from manager.store.factory import make_store, open_store

_MODULES = "import sys; from manager.store.factory import make_store; make_store('sqlite:///x'); print(*sys.modules)"


@pytest.mark.parametrize("url", ["", "sqlite:///", "sqlite://store.db", "postgresql://h/d", "store.db", "MONGODB:/x"])
def test_an_unknown_url_is_refused_with_the_remedy(url: str) -> None:
    """The error names the forms that are known."""
    with pytest.raises(InvalidInputError, match=r"sqlite:///relative/path.*mongodb://host:port") as caught:
        make_store(url)
    assert caught.value.field == "STORE_URL"


def test_a_broken_mongodb_url_is_refused() -> None:
    """What the driver cannot parse is invalid input, not a failure of the store."""
    with pytest.raises(InvalidInputError, match="no MongoDB URL"):
        make_store("mongodb://host:port")


def test_paths_are_relative_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes name a path below the working folder, four one from the root; folders are made."""
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///a/b/store.db").close()
    open_store(f"sqlite:///{tmp_path}/c/store.db").close()
    assert (tmp_path / "a" / "b" / "store.db").exists()
    assert (tmp_path / "c" / "store.db").exists()


def test_sqlite_does_not_load_mongodb() -> None:
    """A process with the embedded store imports neither driver nor mapper of MongoDB."""
    loaded = subprocess.run([sys.executable, "-c", _MODULES], capture_output=True, text=True, check=True).stdout.split()
    assert {"pymongo", "mongoengine", "bson"}.isdisjoint(loaded)
