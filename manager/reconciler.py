"""The loops that close every gap: planning what wants a node, and the tick that judges leases and deadlines."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from cluster.errors import ClusterError
from cluster.nodes import Dialect
from cluster.process import LOG
from manager.clock import CLOCK
from manager.core import Core, now_ms
from manager.domain.effects import Effect, Verb
from manager.domain.engines import exclusions, named
from manager.domain.events import Observed, PlanRefused, Seen
from manager.domain.leases import Judgement, LeaseRules, judge
from manager.domain.machine import wants_placement
from manager.domain.model import Instance, InstanceKey, Node, NodeState, Refusal
from manager.domain.policy import backoff_ms
from manager.domain.reconciliation import Rung, apply_verdict, fenced_nodes, heal, is_replacing, ring
from manager.jobs import Jobs
from manager.planner import Planner, Request, Result

PLAN_BATCH: Final = 1000
TICK_S: Final = 0.25
FREE_REJECTIONS: Final = 3
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0


class Reconciler:
    """Drives instances towards what is desired."""

    def __init__(self, core: Core, planner: Planner, jobs: Jobs, rules: LeaseRules) -> None:
        self._core = core
        self._planner = planner
        self._jobs = jobs
        self._rules = rules
        self._listening_since_mono_s: float | None = None
        self._is_paused = False
        self._silent_stops: dict[tuple[InstanceKey, int], tuple[int, int, str]] = {}
        self._refused: dict[InstanceKey, int] = {}

    # Planning

    async def plan_forever(self) -> None:
        """Plan batch after batch; while the scheduler is away what wants a node waits."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._core.plan_wanted.wait()
            self._core.plan_wanted.clear()
            await self._core.writer.working.wait()
            requests = self._next_requests()
            if not requests:
                continue
            try:
                await self._plan(requests)
                pause_s = FIRST_PAUSE_S
            except ClusterError as error:
                if pause_s == FIRST_PAUSE_S:
                    LOG.warning("scheduler does not answer, planning waits", error=error.detail)
                for request in requests:
                    self._core.want_plan(request.key)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _next_requests(self) -> list[Request]:
        core = self._core
        keys = list(core.to_plan)[:PLAN_BATCH]
        for key in keys:
            del core.to_plan[key]
        if core.to_plan:
            core.plan_wanted.set()
        wanted = [core.state.instances[key] for key in keys if key in core.state.instances]
        return [self._request(item) for item in wanted if wants_placement(item)]

    def _request(self, instance: Instance) -> Request:
        state = self._core.state
        own = next((p for _, p in instance.placements() if is_replacing(state, p.node_id)), None)
        return Request(
            key=instance.key,
            spec=instance.spec,
            excluded_node_ids=tuple({*fenced_nodes(state, instance, now_ms()), *exclusions(state, instance)}),
            released_node_id=own.node_id if own else "",
            released=own.spec.demand if own else None,
        )

    async def _plan(self, requests: list[Request]) -> None:
        core = self._core
        core.plan_sequence += 1
        sequence = core.plan_sequence
        job_ids = {request.key.job_id for request in requests}
        peers = {job_id: core.state.peers(job_id) for job_id in job_ids}
        results = await self._planner.plan(requests, peers, sequence)
        touched = [self._settle(request, result) for request, result in zip(requests, results, strict=True)]
        core.applied_sequence = sequence
        core.commit()
        core.touch_views({node_id for node_id in touched if node_id})

    def _settle(self, request: Request, result: Result) -> str:
        """Apply one plan on the current state; answers the node that it was for."""
        core = self._core
        if result.node_id:
            reason = core.state.place(request.key, result.node_id, now_ms(), result.cause)
            if reason:
                self._reject(request, reason)
            else:
                self._refused.pop(request.key, None)
            return result.node_id
        if request.key in core.state.instances:
            self._refuse(request, result.refusals)
        return ""

    def _reject(self, request: Request, reason: str) -> None:
        """The node was taken meanwhile: plan again at once, but with pauses where the two go on differing."""
        self._core.counters["plans_rejected"] += 1
        if self._refused.get(request.key, 0) < FREE_REJECTIONS:
            self._refused[request.key] = self._refused.get(request.key, 0) + 1
            self._core.want_plan(request.key)
        else:
            self._refuse(request, (Refusal(reason="taken", node_count=1, detail=reason),))

    def _refuse(self, request: Request, refusals: tuple[Refusal, ...]) -> None:
        attempt = self._refused[request.key] = self._refused.get(request.key, 0) + 1
        policy = self._core.policy
        wait_ms = backoff_ms(attempt, policy.retry_base_ms, policy.pending_cap_ms, str(request.key))
        reasons = named(refusals, exclusions(self._core.state, self._core.state.instances[request.key]))
        event = PlanRefused(refusals=reasons, retry_at_ms=now_ms() + wait_ms)
        self._core.state.apply(request.key, event, now_ms())

    # The tick

    async def tick_forever(self) -> None:
        """Judge leases, ring alarms and repeat commands."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._core.writer.failure:
                continue
            self._say_step()
            self._judge_leases()
            heal(self._core.state, now_ms())
            self._ring_alarms()
            self._close_silent_stops()
            self._jobs.advance_all()
            self._core.dispatcher.tick()
            if self._core.state.dirty:
                self._core.commit()

    def connection_changed(self, is_connected: bool) -> None:
        """Nobody is judged while we cannot hear, nor within one lease of hearing again."""
        self._listening_since_mono_s = time.monotonic() if is_connected else None

    def _judge_leases(self) -> None:
        if self._listening_since_mono_s is None:
            return
        state = self._core.state
        pairs = [(node, state.live[node.id]) for node in state.nodes.values()]
        judgement = judge(pairs, time.monotonic(), self._listening_since_mono_s, self._rules)
        self._say_pause(judgement)
        for verdict in judgement.verdicts:
            apply_verdict(state, verdict, now_ms())
            if verdict.state is NodeState.DOWN:
                LOG.warning("node is down", node_id=verdict.node_id, cause=verdict.cause)

    def _say_pause(self, judgement: Judgement) -> None:
        if judgement.is_paused != self._is_paused:
            self._is_paused = judgement.is_paused
            if self._is_paused:
                LOG.error("many nodes expired together, re-placement pauses until they are back or removed")
            else:
                LOG.info("re-placement goes on")

    def _say_step(self) -> None:
        if step_ms := CLOCK.new_step_ms():
            LOG.warning("the machine's clock was set; times here follow it at the next start", by_s=step_ms / 1000)

    def _ring_alarms(self) -> None:
        at_ms = now_ms()
        for key in self._core.due_alarms(at_ms):
            rung = ring(self._core.state, key, at_ms, may_purge=self._core.may_purge(key))
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
            told_ms = now_ms()
            over_ms = told_ms + int(effect.spec.stop_grace_s * 1000)
            self._silent_stops[effect.key, effect.generation] = (over_ms, told_ms, node.id)

    def _close_silent_stops(self) -> None:
        at_ms = now_ms()
        for (key, generation), (over_ms, told_ms, node_id) in tuple(self._silent_stops.items()):
            is_ready, is_heard = self._hearing(node_id, told_ms)
            if over_ms > at_ms or (is_ready and not is_heard):
                continue
            del self._silent_stops[key, generation]
            if key in self._core.state.instances:
                detail = "the stop grace is over; this node has never reported a state"
                event = Observed(
                    node_id=node_id,
                    generation=generation,
                    seen=Seen.STOPPED,
                    actor="manager",
                    detail=detail,
                    is_assumed=not is_ready,
                )
                self._core.state.apply(key, event, at_ms)

    def _hearing(self, node_id: str, told_ms: int) -> tuple[bool, bool]:
        """Whether a node is READY, and was heard since it was told something: then that can have arrived."""
        node, live = self._core.state.nodes.get(node_id), self._core.state.live.get(node_id)
        is_ready = node is not None and node.state is NodeState.READY
        return is_ready, live is not None and (live.heartbeat_at_ms or 0) >= told_ms

    def _assume(self, effect: Effect, seen: Seen, detail: str) -> None:
        event = Observed(
            node_id=effect.node_id, generation=effect.generation, seen=seen, actor="manager", detail=detail
        )
        self._core.state.apply(effect.key, event, now_ms())
        self._core.commit()
