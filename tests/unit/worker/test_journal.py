"""Saved first, then acknowledged, sent and done; while the disk is in trouble, only what takes away goes ahead."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.machines import REF, newer, spec
from testbed.waiting import wait_until_async
from worker import journal as journal_module
from worker.journal import Followers, Journal, Portion
from worker.records import (
    Check,
    Fence,
    Forget,
    HandOver,
    Instance,
    Instruction,
    Kill,
    Phase,
    Publish,
    Ref,
    RunProbe,
    Save,
    Start,
    Status,
    Stop,
)
from worker.state import Change, Keep, Message, State

ITEM = Instance(ref=REF, spec=spec())
START, STOP, KILL = Start(REF, spec()), Stop(REF, spec()), Kill(REF, spec())


class TroubledState(State):
    """A real one whose disk is full or slow for as long as a test wants that."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.is_full = False
        self.is_quick = threading.Event()
        self.is_quick.set()
        self.tries = 0

    def commit(self, changes: Iterable[Change], at_ms: int, acknowledged: Iterable[int] = ()) -> list[Message]:
        """As ever, once it may."""
        self.tries = getattr(self, "tries", 0) + 1
        if getattr(self, "is_quick", None):
            self.is_quick.wait()
        if getattr(self, "is_full", False):
            raise sqlite3.OperationalError("database or disk is full")
        return super().commit(changes, at_ms, acknowledged)


class Rig:
    """A journal on such a state, and what it let happen, in order."""

    def __init__(self, folder: Path) -> None:
        self.state = TroubledState(folder)
        self.happened: list[Any] = []
        self.sequences: list[int] = []
        self.unurgent: set[Ref] = set()
        followers = Followers(
            saved=self._on_saved,
            is_urgent=lambda item: item.ref not in self.unurgent,
            at_once=self.happened.append,
            annulled=lambda ref: self.happened.append(("annulled", ref)),
        )
        self.journal = Journal(self.state, followers)

    def add(self, *instructions: Instruction | Keep, ack: str = "") -> None:
        """Give it one batch."""
        self.journal.add(instructions, [lambda: self.happened.append(ack)] if ack else [])

    async def until(self, *happened: Any) -> None:
        """Wait until this has happened, in this order, and nothing else."""
        await wait_until_async(lambda: self.happened == list(happened), what=f"{happened}; {self.happened}")

    async def until_troubled(self) -> None:
        """Wait until the disk has been found full, or slow."""
        await wait_until_async(lambda: bool(self.journal._trouble), what="the trouble is noticed")

    def _on_saved(self, portion: Portion, messages: list[Message]) -> None:
        saved = {item.ref for item in self.state.instances()}
        for change in portion.changes.values():
            if isinstance(change, Save):
                assert change.instance.ref in saved
        self.sequences += [message.sequence for message in messages]
        for done in portion.acknowledge:
            done()
        self.happened += portion.effects


@pytest.fixture(name="rig")
async def _rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.01)
    monkeypatch.setattr(journal_module, "PATIENCE_S", 600.0)  # no disk of a busy machine is taken for a broken one
    rig = Rig(tmp_path)
    task = asyncio.create_task(rig.journal.run(), name="journal")
    yield rig
    rig.state.is_quick.set()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    rig.journal.close()
    rig.state.close()


async def test_saving_comes_first(rig: Rig) -> None:
    """What was saved is acknowledged, then done; batch after batch, in their order."""
    rig.add(Save(ITEM), Publish(REF, "web", Status.STARTING), START, ack="deploy")
    rig.add(Save(replace(ITEM, phase=Phase.STOPPING)), STOP, ack="delete")
    await wait_until_async(lambda: len(rig.happened) == 4)
    assert rig.happened.index("deploy") < rig.happened.index(START) < rig.happened.index(STOP)
    assert rig.happened.index("delete") < rig.happened.index(STOP)
    assert rig.sequences == [1]


async def test_a_full_disk_holds_back_all_but_stopping(rig: Rig) -> None:
    """Stops and kills are carried out once, before they are saved; the rest follows when there is room again."""
    rig.state.is_full = True
    other = replace(ITEM, ref=newer())
    rig.add(Save(replace(ITEM, phase=Phase.STOPPING)), STOP, ack="delete")
    await rig.until(STOP)
    rig.add(KILL)
    await rig.until(STOP, KILL)
    rig.add(Publish(REF, "web", Status.STOPPED), Save(other), Start(other.ref, spec()), ack="deploy")
    rig.add(Forget(REF, spec()))
    await wait_until_async(lambda: rig.state.tries > 5)
    assert rig.happened == [STOP, KILL]
    assert not [*rig.state.instances(), *rig.state.outbox()]
    rig.state.is_full = False
    await rig.until(STOP, KILL, "delete", "deploy", Start(other.ref, spec()), Forget(REF, spec()))
    assert [item.ref for item in rig.state.instances()] == [other.ref]
    assert [message.status for message in rig.state.outbox()] == ["STOPPED"]


async def test_a_disk_that_does_not_answer_holds_up_no_stop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes long does as much as one that fails, and nothing is done twice when it has come to its end."""
    monkeypatch.setattr(journal_module, "PATIENCE_S", 0.1)
    rig.state.is_quick.clear()
    rig.add(Save(ITEM), Publish(REF, "web", Status.RUNNING))
    rig.add(Save(replace(ITEM, phase=Phase.STOPPING)), STOP, ack="delete")
    await rig.until(STOP)
    rig.state.is_quick.set()
    await rig.until(STOP, "delete")
    assert rig.sequences == [1]


async def test_what_is_stopped_before_its_start_is_not_started(rig: Rig) -> None:
    """The start that waited for the disk is dropped, a hand-over too; its end is told: there is nothing to stop."""
    rig.state.is_full = True
    rig.add(Save(ITEM), START, HandOver(REF, spec(), "n", "tcp:n:1"), Start(newer(), spec()))
    await rig.until_troubled()
    rig.add(STOP)
    await rig.until(("annulled", REF))
    rig.state.is_full = False
    await rig.until(("annulled", REF), Start(newer(), spec()))


async def test_what_could_not_be_started_again_is_not_stopped(rig: Rig) -> None:
    """The stop of an unhealthy workload waits for the disk, without a pile of kills; if deleted, it is stopped."""
    rig.state.is_full = True
    rig.unurgent = {REF}
    rig.add(Save(ITEM), STOP)
    await rig.until_troubled()
    for _ in range(3):
        rig.add(KILL)
    assert rig.happened == []
    rig.unurgent = set()
    rig.add(Fence(REF), ack="delete")
    await rig.until(STOP)
    rig.state.is_full = False
    await rig.until(STOP, "delete")


async def test_probes_do_not_wait(rig: Rig) -> None:
    """They leave no trace on disk."""
    rig.state.is_full = True
    probe = RunProbe(REF, Check.LIVENESS)
    rig.add(Save(ITEM), START, probe)
    await rig.until(probe)


async def test_what_waits_takes_no_more_room_than_what_matters(rig: Rig) -> None:
    """Of each record the newest counts, however often it changes while the disk is full; every state is kept."""
    rig.state.is_full = True
    rig.add(Save(ITEM))
    await rig.until_troubled()
    for number in range(1000):
        rig.add(Save(replace(ITEM, failures=number)), Keep("node_id", str(number)), Fence(newer(by=number)))
    rig.add(Publish(REF, "web", Status.STARTING), Publish(REF, "web", Status.RUNNING))
    assert len(rig.journal._waiting.changes) == 5
    rig.state.is_full = False
    await wait_until_async(lambda: len(rig.sequences) == 2)
    assert (rig.state.meta("node_id"), rig.state.fences()) == ("999", {REF.slot: newer(by=999).generation})
    assert [item.failures for item in rig.state.instances()] == [999]


async def test_a_record_that_no_disk_takes_holds_up_no_other(rig: Rig) -> None:
    """It is passed over, and told; what came with it is saved and done."""
    never = replace(ITEM, ref=newer(), exit_code=2**70)
    rig.add(Save(never), Save(ITEM), START, ack="deploy")
    await rig.until("deploy", START)
    assert [item.ref for item in rig.state.instances()] == [REF]


async def test_a_bug_in_what_follows_ends_nothing(rig: Rig) -> None:
    """The next batch is saved and done as ever."""
    rig.journal.add([Save(ITEM)], [lambda: rig.happened.index("a bug")])
    await wait_until_async(lambda: rig.state.instances() == [ITEM])
    rig.add(START)
    await rig.until(START)


@pytest.mark.parametrize("is_full", [True, False])
async def test_the_end_saves_what_is_left_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool) -> None:
    """What was under way when the worker was told to end is neither lost nor saved twice; a full disk is told."""
    monkeypatch.setattr(journal_module, "RETRY_S", 0.01)
    rig = Rig(tmp_path)
    rig.state.is_quick.clear()
    task = asyncio.create_task(rig.journal.run(), name="journal")
    rig.add(Publish(REF, "web", Status.RUNNING))
    await wait_until_async(lambda: rig.journal._commit is not None)
    rig.add(Publish(REF, "web", Status.FAILED))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    rig.state.is_full = is_full
    rig.state.is_quick.set()
    messages = await rig.journal.finish([Save(ITEM), Publish(REF, "web", Status.STOPPED)])
    rig.journal.close()
    if is_full:
        assert messages is None
    else:
        assert messages is not None
        assert [message.status for message in messages] == ["RUNNING", "FAILED", "STOPPED"]
        assert rig.state.outbox() == messages
        assert rig.state.instances() == [ITEM]
    rig.state.close()
