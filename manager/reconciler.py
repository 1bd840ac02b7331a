"""The tick that closes every gap, in portions: it judges leases, rings alarms, advances updates, repeats commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cluster.nodes import Dialect
from cluster.process import LOG
from manager.core import HEARD_UNTIL, Core
from manager.detector import Detector
from manager.domain.effects import Effect, Verb
from manager.domain.events import Observed, Seen
from manager.domain.model import InstanceKey, Node
from manager.domain.reconciliation import Rung, lose_removed_nodes, restore_lost_jobs, ring
from manager.jobs import Jobs
from manager.ports import Kind

TICK_S: Final = 0.25
ALARMS_AT_ONCE: Final = 200
LOOK_PERIOD_S: Final = 30.0
HEARD_PERIOD_S: Final = 30.0


class Reconciler:
    """Drives instances towards what is desired."""

    def __init__(self, core: Core, detector: Detector, jobs: Jobs) -> None:
        self._core = core
        self._detector = detector
        self._jobs = jobs
        self._silent_stops: dict[tuple[InstanceKey, int], tuple[int, str]] = {}
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
                continue
            for part in (
                self._detector.sweep,
                self._close_silent_stops,
                self._jobs.advance_due,
                self._look_now_and_then,
            ):
                self._guarded(part)
            await self._ring_alarms()
            await self._repeat_commands()

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

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception:  # noqa: BLE001 - the next tick tries again, and the other parts go on
            self._core.counters["ticks_failed"] += 1
            LOG.exception("a part of the tick failed")
        if self._core.state.dirty and not self._core.writer.failure:
            self._core.commit()
        self._core.flush_views()

    def _look_now_and_then(self) -> None:
        """Should a change for the better have escaped us; and remember that there was a broker to hear through."""
        now_s = self._core.clock.mono_s()
        if now_s - self._look_at_s >= LOOK_PERIOD_S:
            self._look_at_s = now_s
            self._core.look_for_room()
        if now_s - self._heard_at_s >= HEARD_PERIOD_S and self._core.hearing.is_listening(now_s):
            self._heard_at_s = now_s
            self._core.put_setting(HEARD_UNTIL, str(self._core.now_ms()))

    def _say_step(self) -> None:
        if step_ms := self._core.clock.new_step_ms():
            LOG.warning("the machine's clock was set; times here follow it at the next start", by_s=step_ms / 1000)

    async def _ring_alarms(self) -> None:
        while keys := self._core.due_alarms(self._core.now_ms(), ALARMS_AT_ONCE):
            for key in keys:
                self._ring(key)
            if self._core.state.dirty:
                self._core.commit()
            await asyncio.sleep(0)
            if self._core.writer.failure:
                return

    def _ring(self, key: InstanceKey) -> None:
        rung = Rung.NOTHING
        try:
            rung = ring(self._core.state, key, self._core.now_ms(), may_purge=self._core.may_purge(key))
        except Exception:  # noqa: BLE001 - what is wrong with one instance must not hold up the others
            self._core.counters["ticks_failed"] += 1
            LOG.exception("an alarm failed", instance=str(key))
        if rung is Rung.WANTS_NODE:
            self._core.want_plan(key)
        elif rung is Rung.NOTHING:
            self._core.rearm(key)

    # Nodes that never report

    def command_sent(self, node: Node, effect: Effect) -> None:
        """A node that never reported a state answers nothing: its deploys count as started once they are sent."""
        self._core.counters[f"commands_{effect.verb}"] += 1
        if node.registration.dialect is not Dialect.SEED or node.has_reported:
            return
        if effect.verb is Verb.DEPLOY:
            detail = "the command was sent; this node has never reported a state"
            self._assume(effect, Seen.STARTING, detail)
        else:
            over_ms = self._core.now_ms() + int(effect.spec.stop_grace_s * 1000)
            self._silent_stops[effect.key, effect.generation] = (over_ms, node.id)

    def _close_silent_stops(self) -> None:
        at_ms = self._core.now_ms()
        for (key, generation), (over_ms, node_id) in tuple(self._silent_stops.items()):
            if over_ms > at_ms:
                continue
            del self._silent_stops[key, generation]
            if key in self._core.state.instances:
                detail = "the stop grace is over; this node has never reported a state"
                event = Observed(
                    node_id=node_id, generation=generation, seen=Seen.STOPPED, actor="manager", detail=detail
                )
                self._core.state.apply(key, event, at_ms)

    def _assume(self, effect: Effect, seen: Seen, detail: str) -> None:
        event = Observed(
            node_id=effect.node_id, generation=effect.generation, seen=seen, actor="manager", detail=detail
        )
        self._core.state.apply(effect.key, event, self._core.now_ms())
        self._core.commit()
