"""The one writer on a real SQLite store that can be made slow, made to fail, and changed behind its back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ClusterError, StaleWriteError, UnavailableError
from manager.backlog import MAX_BATCH, Records
from manager.domain.model import Event, Instance, Logged, Record
from manager.ports import Kind, RecordId, StoreError
from manager.writer import Writer
from testbed.fragile_store import FragileStore
from testbed.records import KINDS, change, id_of, instance, removal, setting
from testbed.waiting import wait_until_async


class Desk:
    """A writer, what memory was told to go back to, and what became history."""

    def __init__(self, folder: Path) -> None:
        self.store = FragileStore(folder)
        self.memory: dict[RecordId, Record | None] = {}
        self.reverted: list[Records] = []
        self.told: list[Logged] = []
        self.writer = Writer(self.store, self._revert, self.told.extend)

    def _revert(self, records: Records) -> None:
        self.reverted.append(records)
        self.memory.update(records)

    def submit(
        self, *records: Record, removed: tuple[Record, ...] = (), urgent: bool = False, event: str = ""
    ) -> asyncio.Future[None]:
        """Change memory and submit it, as the core does."""
        changed: dict[RecordId, Record | None] = {_id(record): record for record in records}
        changed.update({_id(record): None for record in removed})
        self.memory.update(changed)
        return self.writer.submit(changed, [_logged(event)] if event else [], is_urgent=urgent)

    def refused(self) -> set[RecordId]:
        """What memory went back on."""
        return {record_id for records in self.reverted for record_id in records}

    def saved(self) -> dict[str, str]:
        """The settings in the store."""
        return {item.name: item.value for item in self.store.inner.load(0).settings}

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[asyncio.Future[None]]:
        """A write is under way, and takes its time until the end of the block; then it is answered."""
        self.store.hold()
        first = self.submit(setting("first"))
        await asyncio.to_thread(self.store.has_begun.wait)
        try:
            yield first
        finally:
            self.store.let_go()
        with contextlib.suppress(ClusterError):
            await first

    def check(self) -> None:
        """What the writer takes for saved is what the store holds, and memory is neither ahead nor behind."""
        contents = self.store.inner.load(0)
        found = {_id(item): item for item in (*contents.instances, *contents.settings)}
        assert {record_id: self.writer.saved.get(record_id) for record_id in found} == found
        assert {record_id: record for record_id, record in self.memory.items() if record is not None} == found


def _id(record: Record) -> RecordId:
    return KINDS[type(record)], id_of(record)


def _logged(words: str, subject: str = "cluster") -> Logged:
    return Logged(subject=subject, number=1, event=Event(at_ms=1, actor="a", kind=words, state="", cause="c"))


@pytest.fixture(name="desk")
async def _desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    await desk.writer.open(0)
    task = asyncio.create_task(desk.writer.run(), name="writer")
    await asyncio.sleep(0)
    try:
        yield desk
    finally:
        desk.store.let_go()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        desk.store.close()


async def _outcomes(*waiting: asyncio.Future[None]) -> list[str]:
    results = await asyncio.gather(*waiting, return_exceptions=True)
    return ["" if result is None else type(result).__name__ for result in results]


# Batches


async def test_what_waits_is_saved_together(desk: Desk) -> None:
    """While one write is under way the next ones gather."""
    async with desk.held():
        saved = [desk.submit(setting(f"s{number}")) for number in range(100)]
    await asyncio.gather(*saved)
    assert [len(batch) for batch in desk.store.batches] == [1, 100]
    desk.check()


async def test_nobody_is_answered_while_his_write_is_under_way(desk: Desk) -> None:
    """An answer means that it is durable, not that somebody has begun to save it."""
    desk.store.hold()
    saving = desk.submit(setting("first"))
    await asyncio.to_thread(desk.store.has_begun.wait)
    await asyncio.sleep(0.02)
    assert not saving.done()
    desk.store.let_go()
    await saving
    desk.check()


async def test_batches_have_an_upper_size(desk: Desk) -> None:
    """However much has gathered, one write holds no more than that; what was first is written first."""
    async with desk.held():
        saved = [desk.submit(setting(f"s{number:04}")) for number in range(3 * MAX_BATCH + 1)]
    await asyncio.gather(*saved)
    assert [len(batch) for batch in desk.store.batches[1:]] == [MAX_BATCH] * 3 + [1]
    assert [name for batch in desk.store.batches[1:] for _, name in batch] == sorted(desk.saved().keys() - {"first"})


async def test_waiting_for_everything_makes_no_larger_batches(desk: Desk) -> None:
    """A call that changes nothing, and so waits for all that is on its way, does not bring it all into one write."""
    async with desk.held():
        saved = [desk.submit(setting(f"s{number}")) for number in range(2 * MAX_BATCH)]
        barrier = desk.writer.submit({}, is_urgent=True)
    await barrier
    assert all(future.done() for future in saved)
    assert max(len(batch) for batch in desk.store.batches) == MAX_BATCH


async def test_what_somebody_waits_for_overtakes(desk: Desk) -> None:
    """An answer to a person goes out with the next write, however much waits before it."""
    async with desk.held():
        others = [desk.submit(setting(f"s{number}")) for number in range(3 * MAX_BATCH)]
        urgent = desk.submit(setting("urgent"), urgent=True)
    await urgent
    assert (Kind.SETTING, "urgent") in desk.store.batches[1]
    assert not all(future.done() for future in others)
    await asyncio.gather(*others)


async def test_a_newer_version_answers_whoever_waits_for_the_older(desk: Desk) -> None:
    """They go together, once, and with them whatever was submitted along with the older one."""
    async with desk.held():
        older = desk.submit(setting("a", "1"), setting("along", "1"))
        others = [desk.submit(setting(f"s{number}")) for number in range(2 * MAX_BATCH)]
        newer = desk.submit(setting("a", "2", 2), urgent=True)
    await newer
    assert older.done()
    assert {(Kind.SETTING, "a"), (Kind.SETTING, "along")} <= set(desk.store.batches[1])
    await asyncio.gather(*others)
    assert (desk.saved()["a"], sum((Kind.SETTING, "a") in batch for batch in desk.store.batches)) == ("2", 1)


async def test_nothing_to_save_waits_for_what_came_before(desk: Desk) -> None:
    """A repeated no-op is answered only when the first call's change is durable, and not before its write ended."""
    async with desk.held():
        under_way = desk.writer.submit({})
        behind = desk.submit(setting("a"))
        after = desk.writer.submit({})
        await asyncio.sleep(0.01)
        assert not under_way.done()
    await under_way
    await after
    assert behind.done()
    assert desk.writer.submit({}).done()


async def test_nothing_to_save_is_refused_with_what_came_before(desk: Desk) -> None:
    """A repeated call whose first one is refused is not answered as if it had been saved."""
    async with desk.held():
        desk.submit(setting("a"))
        repeated = desk.writer.submit({}, is_urgent=True)
        desk.store.fault = "no space"
    with pytest.raises(UnavailableError, match="no space"):
        await repeated


async def test_an_awaited_record_is_waited_for_wherever_it_is(desk: Desk) -> None:
    """In the write that is under way, or behind it; what is durable already is not waited for, nor is anything else."""
    async with desk.held():
        written = desk.writer.submit({}, awaited=[(Kind.SETTING, "first")])
        desk.submit(setting("a"))
        waiting = desk.writer.submit({}, awaited=[(Kind.SETTING, "a")])
        elsewhere = desk.writer.submit({}, awaited=[(Kind.SETTING, "never heard of")])
        await asyncio.sleep(0.01)
        assert (written.done(), waiting.done(), elsewhere.done()) == (False, False, True)
    await asyncio.gather(written, waiting)
    assert "a" in desk.saved()


async def test_create_and_remove_in_one_batch(desk: Desk) -> None:
    """What came and went before it was ever saved is no write at all, and answered all the same."""
    async with desk.held():
        created = desk.submit(instance(), event="registered")
        removed = desk.submit(removed=(instance(),), event="removed")
    assert await _outcomes(created, removed) == ["", ""]
    assert [len(batch) for batch in desk.store.batches if batch] == [1]
    desk.check()
    assert desk.refused() == set()


# History


async def test_events_are_told_when_they_are_durable(desk: Desk) -> None:
    """Not before, in the order in which they happened, and never of what was refused."""
    async with desk.held():
        waiting = [desk.submit(setting("a", str(number), number), event=f"{number}th") for number in (1, 2, 3)]
        urgent = desk.submit(setting("a", "4", 4), urgent=True, event="4th")
        assert desk.told == []
    await asyncio.gather(*waiting, urgent)
    assert [logged.event.kind for logged in desk.told] == ["1th", "2th", "3th", "4th"]
    desk.store.fault = "no space"
    with pytest.raises(UnavailableError):
        await desk.submit(setting("b"), event="refused")
    assert len(desk.told) == 4


async def test_the_history_of_what_is_removed_is_not_logged(desk: Desk) -> None:
    """Its last events are told; the store's log, which goes with the record, keeps none for whoever comes next."""
    subject = "instance:j/0"
    async with desk.held():
        desk.writer.submit({_id(instance()): instance()}, [_logged("created", subject)])
        desk.writer.submit({_id(instance()): None}, [_logged("gone", subject)])
    await desk.writer.submit({_id(instance(1)): instance(1)}, [_logged("created", "instance:j/1")])
    await desk.writer.submit({_id(instance(1)): None}, [_logged("gone", "instance:j/1")])
    assert [logged.event.kind for logged in desk.told] == ["created", "gone"] * 2
    assert [desk.store.events(name) for name in (subject, "instance:j/1")] == [[], []]


# Failures


async def test_a_failure_is_told_to_everybody_who_waits(desk: Desk) -> None:
    """The batch under way and all behind it fail, and so does every call until the store works again."""
    async with desk.held() as first:
        waiting = [desk.submit(setting(f"s{number}")) for number in range(MAX_BATCH + 1)]
        desk.store.fault = "the disk is full"
    for future in (first, *waiting):
        with pytest.raises(UnavailableError, match="the disk is full"):
            await future
    with pytest.raises(UnavailableError, match="the disk is full"):
        await desk.submit(setting("later"))
    assert desk.writer.backlog == 0
    desk.store.fault = ""
    await desk.writer.working.wait()
    await desk.submit(setting("d"))
    assert desk.saved().keys() == {"d"}
    desk.check()


async def test_what_was_refused_is_out_of_memory_at_once(desk: Desk) -> None:
    """Whoever is told so already sees it undone, long before the store works again."""
    await desk.submit(setting("kept", "1"))
    desk.store.fault = "no space"
    refused = desk.submit(setting("kept", "2", 2), setting("new"))
    with pytest.raises(UnavailableError):
        await refused
    assert desk.memory == {_id(setting("kept")): setting("kept", "1"), _id(setting("new")): None}
    assert desk.writer.failure


async def test_what_is_submitted_while_the_store_is_away_is_out_of_memory_at_once(desk: Desk) -> None:
    """It is refused, and not saved later under the next change's cover."""
    await desk.submit(setting("kept", "1"))
    desk.store.fault = "no space"
    with pytest.raises(UnavailableError):
        await desk.submit(setting("kept", "2", 2))
    late = desk.submit(setting("kept", "3", 2))
    assert await _outcomes(late) == ["UnavailableError"]
    assert desk.memory[_id(setting("kept"))] == setting("kept", "1")
    desk.store.fault = ""
    await desk.writer.working.wait()
    desk.check()


@pytest.mark.parametrize("writes_first", [False, True])
async def test_what_was_refused_is_not_saved_later(desk: Desk, writes_first: bool) -> None:
    """Created, changed and removed records: a write that failed after it got there is taken back before all else."""
    changed, removed = instance(0), instance(1)
    await desk.submit(changed, removed)
    before = desk.store.inner.load(0).instances
    desk.store.fault, desk.store.writes_first = "the answer was lost", writes_first
    refused = desk.submit(
        replace(changed, detail="refused", version=2), instance(2), removed=(removed,), event="refused"
    )
    with pytest.raises(UnavailableError):
        await refused
    desk.store.fault, desk.store.writes_first = "", False
    await desk.writer.working.wait()
    found = desk.store.inner.load(0).instances
    assert {item.key: replace(item, version=1) for item in found} == {item.key: item for item in before}
    desk.check()
    assert (desk.told, desk.store.loads) == ([], 1)
    assert not (await _outcomes(desk.submit(replace(desk.writer.saved.instances[changed.key], version=9))))[0]
    desk.check()


async def test_a_refused_write_is_taken_back_before_anything_else_is_saved(desk: Desk) -> None:
    """Were it not, whoever comes first after the failure would build on what nobody accepted."""
    desk.store.fault, desk.store.writes_first = "the answer was lost", True
    with pytest.raises(UnavailableError):
        await desk.submit(setting("a", "refused"))
    desk.store.fault, desk.store.writes_first = "", False
    await desk.writer.working.wait()
    await desk.submit(setting("a", "accepted"))
    assert desk.saved() == {"a": "accepted"}
    desk.check()


async def test_taking_back_waits_for_the_store(desk: Desk) -> None:
    """While it cannot be read nobody knows what to take back: it is tried until it is known."""
    desk.store.fault, desk.store.writes_first = "the answer was lost", True
    with pytest.raises(UnavailableError):
        await desk.submit(setting("a", "refused"))
    desk.store.reading_fault, desk.store.fault, desk.store.writes_first = "not readable", "", False
    await wait_until_async(lambda: desk.writer.failure == "not readable")
    assert not desk.writer.working.is_set()
    desk.store.reading_fault = ""
    await desk.writer.working.wait()
    assert desk.saved() == {}
    desk.check()


async def test_what_others_wrote_meanwhile_is_not_taken_back(desk: Desk) -> None:
    """A refused write that came to nothing, and somebody else's of the same version: theirs is taken over."""
    await desk.submit(setting("a", "before"))
    desk.store.fault = "no space"
    with pytest.raises(UnavailableError):
        await desk.submit(setting("a", "refused", 2))
    desk.store.theirs(change(setting("a", "theirs", 2), 1))
    desk.store.fault = ""
    await desk.writer.working.wait()
    assert desk.saved() == {"a": "theirs"}
    desk.check()


async def test_nothing_is_loaded_anew(desk: Desk) -> None:
    """Whatever fails, the store is read whole once, at the start."""
    for writes_first in (False, True):
        desk.store.fault, desk.store.writes_first = "no space", writes_first
        with pytest.raises(UnavailableError):
            await desk.submit(setting("a"))
        desk.store.fault = ""
        await desk.writer.working.wait()
    assert desk.store.loads == 1


# Conflicts, and what has no form


async def test_a_conflict_refuses_only_who_touched_the_record(desk: Desk) -> None:
    """The others of that write are saved; what another process made of the record is taken over."""
    await desk.submit(setting("a", "mine"))
    desk.store.theirs(change(setting("a", "theirs", 7), 1))
    async with desk.held():
        mine = desk.submit(setting("a", "mine again", 2))
        other = desk.submit(setting("b"))
        awaiting = desk.writer.submit({}, awaited=[(Kind.SETTING, "b")])
    assert await _outcomes(mine, other, awaiting) == ["StaleWriteError", "", ""]
    assert desk.memory[_id(setting("a"))] == setting("a", "theirs", 7)
    desk.check()
    await desk.submit(setting("a", "at last", 8))
    assert desk.saved()["a"] == "at last"


async def test_whoever_awaits_another_record_of_the_write_is_not_refused(desk: Desk) -> None:
    """He waits for one record of it only."""
    await desk.submit(setting("a"))
    desk.store.theirs(change(setting("a", "theirs", 7), 1))
    desk.store.hold()
    both = [desk.submit(setting("b")), desk.submit(setting("a", "mine", 2))]
    await asyncio.to_thread(desk.store.has_begun.wait)
    awaiting = [desk.writer.submit({}, awaited=[(Kind.SETTING, name)]) for name in ("b", "a")]
    desk.store.let_go()
    assert await _outcomes(*both, *awaiting) == ["", "StaleWriteError"] * 2


async def test_what_was_built_on_a_conflict_is_refused(desk: Desk) -> None:
    """A change that was submitted while the conflict was being looked into does not undo what the others did."""
    await desk.submit(setting("a", "mine"))
    desk.store.theirs(change(setting("a", "theirs", 7), 1))
    built: list[asyncio.Future[None]] = []
    reads = desk.store.inner.read

    async def build() -> None:
        built.append(desk.submit(setting("a", "built on it", 3)))
        built.append(desk.writer.submit({}, awaited=[(Kind.SETTING, "a")]))

    def reading(ids: list[RecordId]) -> dict[RecordId, Record]:
        found = reads(ids)
        asyncio.run_coroutine_threadsafe(build(), loop).result()
        return found

    loop = asyncio.get_running_loop()
    desk.store.inner.read = reading  # type: ignore[method-assign,assignment]
    with pytest.raises(StaleWriteError):
        await desk.submit(setting("a", "mine again", 2))
    assert await _outcomes(*built) == ["StaleWriteError"] * 2
    assert desk.saved() == {"a": "theirs"}
    desk.check()


async def test_a_store_that_fails_after_a_conflict_ends_nothing(desk: Desk) -> None:
    """Whoever waits is told, and once it works again the other's record is taken over."""
    await desk.submit(setting("a", "mine"))
    desk.store.theirs(change(setting("a", "theirs", 2), 1))
    desk.store.reading_fault = "gone"
    stale = desk.submit(setting("a", "mine again", 2))
    [outcome] = await _outcomes(stale)
    assert outcome in ("StaleWriteError", "UnavailableError")
    desk.store.reading_fault = ""
    await desk.writer.working.wait()
    await desk.submit(setting("b"))
    assert desk.saved() == {"a": "theirs", "b": "0"}
    desk.check()


async def test_a_removal_that_conflicts_is_refused(desk: Desk) -> None:
    """What another process changed meanwhile is not removed unseen."""
    await desk.submit(setting("a"))
    desk.store.theirs(change(setting("a", "theirs", 2), 1))
    assert await _outcomes(desk.submit(removed=(setting("a"),))) == ["StaleWriteError"]
    assert desk.memory[_id(setting("a"))] == setting("a", "theirs", 2)
    desk.store.theirs(removal(setting("a", "theirs", 2)))
    assert await _outcomes(desk.submit(setting("a", "back", 3))) == ["StaleWriteError"]
    assert desk.memory[_id(setting("a"))] is None
    desk.check()


def _unsavable(number: int) -> Instance:
    return instance(number, exit_code=2**70)


async def test_a_record_without_a_form_refuses_its_own_submitter_only(desk: Desk) -> None:
    """All others of that write are saved and answered; the store counts as working all the while."""
    async with desk.held():
        before = desk.submit(setting("before"), event="before")
        bad = desk.submit(setting("along"), _unsavable(0), event="bad")
        worse = desk.submit(_unsavable(1))
        after = desk.submit(setting("after"), event="after")
    assert await _outcomes(before, bad, worse, after) == ["", "InvalidInputError", "InvalidInputError", ""]
    assert desk.writer.failure == ""
    assert desk.refused() == {_id(setting("along")), _id(instance(0)), _id(instance(1))}
    assert [logged.event.kind for logged in desk.told] == ["before", "after"]
    desk.check()


async def test_whoever_awaits_another_record_of_an_unsavable_write_is_not_refused(desk: Desk) -> None:
    """He is answered by the write that then leaves the bad record out."""
    async with desk.held():
        pass
    desk.store.hold()
    good, bad = desk.submit(setting("good")), desk.submit(_unsavable(0))
    await asyncio.to_thread(desk.store.has_begun.wait)
    awaiting = desk.writer.submit({}, awaited=[(Kind.SETTING, "good")])
    desk.store.let_go()
    assert await _outcomes(good, bad, awaiting) == ["", "InvalidInputError", ""]
    assert "good" in desk.saved()


async def test_nobody_is_answered_for_what_was_left_out(desk: Desk) -> None:
    """Who shares a record with a refused submission built on it: his change went with it, and he is told so."""
    await desk.submit(setting("shared", "0"))
    async with desk.held():
        bad = desk.submit(setting("shared", "1", 2), _unsavable(0))
        built = desk.submit(setting("shared", "2", 3), setting("own"))
        further = desk.submit(setting("own", "1", 2), setting("far"))
        apart = desk.submit(setting("apart"))
    assert await _outcomes(bad, built, further, apart) == ["InvalidInputError"] * 3 + [""]
    assert desk.saved() == {"shared": "0", "first": "0", "apart": "0"}
    desk.check()


async def test_what_was_built_on_a_refused_change_meanwhile_is_refused(desk: Desk) -> None:
    """Submitted while the bad write was under way, waiting behind it: all of it is out of memory with the rest."""
    await desk.submit(setting("shared", "0"))
    desk.store.hold()
    bad = desk.submit(setting("shared", "1", 2), _unsavable(0))
    await asyncio.to_thread(desk.store.has_begun.wait)
    built = desk.submit(setting("shared", "2", 3), setting("own"))
    further = desk.submit(setting("own", "1", 2), setting("far"))
    apart = desk.submit(setting("apart"))
    unchanged = desk.writer.submit({})
    desk.store.let_go()
    outcomes = await _outcomes(bad, built, further, apart, unchanged)
    assert outcomes == ["InvalidInputError"] * 3 + ["", "UnavailableError"]
    assert desk.saved() == {"shared": "0", "apart": "0"}
    desk.check()


async def test_whatever_a_write_stumbles_over_ends_nothing(desk: Desk) -> None:
    """A mistake of ours refuses who was in that write; the next one works, and memory is what is saved."""
    bad = desk.writer.submit({_id(setting("a")): setting("a")}, [_logged("\ud800")])
    assert await _outcomes(bad) == ["UnavailableError"]
    await desk.writer.working.wait()
    await desk.submit(setting("b"))
    assert desk.saved() == {"b": "0"}
    assert desk.memory[_id(setting("a"))] is None


# The end


async def _stopped(desk: Desk) -> None:
    for task in asyncio.all_tasks():
        if task.get_name() == "writer":
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_what_waits_at_the_end_is_written(desk: Desk) -> None:
    """A manager that is asked to stop saves what it has and answers it, however many batches that takes."""
    async with desk.held():
        waiting = [desk.submit(setting(f"s{number}")) for number in range(2 * MAX_BATCH + 1)]
        stopping = asyncio.create_task(_stopped(desk))
        await asyncio.sleep(0.01)
    await stopping
    assert await _outcomes(*waiting) == [""] * len(waiting)
    desk.store.open()
    assert len(desk.saved()) == 2 * MAX_BATCH + 2
    desk.check()


async def test_an_end_amid_a_failing_write_answers_everybody(desk: Desk) -> None:
    """The store fails while the manager stops: all are told, and nobody waits for it to come back."""
    desk.store.hold()
    under_way, waiting = desk.submit(setting("a")), desk.submit(setting("b"))
    await asyncio.to_thread(desk.store.has_begun.wait)
    desk.store.fault = "gone"
    stopping = asyncio.create_task(_stopped(desk))
    await asyncio.sleep(0.01)
    desk.store.let_go()
    await stopping
    assert await _outcomes(under_way, waiting) == ["UnavailableError"] * 2


async def test_an_end_while_the_store_is_away_is_an_end(desk: Desk) -> None:
    """Nobody waits for it to come back."""
    desk.store.fault = "gone"
    assert await _outcomes(desk.submit(setting("a"))) == ["UnavailableError"]
    await _stopped(desk)
    assert not any(task.get_name() == "writer" for task in asyncio.all_tasks())


async def test_after_the_end_nothing_is_accepted(desk: Desk) -> None:
    """Whoever comes too late is told so, and does not wait for ever."""
    await desk.submit(setting("a"))
    await _stopped(desk)
    assert await _outcomes(desk.submit(setting("b"))) == ["UnavailableError"]
    with pytest.raises(UnavailableError, match="stopping"):
        await desk.writer.ask(lambda store: store.events("cluster"))


# The beginning


async def test_a_store_that_cannot_be_opened_yet_is_waited_for(tmp_path: Path) -> None:
    """It is tried again until it works, and nothing is accepted before."""
    desk = Desk(tmp_path)
    desk.store.fault = "not yet"
    opening = asyncio.create_task(desk.writer.open(0))
    await wait_until_async(lambda: desk.writer.failure == "not yet")
    with pytest.raises(UnavailableError, match="not yet"):
        await desk.submit(setting("a"))
    desk.store.fault = ""
    assert (await opening).settings == ()
    assert desk.writer.working.is_set()
    desk.store.close()


async def test_other_questions_are_asked_between_two_writes(desk: Desk) -> None:
    """They are answered as the store then is; while it is away they are refused at once."""
    await desk.submit(setting("a"), event="changed")
    assert [event.kind for event in await desk.writer.ask(lambda store: store.events("cluster"))] == ["changed"]

    def fail(_: object) -> None:
        raise StoreError("a bad sector")

    with pytest.raises(UnavailableError, match="a bad sector"):
        await desk.writer.ask(fail)
    desk.store.fault = "gone"
    assert await _outcomes(desk.submit(setting("b"))) == ["UnavailableError"]
    with pytest.raises(UnavailableError, match="gone"):
        await desk.writer.ask(lambda store: store.events("cluster"))
