"""State, saving, history and commands together: only what is durable has consequences, what was refused has none."""

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import NotFoundError, UnavailableError
from cluster.nodes import Registration
from cluster.topics import Channel
from manager.core import PORTION
from manager.domain.events import PlanRefused
from manager.domain.model import InstanceKey, InstanceState
from simulation.invariants import check_state
from testbed.live_core import LiveCore, live_core
from testbed.records import spec
from testbed.waiting import wait_until_async

S = InstanceState
KEY = InstanceKey("web", 0)


@pytest.fixture(name="live")
async def _live(tmp_path: Path) -> AsyncIterator[LiveCore]:
    async with live_core(tmp_path) as live:
        yield live


def _check(live: LiveCore) -> None:
    """Memory is what is saved, and what is saved is what the store holds."""
    state, contents = live.core.state, live.store.inner.load(0)
    assert list(state.nodes.values()) == sorted(contents.nodes, key=list(state.nodes.values()).index)
    assert state.jobs == {job.id: job for job in contents.jobs}
    assert state.instances == {item.key: item for item in contents.instances}
    assert live.core.settings == {item.name: item for item in contents.settings}
    assert live.core.saved_records.instances == state.instances
    check_state(state)


# Refused


@pytest.mark.parametrize("writes_first", [False, True])
async def test_after_a_failure_memory_is_what_was_saved_before(live: LiveCore, writes_first: bool) -> None:
    """Whether or not the refused write got there: it is out of memory at once, never saved, and can be repeated."""
    node = await live.add("n0")
    await live.run(node.id, 0)
    live.store.fault, live.store.writes_first = "no space", writes_first
    state = live.core.state
    state.deploy([(InstanceKey("lost", 0), spec()), (KEY, spec(image="new"))], "root", 1)
    state.set_cordoned(node.id, True, "operator", 1)
    with pytest.raises(UnavailableError, match="no space"):
        await live.core.saved()
    assert (set(state.instances), set(state.jobs), state.nodes[node.id].is_cordoned) == ({KEY}, {"web"}, False)
    assert live.instance(KEY).state is S.RUNNING
    live.store.fault = ""
    await live.core.writer.working.wait()
    _check(live)
    await live.deploy(0, job_id="lost")
    assert {item.key.job_id for item in live.store.inner.load(0).instances} == {"web", "lost"}
    assert live.store.loads == 1
    _check(live)


async def test_register_and_remove_in_one_batch(live: LiveCore) -> None:
    """Both are answered, nothing is saved, and nothing is loaded anew."""
    live.store.hold()
    first = live.core.put_setting("x", "y")
    await asyncio.to_thread(live.store.has_begun.wait)
    registering = asyncio.create_task(live.nodes.register(Registration(name="brief", ip="127.0.0.1", port=1)))
    await asyncio.sleep(0)
    removing = asyncio.create_task(live.nodes.remove(live.core.state.get_node("brief"), is_forced=False))
    await asyncio.sleep(0)
    live.store.let_go()
    await asyncio.gather(first, registering, removing)
    assert live.core.state.find_node("brief") is None
    assert live.store.loads == 1
    _check(live)


async def test_a_registration_that_was_refused_leaves_nothing(live: LiveCore) -> None:
    """Neither a node nor anybody who waits for it; a second one is the same node."""
    registration = Registration(name="n0", ip="127.0.0.1", port=1, given_id="17")
    await live.refuses(live.nodes.register(registration))
    assert (live.core.state.nodes, live.core.state.live) == ({}, {})
    live.pass_time(30)
    node = await live.nodes.register(registration)
    assert live.core.state.node_of_topic("17") is live.core.state.nodes[node.id]
    _check(live)


async def test_an_unrelated_call_is_not_refused_by_one_bad_record(live: LiveCore) -> None:
    """What cannot be saved is its own caller's trouble."""
    live.store.hold()
    first = live.core.put_setting("x", "y")
    await asyncio.to_thread(live.store.has_begun.wait)
    live.core.state.deploy([(InstanceKey("bad", 0), spec(environment=("\ud800",)))], "root", 1)
    bad = live.core.commit(is_urgent=True)
    good = asyncio.create_task(live.deploy(0))
    await asyncio.sleep(0)
    live.store.let_go()
    assert await good
    assert "cannot be saved" in str(bad.exception())
    assert set(live.core.state.jobs) == {"web"}
    await first
    _check(live)


# Durable


async def test_commands_go_out_only_for_what_is_durable(live: LiveCore) -> None:
    """Not while the write is under way, not for what it refused, and at once when it is done."""
    node = await live.add("n0")
    await live.deploy(0)
    live.store.hold()
    assert live.core.state.place(KEY, node.id, live.clock.at_ms) == ""
    saving = live.core.commit()
    await asyncio.sleep(0.02)
    assert live.broker.published == []
    live.store.let_go()
    await saving
    await live.rest()
    assert live.told(Channel.CONTROLS) == [node.id]
    live.broker.published.clear()
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.refuses(live.core.saved())
    await live.rest()
    live.core.dispatcher.tick()
    assert live.broker.published == []
    assert live.instance(KEY).state is S.SCHEDULED


async def test_of_several_versions_in_one_write_only_the_newest_has_consequences(live: LiveCore) -> None:
    """Placed, deleted and saved together: nothing is started that would have to be stopped at once."""
    node = await live.add("n0")
    await live.deploy(0)
    live.store.hold()
    first = live.core.put_setting("x", "y")
    await asyncio.to_thread(live.store.has_begun.wait)
    live.core.state.place(KEY, node.id, live.clock.at_ms)
    placed = live.core.commit()
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    deleted = live.core.commit()
    live.store.let_go()
    await asyncio.gather(first, placed, deleted)
    await live.rest()
    commands = [payload for _, channel, payload in live.broker.published if channel is Channel.CONTROLS]
    assert [b'"command":"delete"' in payload for payload in commands] == [True]


async def test_an_older_version_that_is_saved_has_no_consequences_of_a_newer_one_that_is_not(live: LiveCore) -> None:
    """It was placed while the wish for it was being written: that wish is saved, the place is refused."""
    node = await live.add("n0")
    live.store.hold()
    live.core.state.deploy([(KEY, spec())], "root", live.clock.at_ms)
    wanted = live.core.commit()
    await asyncio.to_thread(live.store.has_begun.wait)
    assert live.core.state.place(KEY, node.id, live.clock.at_ms) == ""
    placed = live.core.commit()
    live.store.writes_left = 1
    live.store.let_go()
    await wanted
    await live.refuses(placed)
    await live.rest()
    assert live.told(Channel.CONTROLS) == []
    assert live.instance(KEY).state is S.REQUESTED
    _check(live)


async def test_history_tells_only_what_is_durable(live: LiveCore) -> None:
    """In order, once it is saved; whoever follows misses nothing and hears of nothing that was refused."""
    followed: list[str] = []

    async def follow() -> None:
        async for entries in live.core.history.follow(0):
            followed.extend(entry.event.kind for entry in entries if entry.job_id == "web")

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    node = await live.add("n0")
    live.store.hold()
    live.core.state.deploy([(KEY, spec())], "root", live.clock.at_ms)
    live.core.commit()
    live.core.state.place(KEY, node.id, live.clock.at_ms)
    saving = live.core.commit()
    await asyncio.sleep(0.02)
    assert live.events("instance:web/0") == []
    live.store.let_go()
    await saving
    assert live.events("instance:web/0") == ["requested", "placed"]
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.refuses(live.core.saved())
    await live.rest()
    assert live.events("instance:web/0") == followed == ["requested", "placed"]
    following.cancel()


async def test_what_was_refused_is_looked_at_again(live: LiveCore) -> None:
    """An instance whose placement could not be saved wants a node again, and a node is judged again."""
    node = await live.add("n0")
    await live.deploy(0)
    live.core.to_plan.clear()
    assert live.core.state.place(KEY, node.id, live.clock.at_ms) == ""
    await live.refuses(live.core.commit())
    assert live.instance(KEY).state is S.REQUESTED
    await live.rest()
    assert list(live.core.to_plan) == [KEY]
    live.core.leases.sweep(live.core.state)
    live.core.state.set_cordoned(node.id, True, "operator", 1)
    await live.refuses(live.core.commit())
    assert live.core.leases._due[0][0] == -math.inf


async def test_a_setting_that_was_refused_is_the_old_one(live: LiveCore) -> None:
    """The root's key, say: what is used is what a start would find."""
    await live.core.put_setting("key", "old")
    await live.refuses(live.core.put_setting("key", "new"))
    assert live.core.settings["key"].value == "old"
    await live.core.put_setting("key", "newer")
    _check(live)


async def test_whoever_listens_is_told_of_saved_instances(live: LiveCore) -> None:
    """The keys, when they are durable or what memory had of them was taken back; and not after the end."""
    told: list[InstanceKey] = []
    stop = live.core.listen_instances(told.extend)
    await live.deploy(0, 1)
    await live.rest()
    assert sorted(told) == [KEY, InstanceKey("web", 1)]
    told.clear()
    await live.refuses(_changing(live))
    assert set(told) == {KEY}
    stop()
    told.clear()
    await live.deploy(2)
    assert told == []


async def _changing(live: LiveCore) -> None:
    live.core.state.delete([KEY], "root", 1)
    await live.core.saved()


# Portions


async def test_many_consequences_come_in_portions(live: LiveCore) -> None:
    """A thousand saved together are followed a few at a time: calls are served in between."""
    asked: list[int] = []
    want_plan = live.core.want_plan

    def noting(key: InstanceKey) -> None:
        want_plan(key)
        if len(live.core.to_plan) % PORTION == 0:
            asyncio.get_running_loop().call_soon(lambda: asked.append(len(live.core.to_plan)))

    live.core.want_plan = noting  # type: ignore[method-assign]
    await live.deploy(*range(5 * PORTION))
    await live.rest()
    assert asked == [PORTION, 2 * PORTION, 3 * PORTION, 4 * PORTION, 5 * PORTION]


async def test_one_consequence_that_goes_wrong_holds_up_no_other(
    live: LiveCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, and all others follow."""
    consider = live.core.dispatcher.consider

    def failing(instance: Any) -> None:
        consider(instance) if instance.key != KEY else 1 // 0

    monkeypatch.setattr(live.core.dispatcher, "consider", failing)
    await live.deploy(*range(5))
    await live.rest()
    assert live.core.counters["follow_ups_failed"] == 1
    assert {key.number for key in live.core.to_plan} == {1, 2, 3, 4}


async def test_freed_capacity_is_looked_for_when_it_is_durable(live: LiveCore) -> None:
    """And only where somebody waits."""
    node = await live.add("n0")
    await live.run(node.id, 0)
    live.core.has_room = False
    await live.stop(KEY)
    await live.rest()
    assert not live.core.has_room
    await live.run(node.id, 1)
    await live.deploy(2)
    live.core.state.apply(InstanceKey("web", 2), PlanRefused(refusals=()), live.clock.at_ms)
    await live.core.saved()
    assert not live.core.has_room
    await live.stop(InstanceKey("web", 1))
    await live.rest()
    assert live.core.has_room


# Quarantine


async def test_the_manager_starts_with_what_cannot_be_read_set_aside(tmp_path: Path) -> None:
    """It is shown, told in the history, and dropped for good when an operator says so."""
    async with live_core(tmp_path) as live:
        await live.deploy(0, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("UPDATE instance SET document = '{not json' WHERE number = 0")
    for _ in range(2):
        async with live_core(tmp_path) as live:
            assert set(live.core.state.instances) == {InstanceKey("web", 1)}
            [found] = live.core.quarantined.values()
            assert (found.id, found.document) == ("web/0", "{not json")
            assert live.events("instance:web/0") == ["quarantined"]
    async with live_core(tmp_path) as live:
        for kind, name in (("instance", "web/1"), ("job", "web/0"), ("", "web/0")):
            with pytest.raises(NotFoundError):
                await live.core.release_quarantined(kind, name)
        live.store.fault = "gone"
        live.core.put_setting("x", "y")
        await wait_until_async(lambda: live.core.writer.failure)
        with pytest.raises(UnavailableError):
            await live.core.release_quarantined("instance", "web/0")
        assert live.core.quarantined
        live.store.fault = ""
        await live.core.writer.working.wait()
        await live.core.release_quarantined("instance", "web/0")
        assert live.core.quarantined == {}
        assert live.events("instance:web/0") == ["quarantined", "released"]
    async with live_core(tmp_path) as live:
        assert live.core.quarantined == {}


async def test_what_is_set_aside_can_be_deployed_anew(tmp_path: Path) -> None:
    """Its id is free."""
    async with live_core(tmp_path) as live:
        await live.deploy(0)
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("UPDATE instance SET document = '[]'")
        connection.execute("UPDATE job SET document = '[]'")
    async with live_core(tmp_path) as live:
        assert len(live.core.quarantined) == 2
        [instance] = await live.deploy(0)
        assert instance.state is S.REQUESTED
        _check(live)


async def test_a_start_finds_everything_as_it_was(tmp_path: Path) -> None:
    """Records, history and what is outstanding; the commands go out again."""
    async with live_core(tmp_path) as live:
        node = await live.add("n0")
        await live.run(node.id, 0)
        await live.deploy(1)
        live.core.state.place(InstanceKey("web", 1), node.id, live.clock.at_ms)
        await live.core.saved()
        before = dict(live.core.state.instances)
        told = live.events("instance:web/0")
    async with live_core(tmp_path) as live:
        await live.rest()
        assert live.core.state.instances == before
        assert live.events("instance:web/0") == told
        assert live.told(Channel.CONTROLS) == [node.id]
        assert live.core.state.is_ready(node.id)
        _check(live)
