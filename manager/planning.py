"""Finding nodes: what wants one is planned in batches, and carried out on the state as it then is.

What found no node waits by class (`domain/waiting.py`): when something changes for the better one of each class is
tried, and the others follow, twice as many each time, as long as that succeeds.
"""

from __future__ import annotations

import asyncio
from math import isfinite
from typing import Final

from cluster.errors import ClusterError, UnavailableError
from cluster.process import LOG
from manager.core import Core
from manager.domain.engines import exclusions, named
from manager.domain.events import PlanRefused
from manager.domain.machine import wants_placement
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState, Refusal
from manager.domain.observation import came_back
from manager.domain.reconciliation import fenced_nodes, is_coming_back, is_replacing
from manager.planner import Request, Result, Scheduler

BATCH: Final = 500
SETTLED_AT_ONCE: Final = 100
FREE_REJECTIONS: Final = 3
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
LOOK_LATER_S: Final = 1.0


class Planning:
    """Asks the scheduler, batch after batch."""

    def __init__(self, core: Core, scheduler: Scheduler) -> None:
        self._core = core
        self._scheduler = scheduler
        self._rejections: dict[InstanceKey, int] = {}
        self._streaks: dict[str, int] = {}
        self._next_look: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Plan until cancelled; while the scheduler is away what wants a node waits."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._core.plan_wanted.wait()
            self._core.plan_wanted.clear()
            await self._core.writer.working.wait()
            await asyncio.sleep(0)  # which promises ended, and what is free now, goes out before the question
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

    def _guarded(self, request: Request, result: Result) -> None:
        """What is wrong with one plan costs that plan."""
        try:
            self._settle(request, result)
        except Exception:  # noqa: BLE001 - and not the others, nor the process
            self._core.counters["plans_failed"] += 1
            LOG.exception("a plan failed", instance=str(request.key))

    def _next_requests(self) -> list[Request]:
        core = self._core
        if core.has_room:
            core.has_room = False
            for key in self._scouts():
                core.to_plan[key] = None
        keys = list(core.to_plan)[:BATCH]
        for key in keys:
            del core.to_plan[key]
        if core.to_plan:
            core.plan_wanted.set()
        wanted = [core.state.instances[key] for key in keys if key in core.state.instances]
        return [self._request(item) for item in wanted if self._is_wanted(item)]

    def _scouts(self) -> list[InstanceKey]:
        """Of each class the first that nothing of its own keeps from any node, and those before it."""
        self._streaks.clear()
        scouts = []
        for keys in self._core.state.waiting.classes():
            for key in keys:
                scouts.append(key)
                if not self._is_kept_from_nodes(self._core.state.instances[key]):
                    break
        return scouts

    def _is_kept_from_nodes(self, instance: Instance) -> bool:
        return bool(self._own_exclusions(instance) or exclusions(self._core.state, instance).kinds)

    def _is_wanted(self, instance: Instance) -> bool:
        """Not where its node is heard again: what runs there may be this very instance."""
        core = self._core
        if not wants_placement(instance):
            return False
        if is_coming_back(core.state, instance):
            came_back(core.state, instance, core.now_ms())
            core.commit()
            return False
        if self._is_back_unsaved(instance):
            core.rearm(instance.key)
            self._look_later()
            return False
        return True

    def _is_back_unsaved(self, instance: Instance) -> bool:
        """That its node is heard again could not be saved: that comes first."""
        state = self._core.state
        node = state.nodes.get(instance.node_id)
        return node is not None and node.state is NodeState.DOWN and isfinite(state.live[node.id].back_mono_s)

    def _own_exclusions(self, instance: Instance) -> set[str]:
        state = self._core.state
        return {*fenced_nodes(state, instance, self._core.now_ms()), *exclusions(state, instance).nodes}

    def _request(self, instance: Instance) -> Request:
        state = self._core.state
        own = next((p for _, p in instance.placements() if is_replacing(state, p.node_id)), None)
        return Request(
            key=instance.key,
            spec=instance.spec,
            excluded_node_ids=tuple(sorted(self._own_exclusions(instance))),
            excluded_kinds=tuple(exclusions(state, instance).kinds),
            released_node_id=own.node_id if own else "",
            released=own.spec.demand if own else None,
        )

    async def _plan(self, requests: list[Request]) -> None:
        core = self._core
        with core.sequences.plan() as plan:
            peers = {job_id: core.state.peers(job_id) for job_id in {request.key.job_id for request in requests}}
            results = await self._scheduler.plan(requests, peers, plan.number)
            if len(results) != len(requests):
                raise UnavailableError(f"the scheduler answered {len(results)} of {len(requests)} questions")
            plan.node_ids.update(result.node_id for result in results if result.node_id)
            for position, (request, result) in enumerate(zip(requests, results, strict=True)):
                if position % SETTLED_AT_ONCE == 0:
                    await self._let_others()
                self._guarded(request, result)
        core.commit()

    async def _let_others(self) -> None:
        """Save what was settled so far, and serve calls and messages."""
        if self._core.has_changes:
            self._core.commit()
        await asyncio.sleep(0)
        await self._core.writer.working.wait()

    def _settle(self, request: Request, result: Result) -> None:
        """Apply one plan on the current state."""
        core = self._core
        instance = core.state.instances.get(request.key)
        if instance is None or not self._is_wanted(instance):
            return
        if not result.node_id:
            self._refuse(instance, result.refusals)
            if result.is_behind:
                self._look_later()
        elif reason := core.state.place(request.key, result.node_id, core.now_ms(), result.cause):
            self._reject(instance, reason)
        else:
            self._rejections.pop(request.key, None)
            self._follow_up(instance)

    def _follow_up(self, instance: Instance) -> None:
        """One of a class found a node: others may as well."""
        if instance.state is not InstanceState.PENDING:
            return
        streak = self._streaks[instance.spec.digest] = self._streaks.get(instance.spec.digest, 1) * 2
        for key in self._core.state.waiting.others(instance, min(streak, BATCH)):
            self._core.want_plan(key)

    def _reject(self, instance: Instance, reason: str) -> None:
        """The node was taken meanwhile: plan again at once, but with pauses where the two go on differing."""
        self._core.counters["plans_rejected"] += 1
        count = self._rejections[instance.key] = self._rejections.get(instance.key, 0) + 1
        if count <= FREE_REJECTIONS:
            self._core.want_plan(instance.key)
        else:
            self._refuse(instance, (Refusal(reason="taken", node_count=1, detail=reason),))
            self._look_later()

    def _look_later(self) -> None:
        """The scheduler knows less than this manager: ask again when it may have caught up."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_LATER_S, self._look)

    def _look(self) -> None:
        self._next_look = None
        self._core.look_for_room()

    def _refuse(self, instance: Instance, refusals: tuple[Refusal, ...]) -> None:
        """The same refusal again is no change."""
        core = self._core
        self._streaks.pop(instance.spec.digest, None)
        reasons = named(refusals, exclusions(core.state, instance))
        core.state.apply(instance.key, PlanRefused(refusals=reasons), core.now_ms())
