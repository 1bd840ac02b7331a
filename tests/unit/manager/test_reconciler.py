"""The tick, on the real core and a real store: what nobody answers, alarms, and what goes wrong with one part."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UnavailableError
from cluster.nodes import Dialect
from manager.core import HEARD_UNTIL, PURGE_PAUSE_MS
from manager.domain.events import PlanRefused
from manager.domain.model import Ended, InstanceKey, InstanceState, Node, NodeState, Refusal
from manager.domain.policy import Policy
from testbed.live_core import LiveCore, live_core

S = InstanceState
KEY = InstanceKey("web", 0)


@pytest.fixture(name="live")
async def _live(tmp_path: Path) -> AsyncIterator[LiveCore]:
    async with live_core(tmp_path) as live:
        yield live


async def _mute(live: LiveCore) -> Node:
    """A node of the documented dialect that has never reported a state."""
    return await live.add("n0", dialect=Dialect.SEED)


async def _place(live: LiveCore, node: Node) -> None:
    assert live.core.state.place(KEY, node.id, live.clock.at_ms) == ""
    await live.core.saved()
    await live.rest()


async def _tick(live: LiveCore) -> None:
    """What the tick does with what is unanswered and with alarms."""
    live.reconciler._guarded(live.reconciler._assume_due)
    await live.reconciler._ring_alarms()
    await live.rest()


async def test_what_a_mute_node_was_told_to_start_counts_as_started(live: LiveCore) -> None:
    """It answers nothing: its deploy counts once it is sent, durably."""
    await live.deploy(0)
    await _place(live, await _mute(live))
    assert len(live.broker.published) == 1
    assert live.core.saved_records.instances[KEY].state is S.STARTING
    assert "never reported a state" in live.instance(KEY).detail


async def test_what_a_mute_node_was_told_to_stop_counts_as_stopped_after_its_grace(live: LiveCore) -> None:
    """As long as the job gives its instances to stop, and heard since: else the command may not have arrived."""
    await live.deploy(0, stop_grace_s=10.0)
    node = await _mute(live)
    await _place(live, node)
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    live.pass_time(9.75, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.STOPPING
    live.clock.pass_time(0.35)
    await _tick(live)
    assert live.core.saved_records.instances[KEY].state is S.STOPPED
    await _tick(live)
    assert live.reconciler._unanswered == {}


async def test_a_mute_node_that_was_not_heard_since_is_not_taken_to_have_stopped_anything(live: LiveCore) -> None:
    """READY is what was known last; once it is SUSPECT nobody waits for it, and its word is still owed."""
    await live.deploy(0, stop_grace_s=10.0)
    node = await _mute(live)
    await _place(live, node)
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    live.clock.pass_time(60)
    await _tick(live)
    assert live.instance(KEY).state is S.STOPPING
    live.core.state.doubt(node.id, "it is silent")
    await _tick(live)
    assert live.core.saved_records.instances[KEY].state is S.STOPPED
    assert [item.node_id for item in live.core.state.owes(KEY)] == [node.id]


async def test_what_is_assumed_of_a_mute_node_is_assumed_until_it_is_saved(live: LiveCore) -> None:
    """The store fails just then: neither SCHEDULED nor STOPPING for ever, and nothing is sent twice."""
    await live.deploy(0, stop_grace_s=10.0)
    node = await _mute(live)
    command_sent = live.core.dispatcher.on_sent

    def failing(*sent: Any) -> None:
        live.store.fault = "no space"
        command_sent(*sent)

    live.core.dispatcher.on_sent = failing
    live.core.state.place(KEY, node.id, live.clock.at_ms)
    await live.core.saved()
    await _until_it_failed(live)
    assert live.instance(KEY).state is S.SCHEDULED
    await _tick(live)
    assert live.core.saved_records.instances[KEY].state is S.STARTING
    live.core.dispatcher.on_sent = command_sent
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    live.pass_time(10.1, node.id)
    live.store.fault = "no space"
    live.reconciler._guarded(live.reconciler._assume_due)
    await _until_it_failed(live)
    assert live.instance(KEY).state is S.STOPPING
    await _tick(live)
    assert live.core.saved_records.instances[KEY].state is S.STOPPED
    assert len(live.broker.published) == 2


async def _until_it_failed(live: LiveCore) -> None:
    while not live.core.writer.failure:
        await asyncio.sleep(0.01)
    live.store.fault = ""
    await live.core.writer.working.wait()
    await live.rest()


async def test_what_is_deployed_again_is_not_taken_for_stopped(live: LiveCore) -> None:
    """The assumption is about one generation, for as long as the saved instance calls for its end."""
    await live.deploy(0, stop_grace_s=10.0)
    node = await _mute(live)
    await _place(live, node)
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    await live.deploy(0, stop_grace_s=10.0)
    live.pass_time(11, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.REQUESTED
    assert live.instance(KEY).retiring is None


# Alarms


async def test_alarms_ring_when_they_are_due(live: LiveCore) -> None:
    """What its node does not confirm in time is placed anew after a pause."""
    node = await live.add("n0")
    await live.deploy(0)
    await _place(live, node)
    live.core.to_plan.clear()
    live.pass_time(29, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.SCHEDULED
    live.pass_time(1.25, node.id)
    await _tick(live)
    assert live.core.saved_records.instances[KEY].state is S.FAILED
    assert KEY not in live.core.to_plan
    live.pass_time(1.25, node.id)
    await _tick(live)
    assert KEY in live.core.to_plan


async def test_alarms_ring_in_portions(live: LiveCore) -> None:
    """Ten thousand deadlines at once are rung a few at a time."""
    keys = [item.key for item in await live.deploy(*range(30))]
    live.core._alarms = [(1, key) for key in keys]
    live.core._alarm_at = dict.fromkeys(keys, 1)
    assert live.core.due_alarms(live.clock.at_ms, 20) == keys[:20]
    assert live.core.due_alarms(live.clock.at_ms, 20) == keys[20:]
    assert live.core.due_alarms(live.clock.at_ms, 20) == []


async def test_an_alarm_that_comes_to_nothing_is_set_again(live: LiveCore) -> None:
    """What may not be forgotten yet, because its root was not told, is looked at once a minute."""
    await live.deploy(0)
    live.core.may_purge = lambda _key: False
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    live.clock.pass_time(live.core.policy.retention_ms / 1000 + 1)
    for _ in range(3):
        assert live.core.due_alarms(live.clock.at_ms, 9) == [KEY]
        live.reconciler._ring(KEY)
        assert live.core.due_alarms(live.clock.at_ms + PURGE_PAUSE_MS - 1, 9) == []
        live.clock.pass_time(PURGE_PAUSE_MS / 1000)
    live.core.may_purge = lambda _key: True
    live.reconciler._ring(KEY)
    await live.core.saved()
    await live.rest()
    assert KEY not in live.core.saved_records.instances
    assert live.core._alarm_at == {}


async def test_what_is_purged_is_gone_from_the_store(live: LiveCore) -> None:
    """Its instance and, with the last one, its job: a manager that starts anew finds neither."""
    await live.deploy(0)
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    live.clock.pass_time(live.core.policy.retention_ms / 1000 + 1)
    live.reconciler._ring(KEY)
    await live.core.saved()
    await live.rest()
    contents = live.store.inner.load(0)
    assert (contents.instances, contents.jobs) == ((), ())


async def test_an_alarm_that_goes_wrong_holds_up_no_other(live: LiveCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, and rung again a second later; all others ring."""
    node = await live.add("n0")
    await live.deploy(0, 1)
    for number in (0, 1):
        live.core.state.place(KEY._replace(number=number), node.id, live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    ring = live.core.state.apply

    def failing(key: InstanceKey, *rest: Any) -> Any:
        return 1 // 0 if key == KEY else ring(key, *rest)

    monkeypatch.setattr(live.core.state, "apply", failing)
    live.pass_time(31, node.id)
    await _tick(live)
    assert live.core.counters["ticks_failed"] == 1
    assert live.instance(KEY._replace(number=1)).state is S.FAILED
    monkeypatch.undo()
    live.pass_time(1, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.FAILED


async def test_each_fence_ends_with_an_alarm(tmp_path: Path) -> None:
    """An instance that waits behind two fences is tried when the first ends, and again when the second does."""
    async with live_core(tmp_path, Policy(refence_ms=10_000)) as live:
        engines = [await live.add(f"n{number}", dialect=Dialect.ENGINE_C) for number in range(2)]
        [instance] = await live.deploy(0)
        ends = tuple(
            Ended(node_id=node.id, generation=number, at_ms=live.clock.at_ms + number * 5_000)
            for number, node in enumerate(engines)
        )
        live.core.state.put(replace(instance, ended=ends))
        refused = PlanRefused(refusals=(Refusal(reason="cpu", node_count=2),))
        live.core.state.apply(KEY, refused, live.clock.at_ms)
        await live.core.saved()
        await live.rest()
        live.core.to_plan.clear()
        for seconds in (10, 5):
            live.clock.pass_time(seconds - 0.1)
            await _tick(live)
            assert KEY not in live.core.to_plan
            live.clock.pass_time(0.1)
            await _tick(live)
            assert live.core.to_plan.pop(KEY, "no alarm") is None
            live.core.state.apply(KEY, refused, live.clock.at_ms)


# Parts of the tick


async def test_a_part_that_goes_wrong_holds_up_no_other(live: LiveCore) -> None:
    """It is counted, what it changed before is saved, and nothing is raised."""

    def part() -> None:
        live.core.state.deploy([(KEY, live.core.state.instances[KEY].spec)], "root", 1)
        _ = 1 // 0

    await live.deploy(0)
    live.reconciler._guarded(part)
    assert live.core.counters["ticks_failed"] == 1


async def test_until_when_somebody_could_be_heard_is_remembered(live: LiveCore) -> None:
    """Now and then, and only while there is a broker to hear through: a start gives all nodes the time since."""
    live.hear()
    live.clock.pass_time(31)
    live.reconciler._look_now_and_then()
    assert HEARD_UNTIL not in live.core.settings
    live.hear()
    live.reconciler._look_now_and_then()
    await live.rest()
    assert live.core.settings[HEARD_UNTIL].value == str(live.clock.at_ms)


async def test_while_nodes_may_be_on_their_way_it_is_not_said_that_all_were_heard(live: LiveCore) -> None:
    """The next manager would not know how long they may take: the time is that of before the outage until then."""
    live.hear()
    live.reconciler._look_now_and_then()
    await live.rest()
    before = live.core.settings[HEARD_UNTIL].value
    live.clock.pass_time(100)
    live.pass_time(60)
    live.reconciler._look_now_and_then()
    assert live.core.settings[HEARD_UNTIL].value == before
    live.pass_time(60)
    live.reconciler._look_now_and_then()
    assert live.core.settings[HEARD_UNTIL].value == str(live.clock.at_ms)


async def test_a_start_gives_all_nodes_the_time_of_the_absence(tmp_path: Path) -> None:
    """Nobody knows who spoke while no manager was there."""
    async with live_core(tmp_path) as live:
        node, other = [await live.add(f"n{number}") for number in range(2)]
        live.core.put_setting(HEARD_UNTIL, str(live.clock.at_ms - 40_000))
        await live.rest()
    async with live_core(tmp_path) as live:
        live.pass_time(50, other.id)
        assert live.core.state.nodes[node.id].state is NodeState.READY
        live.pass_time(10, other.id)
        assert live.core.state.nodes[node.id].state is NodeState.DOWN


async def test_what_cannot_be_saved_stops_nothing(live: LiveCore) -> None:
    """While the store is away what is due waits; when it is back all of it is done."""
    node = await live.add("n0")
    await live.deploy(0)
    await _place(live, node)
    live.store.fault = "no space"
    with pytest.raises(UnavailableError):
        await live.core.put_setting("x", "y")
    assert "x" not in live.core.settings
    live.pass_time(31, node.id)
    live.store.fault = ""
    await live.core.writer.working.wait()
    await _tick(live)
    assert live.instance(KEY).state is S.FAILED


async def test_an_answer_that_waits_to_be_read_is_not_late(live: LiveCore) -> None:
    """However long this manager takes to read it; a node that said nothing in its time is judged by what was read."""
    node = await live.add("n0")
    await live.deploy(0)
    await _place(live, node)
    began_s, deadline_s = live.clock.at_s, live.core.policy.schedule_deadline_ms / 1000
    live.core.applied_until_s = lambda: began_s + deadline_s - 1
    live.pass_time(3 * deadline_s, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.SCHEDULED
    live.core.applied_until_s = live.clock.mono_s
    live.pass_time(2, node.id)
    await _tick(live)
    assert live.instance(KEY).state is not S.SCHEDULED


async def test_an_answer_that_may_yet_come_is_waited_for(live: LiveCore) -> None:
    """Nobody could be heard when it was due: the node has the time for it from when it is heard again."""
    node = await live.add("n0")
    await live.deploy(0)
    await _place(live, node)
    live.clock.pass_time(31)
    await _tick(live)
    assert live.instance(KEY).state is S.SCHEDULED
    live.pass_time(29, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.SCHEDULED
    live.pass_time(3, node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.FAILED


async def test_a_stop_from_before_an_outage_is_sent_to_a_mute_node_again(live: LiveCore) -> None:
    """A broker that forgets may have lost it: it counts when it was sent and the node was heard, after the outage."""
    await live.deploy(0, stop_grace_s=10.0)
    node = await _mute(live)
    await _place(live, node)
    live.core.state.delete([KEY], "root", live.clock.at_ms)
    await live.core.saved()
    await live.rest()
    told = len(live.broker.published)
    live.clock.pass_time(20)
    live.hear(node.id)
    await _tick(live)
    assert live.instance(KEY).state is S.STOPPING
    live.detector.heard_after_outage(live.core.state.nodes[node.id])
    live.core.dispatcher.tick()
    assert len(live.broker.published) == told + 1
    live.pass_time(10.25, node.id)
    await _tick(live)
    assert live.core.saved_records.instances[KEY].state is S.STOPPED


async def test_who_is_late_while_nothing_can_be_saved_is_suspect_only(live: LiveCore) -> None:
    """Readers see who is late, and who is back; nobody is called DOWN until the store works."""
    node, other = await live.add("n0"), await live.add("n1")
    live.store.fault = "no space"
    with pytest.raises(UnavailableError):
        await live.core.put_setting("x", "y")
    for _ in range(400):
        live.clock.pass_time(0.25)
        live.hear(other.id)
        live.detector.watch()
    assert not live.core.state.is_ready(node.id)
    assert live.core.state.nodes[node.id].state is NodeState.READY
    for _ in range(16):
        live.clock.pass_time(0.25)
        live.core.hearing.heard(node.id, live.clock.at_s)
        live.hear(other.id)
        live.detector.watch()
    assert live.core.state.is_ready(node.id)
    live.store.fault = ""
    await live.core.writer.working.wait()
