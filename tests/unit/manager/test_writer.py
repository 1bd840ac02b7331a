"""The one writer on a real SQLite store that can be made to fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.errors import UnavailableError
from manager.core import Core
from manager.domain.model import InstanceKey
from manager.domain.policy import Policy
from manager.ports import Change, Contents, Kind, StoreError
from manager.store.factory import make_store
from manager.writer import Writer
from testbed.records import setting, spec
from testbed.stores import sqlite_url
from testbed.waiting import wait_until_async


class Fragile:
    """A real store; while `fault` is set writing fails, after having written when `writes_first`."""

    def __init__(self, folder: Path) -> None:
        self._inner = make_store(sqlite_url(folder))
        self.fault = ""
        self.writes_first = False
        self.batches: list[int] = []

    def open(self) -> None:
        self._inner.open()

    def load(self) -> Contents:
        return self._inner.load()

    def write(self, changes: Sequence[Change]) -> list[Change]:
        if self.fault and not self.writes_first:
            raise StoreError(self.fault)
        self.batches.append(len(changes))
        conflicts = self._inner.write(changes)
        if self.fault:
            raise StoreError(self.fault)
        return conflicts

    def ping(self) -> None:
        if self.fault:
            raise StoreError(self.fault)

    def close(self) -> None:
        self._inner.close()


@asynccontextmanager
async def _running(writer: Writer) -> AsyncIterator[None]:
    await writer.open()
    task = asyncio.create_task(writer.run(), name="writer")
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_waits_is_saved_together(tmp_path: Path) -> None:
    """While one write is under way the next ones gather."""
    store = Fragile(tmp_path)
    writer = Writer(store, lambda _: None)
    async with _running(writer):
        saved = [writer.submit({(Kind.SETTING, f"s{n}"): setting(f"s{n}")}) for n in range(100)]
        await asyncio.gather(*saved)
        assert sum(store.batches) == 100
        assert len(store.batches) <= 2
        assert len(store.load(0).settings) == 100


async def test_nothing_to_save_waits_for_what_came_before(tmp_path: Path) -> None:
    """A repeated no-op is answered only when the first call's change is durable."""
    store = Fragile(tmp_path)
    writer = Writer(store, lambda _: None)
    async with _running(writer):
        first = writer.submit({(Kind.SETTING, "a"): setting("a")})
        assert writer.submit({}) is first
        await first
        assert writer.submit({}).done()


async def test_a_failure_is_told_to_everybody_who_waits(tmp_path: Path) -> None:
    """The batch under way and the one behind it fail, and so does every call until the store works again."""
    store = Fragile(tmp_path)
    reloads: list[Contents] = []
    writer = Writer(store, reloads.append)
    async with _running(writer):
        store.fault = "the disk is full"
        first = writer.submit({(Kind.SETTING, "a"): setting("a")})
        await asyncio.sleep(0)
        second = writer.submit({(Kind.SETTING, "b"): setting("b")})
        for waiting in (first, second):
            with pytest.raises(UnavailableError, match="the disk is full"):
                await waiting
        with pytest.raises(UnavailableError, match="the disk is full"):
            await writer.submit({(Kind.SETTING, "c"): setting("c")})
        store.fault = ""
        await writer.working.wait()
        assert len(reloads) == 1
        await writer.submit({(Kind.SETTING, "d"): setting("d")})
        assert {item.name for item in store.load(0).settings} == {"d"}


@pytest.mark.parametrize("writes_first", [False, True])
async def test_after_a_failure_memory_is_what_the_store_holds(tmp_path: Path, writes_first: bool) -> None:
    """Whether or not the failed write got there, memory says what the store says, and goes on from it."""
    store = Fragile(tmp_path)
    core = Core(store, Policy())
    await core.open()
    task = asyncio.create_task(core.writer.run(), name="writer")
    try:
        core.state.deploy([(InstanceKey("kept", 0), spec())], "root", 1)
        await core.saved()
        store.fault, store.writes_first = "no space", writes_first
        core.state.deploy([(InstanceKey("lost", 0), spec())], "root", 1)
        with pytest.raises(UnavailableError):
            await core.saved()
        store.fault = ""
        await core.writer.working.wait()
        expected = {"kept", "lost"} if writes_first else {"kept"}
        assert {key.job_id for key in core.state.instances} == expected
        assert set(core.state.instances.values()) == set(store.load(0).instances)
        core.state.deploy([(InstanceKey("lost", 0), spec())], "root", 1)
        await core.saved()
        assert {item.key.job_id for item in store.load(0).instances} == {"kept", "lost"}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_record_that_somebody_else_changed_is_read_again(tmp_path: Path) -> None:
    """A compare-and-set that does not hold fails the call and brings memory up to date."""
    store = Fragile(tmp_path)
    reloads: list[Contents] = []
    writer = Writer(store, reloads.append)
    async with _running(writer):
        await writer.submit({(Kind.SETTING, "a"): setting("a", "mine")})
        store.write([Change(kind=Kind.SETTING, id="a", expected=1, record=setting("a", "theirs", 2))])
        with pytest.raises(UnavailableError, match="changed by another process"):
            await writer.submit({(Kind.SETTING, "a"): setting("a", "mine again", 2)})
        await wait_until_async(lambda: bool(reloads))
        assert reloads[0].settings[0].value == "theirs"


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    """A manager that is asked to stop saves what it has."""
    store = Fragile(tmp_path)
    writer = Writer(store, lambda _: None)
    async with _running(writer):
        writer.submit({(Kind.SETTING, "a"): setting("a")})
    store.open()
    assert [item.name for item in store.load(0).settings] == ["a"]
    store.close()
