"""The tick that closes every gap, in portions: it judges leases, rings alarms, advances updates, repeats commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cluster.nodes import Dialect
from cluster.process import LOG
from manager.core import HEARD_UNTIL, Core
from manager.detector import Detector
from manager.dispatcher import Identity
from manager.domain.effects import Effect, Verb, effects_of
from manager.domain.events import Observed, Seen
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeState, Placement
from manager.domain.reconciliation import Rung, lose_removed_nodes, restore_lost_jobs, ring
from manager.domain.waiting import is_waiting
from manager.jobs import Jobs
from manager.ports import Kind

TICK_S: Final = 0.25
ALARMS_AT_ONCE: Final = 200
LOOK_PERIOD_S: Final = 30.0
HEARD_PERIOD_S: Final = 30.0
UNANSWERED: Final = frozenset({InstanceState.SCHEDULED, InstanceState.STARTING, InstanceState.UNKNOWN})


@dataclass(frozen=True, kw_only=True)
class Unanswered:
    """A command for a node that never answers, when it was sent, and from when on it counts as carried out."""

    effect: Effect
    told_s: float
    due_ms: int


class Reconciler:
    """Drives instances towards what is desired."""

    def __init__(self, core: Core, detector: Detector, jobs: Jobs) -> None:
        self._core = core
        self._detector = detector
        self._jobs = jobs
        self._unanswered: dict[Identity, Unanswered] = {}
        self._look_at_s = 0.0
        self._heard_at_s = 0.0

    async def run(self) -> None:
        """Tick until cancelled; whatever is wrong with one part holds up no other, nor the next tick."""
        await self._core.writer.working.wait()
        self._guarded(self._mend)
        while True:
            await asyncio.sleep(TICK_S)
            self._say_step()
            if self._core.writer.failure:
                self._guarded(self._detector.watch)
                continue
            await self._judge()
            for part in (
                self._assume_due,
                self._jobs.advance_due,
                self._look_now_and_then,
            ):
                self._guarded(part)
            await self._ring_alarms()
            await self._repeat_commands()

    async def _judge(self) -> None:
        has_more = True
        while has_more:
            has_more = self._guarded(self._detector.sweep)
            await asyncio.sleep(0)

    def _mend(self) -> None:
        """What an earlier manager left half done, and what is missing because its record cannot be read."""
        unreadable = {record_id for kind, record_id in self._core.quarantined if kind is Kind.NODE}
        lose_removed_nodes(self._core.state, unreadable, self._core.now_ms())
        restore_lost_jobs(self._core.state)

    async def _repeat_commands(self) -> None:
        has_more = True
        while has_more:
            has_more = self._core.dispatcher.tick()
            await asyncio.sleep(0)

    def _guarded(self, part: Callable[[], bool | None]) -> bool:
        """Whether there is more of it to do now."""
        has_more = False
        try:
            has_more = bool(part())
        except Exception:  # noqa: BLE001 - the next tick tries again, and the other parts go on
            self._core.counters["ticks_failed"] += 1
            LOG.exception("a part of the tick failed")
        if self._core.has_changes and not self._core.writer.failure:
            self._core.commit()
        self._core.flush_views()
        return has_more and not self._core.writer.failure

    def _look_now_and_then(self) -> None:
        """Should a change for the better have escaped us; and remember up to when everybody could be heard.

        Not while nodes may still be on their way: the next manager would not know how long they may take.
        """
        now_s = self._core.clock.mono_s()
        if now_s - self._look_at_s >= LOOK_PERIOD_S:
            self._look_at_s = now_s
            self._core.look_for_room()
        if now_s - self._heard_at_s < HEARD_PERIOD_S or not self._core.hearing.is_listening(now_s):
            return
        if self._core.leases.is_settled or HEARD_UNTIL not in self._core.settings:
            self._heard_at_s = now_s
            self._core.put_setting(HEARD_UNTIL, str(self._core.now_ms()))

    def _say_step(self) -> None:
        if step_ms := self._core.clock.new_step_ms():
            LOG.warning("the machine's clock was set; times here follow it at the next start", by_s=step_ms / 1000)

    async def _ring_alarms(self) -> None:
        while keys := self._core.due_alarms(self._core.now_ms(), ALARMS_AT_ONCE):
            for key in keys:
                self._ring(key)
            if self._core.has_changes:
                self._core.commit()
            await asyncio.sleep(0)
            if self._core.writer.failure:
                return

    def _ring(self, key: InstanceKey) -> None:
        rung = Rung.NOTHING
        try:
            if not self._is_on_its_way(self._core.state.instances[key]):
                rung = ring(self._core.state, key, self._core.now_ms(), may_purge=self._core.may_purge(key))
        except Exception:  # noqa: BLE001 - what is wrong with one instance must not hold up the others
            self._core.counters["ticks_failed"] += 1
            LOG.exception("an alarm failed", instance=str(key))
        if rung is Rung.WANTS_NODE:
            self._core.want_plan(key)
        if rung is Rung.NOTHING or is_waiting(self._core.state.instances.get(key)):
            self._core.rearm(key)  # a refusal that repeats is no change, and would set no alarm for the next fence

    def _is_on_its_way(self, instance: Instance) -> bool:
        """Whether the answer that is late may yet come: its node was just told, is not heard, or is just back.

        Or it has arrived, and waits for a slow save: who is late is judged by what has been applied.
        """
        core = self._core
        at_ms = core.now_ms()
        read_ms = at_ms - 1000 * (core.clock.mono_s() - core.applied_until_s())
        late = [item for _, item in instance.placements() if item.deadline_ms is not None and item.deadline_ms <= at_ms]
        return any(
            (item.deadline_ms or 0) > read_ms
            or self._is_just_told(instance.key, item)
            or self._is_just_back(item.node_id)
            for item in late
            if self._is_judged(item)
        )

    def _is_just_told(self, key: InstanceKey, placement: Placement) -> bool:
        """A slow store, or a broker that is away, holds the command up after the decision."""
        if placement.state is not InstanceState.SCHEDULED:
            return False
        sent_s = self._core.dispatcher.first_sent_s((Verb.DEPLOY, key, placement.generation))
        return sent_s is None or self._is_recent(sent_s, placement.node_id)

    def _is_judged(self, placement: Placement) -> bool:
        """What is on a node that is DOWN is not waited for: it stops by itself (`stop_after`)."""
        node = self._core.state.nodes.get(placement.node_id)
        return node is not None and node.state is not NodeState.DOWN and placement.state in UNANSWERED

    def _is_just_back(self, node_id: str) -> bool:
        core, node = self._core, self._core.state.nodes[node_id]
        back_s = core.hearing.back_s((node.id, *node.aliases))
        if back_s is None or not core.hearing.is_listening(core.clock.mono_s()) or not core.state.is_ready(node.id):
            return True
        return self._is_recent(max(back_s, core.state.live[node.id].back_mono_s), node.id)

    def _is_recent(self, at_s: float, node_id: str) -> bool:
        """Whether a node has not yet had the time for an answer since then; one that waits to be read was in time."""
        deadline_ms = self._core.state.first_deadline_ms(node_id, 0) or 0
        return self._core.applied_until_s() - at_s < deadline_ms / 1000

    # Nodes that never report

    def command_sent(self, node: Node, effect: Effect) -> None:
        """A node that never reported a state answers nothing: its deploys count as started once they are sent."""
        self._core.counters[f"commands_{effect.verb}"] += 1
        if node.registration.dialect is not Dialect.SEED or node.has_reported:
            return
        is_start = effect.verb is Verb.DEPLOY
        due_ms = self._core.now_ms() + (0 if is_start else int(effect.spec.stop_grace_s * 1000))
        told = Unanswered(effect=effect, told_s=self._core.clock.mono_s(), due_ms=due_ms)
        self._unanswered[effect.identity] = told
        if is_start:
            self._assume(effect)
            self._core.commit()

    def _assume_due(self) -> None:
        """Until it is saved: the store may fail just then."""
        at_ms = self._core.now_ms()
        for identity, told in tuple(self._unanswered.items()):
            saved = self._core.saved_records.instances.get(told.effect.key)
            if saved is None or identity not in {item.identity for item in effects_of(saved)}:
                del self._unanswered[identity]
            elif told.due_ms <= at_ms and not self._may_not_have_arrived(told):
                self._assume(told.effect)

    def _may_not_have_arrived(self, told: Unanswered) -> bool:
        """A stop that was sent to a node which was not heard since, or before an outage: until it is told and heard."""
        state, node_id = self._core.state, told.effect.node_id
        if told.effect.verb is Verb.DEPLOY or not state.is_ready(node_id):
            return False
        node = state.nodes[node_id]
        heard_s, back_s = self._core.last_heard_s(node), self._core.hearing.back_s((node.id, *node.aliases))
        return heard_s is None or back_s is None or heard_s <= told.told_s or back_s > told.told_s

    def _assume(self, effect: Effect) -> None:
        is_start = effect.verb is Verb.DEPLOY
        what = "the command was sent" if is_start else "the stop grace is over"
        event = Observed(
            node_id=effect.node_id,
            generation=effect.generation,
            seen=Seen.STARTING if is_start else Seen.STOPPED,
            actor="manager",
            detail=f"{what}; this node has never reported a state",
            is_assumed=not (is_start or self._core.state.is_ready(effect.node_id)),
        )
        if effect.key in self._core.state.instances:
            self._core.state.apply(effect.key, event, self._core.now_ms())
