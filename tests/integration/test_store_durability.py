"""What is answered is durable, and failures are told and survived."""

import contextlib
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.ports import StoreError, StoreLockedError
from manager.store.factory import make_store, open_store
from testbed.commands import find
from testbed.mongo_server import MongoServer
from testbed.records import change, instance, removal, setting
from testbed.requirement import require
from testbed.stores import mongo_address, scratch_database, sqlite_url, writer, writer_environment

_FILL = """
import resource, signal, sys
from manager.ports import StoreError
from manager.store.factory import open_store
from testbed.records import change, instance
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(sys.argv[1])
number = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
try:
    while True:
        store.write([change(instance(number, detail="x" * 10_000))])
        number += 1
except StoreError as error:
    print("full:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.write([change(instance(number, detail="after"))])
print("saved:", number, len(store.load(0).instances))
"""


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[str]:
    with mongo_address() as address:
        yield address


@pytest.fixture(name="url", params=["sqlite", "mongo"])
def _url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
        return
    with scratch_database(request.getfixturevalue("server")) as url:
        yield url


def _answers(child: subprocess.Popen[str]) -> Iterator[int]:
    assert child.stdout is not None
    return map(int, child.stdout)


@contextlib.contextmanager
def _writing(url: str, name: str = "counter") -> Iterator[subprocess.Popen[str]]:
    """A program that writes batches of five without end, and prints each that was answered."""
    command = writer(url, name, 1_000_000, 5)
    with subprocess.Popen(command, env=writer_environment(), stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def _assert_saved(url: str, name: str, answered: list[int]) -> None:
    """All five records have at least the version last answered; the batch under way may be there in part."""
    with contextlib.closing(open_store(url)) as store:
        versions = [record.version for record in store.load(0).settings if record.name.startswith(name)]
    assert len(versions) == 5
    assert {answered[-1], answered[-1] + 1}.issuperset(versions), (answered[-1], versions)


def test_what_was_answered_is_there_after_the_writer_was_killed(url: str) -> None:
    """`kill -9` in the middle of writing loses no answered batch, three times in a row."""
    for name in ("first", "second", "third"):
        with _writing(url, name) as child:
            answers = _answers(child)
            answered = list(itertools.islice(answers, 60))
            child.kill()
            answered += answers
        _assert_saved(url, name, answered)


@pytest.mark.real("mongo")
def test_what_was_answered_is_there_after_the_server_was_killed(mongo_server: MongoServer) -> None:
    """`kill -9` of the MongoDB-protocol server in the middle of writing loses no answered batch."""
    with _writing(f"{mongo_server.url}/test") as child:
        answers = _answers(child)
        answered = list(itertools.islice(answers, 60))
        mongo_server.kill()
        child.kill()
        answered += answers
    mongo_server.start()
    _assert_saved(f"{mongo_server.url}/test", "counter", answered)


@pytest.mark.real("mongo")
def test_a_server_that_was_away_is_used_again(mongo_server: MongoServer) -> None:
    """While it is away each call fails and names it; afterwards the same store works, with all that was saved."""
    with contextlib.closing(open_store(f"{mongo_server.url}/test")) as store:
        store.write([change(setting())])
        mongo_server.kill()
        for call in (store.ping, lambda: store.write([change(setting("other"))])):
            with pytest.raises(StoreError, match=f"MongoDB at 127.0.0.1:{mongo_server.port} failed"):
                call()
        mongo_server.start()
        store.ping()
        assert store.write([removal(setting())]) == []
        assert store.load(0).settings == ()


def test_the_embedded_store_has_one_owner(tmp_path: Path) -> None:
    """A second opening is refused with the owner's process and what to do; it works once the owner has closed."""
    first, second = make_store(sqlite_url(tmp_path)), make_store(sqlite_url(tmp_path))
    first.open()
    with pytest.raises(StoreLockedError, match=r"belongs to process \d+: stop that one.*MongoDB"):
        second.open()
    first.ping()
    first.close()
    second.open()
    second.close()


def test_another_process_is_kept_out_until_the_owner_dies(tmp_path: Path) -> None:
    """The lock of a process that was killed is free at once."""
    with _writing(sqlite_url(tmp_path)) as child:
        next(_answers(child))
        with pytest.raises(StoreLockedError, match=f"belongs to process {child.pid}"):
            open_store(sqlite_url(tmp_path))
        child.kill()
        child.wait()
    open_store(sqlite_url(tmp_path)).close()


@pytest.mark.parametrize("content", [b"this is no database, " * 500, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_corrupt_file_is_told(tmp_path: Path, content: bytes) -> None:
    """What is no database is left as it is, and the words say what to do; moved away, the same store opens."""
    (tmp_path / "store.db").write_bytes(content)
    store = make_store(sqlite_url(tmp_path))
    with pytest.raises(StoreError, match=r"store\.db failed: .*restore it from a backup, or move it away"):
        store.open()
    assert (tmp_path / "store.db").read_bytes() == content
    (tmp_path / "store.db").rename(tmp_path / "corrupt.db")
    store.open()
    store.close()


def test_damage_inside_is_told_when_it_is_read(tmp_path: Path) -> None:
    """Overwritten pages are an error of `load`, never a silent gap."""
    with contextlib.closing(open_store(sqlite_url(tmp_path))) as store:
        store.write([change(instance(number, detail="x" * 3000)) for number in range(200)])
    with (tmp_path / "store.db").open("r+b") as file:
        file.seek(200_000)
        file.write(b"\xff" * 100_000)
    with contextlib.closing(open_store(sqlite_url(tmp_path))) as store, pytest.raises(StoreError):
        store.load(0)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file where the folder should be is a StoreError with the path."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/store\.db cannot be made"):
        open_store(sqlite_url(tmp_path / "file"))


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """Writing beyond the limit fails with words; with room again the same store saves, and nothing answered is lost."""
    command = [sys.executable, "-c", _FILL, sqlite_url(tmp_path)]
    done = subprocess.run(command, env=writer_environment(), capture_output=True, text=True, check=True)
    assert re.search(r"full: the store .* failed: .*; look for a full disk", done.stdout)
    saved = re.search(r"saved: (\d+) (\d+)", done.stdout)
    assert saved is not None
    assert int(saved[2]) == int(saved[1]) + 1 > 5


@pytest.mark.real("strace")
def test_an_answer_follows_its_sync(tmp_path: Path) -> None:
    """Between any two answers of the embedded store its log was written and then synced."""
    require("strace")
    trace, count = tmp_path / "trace", 20
    command = [find("strace") or "strace", "-f", "-y", "-o", str(trace)]
    command += ["-e", "trace=fsync,fdatasync,write,pwrite64", *writer(sqlite_url(tmp_path), "counter", count)]
    subprocess.run(command, env=writer_environment(), check=True, capture_output=True)
    seen: list[str] = []
    answers = 0
    for line in trace.read_text().splitlines():
        if re.search(r"pwrite64\(\d+<.*store\.db-wal>", line):
            seen.append("log written")
        elif re.search(r"(fsync|fdatasync)\(\d+<.*store\.db-wal>\)\s+= 0", line):
            seen.append("log synced")
        elif re.search(r'write\(1<.*>, "\d+\\n"', line):
            assert Counter(seen)["log written"] > 0
            assert seen[-1] == "log synced"
            seen.clear()
            answers += 1
    assert answers == count
