"""SchedulerService over gRPC: checks what comes in, asks the planner, counts what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from cluster.convert import resources_from_proto
from cluster.errors import UnavailableError
from cluster.v1 import instance_pb2, scheduler_pb2, scheduler_pb2_grpc
from scheduler import metrics
from scheduler.convert import ask_of, items_of
from scheduler.explain import Explanation, ReasonCount, Verdict
from scheduler.node_view import NodeView
from scheduler.plan import Choice, Item, Planner

SERVICE = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Plans and explains. Raises UnavailableError until the first snapshot of nodes is complete."""

    def __init__(self, planner: Planner, view: NodeView, clock: Callable[[], float] = time.monotonic) -> None:
        self._planner = planner
        self._view = view
        self._clock = clock

    async def Plan(
        self,
        request: scheduler_pb2.PlanRequest,
        context: Context,
    ) -> scheduler_pb2.PlanResponse:
        """Raises InvalidInputError that names the field; no capacity is an answer, not an error."""
        self._require_snapshot()
        is_behind = not await self._view.reach(request.view_sequence)
        asks = [ask_of(spec, f"specs[{index}]") for index, spec in enumerate(request.specs)]
        items = items_of(request)
        started_s = time.perf_counter()
        choices = self._planner.plan(
            asks, items, sequence=request.plan_sequence, now_s=self._clock(), is_dry_run=request.is_dry_run
        )
        _count(choices, time.perf_counter() - started_s)
        return scheduler_pb2.PlanResponse(results=[_result(choice) for choice in choices], is_behind=is_behind)

    async def Explain(
        self,
        request: scheduler_pb2.ExplainRequest,
        context: Context,
    ) -> scheduler_pb2.ExplainResponse:
        """Raises InvalidInputError that names the field."""
        self._require_snapshot()
        released = resources_from_proto(request.released) if request.HasField("released") else None
        item = Item(released_node_id=request.released_node_id, released=released)
        return _explained(self._planner.explain(ask_of(request.spec, "spec"), item, now_s=self._clock()))

    def _require_snapshot(self) -> None:
        if not self._view.has_snapshot:
            raise UnavailableError("the scheduler has not seen the nodes yet; is the manager up? ask again")


def _count(choices: list[Choice], elapsed_s: float) -> None:
    placed = sum(1 for choice in choices if choice.node_id)
    metrics.PLANS.labels("placed").inc(placed)
    metrics.PLANS.labels("refused").inc(len(choices) - placed)
    for choice in choices:
        for refusal in choice.refusals:
            metrics.REFUSALS.labels(refusal.reason).inc()
        metrics.PLANNING.observe(elapsed_s / len(choices))


def _result(choice: Choice) -> scheduler_pb2.PlanResult:
    return scheduler_pb2.PlanResult(node_id=choice.node_id, refusals=_refusals(choice.refusals), cause=choice.cause)


def _refusals(counts: tuple[ReasonCount, ...]) -> list[instance_pb2.Refusal]:
    return [instance_pb2.Refusal(reason=each.reason, node_count=each.node_count, detail=each.detail) for each in counts]


def _explained(explanation: Explanation) -> scheduler_pb2.ExplainResponse:
    nearest = explanation.nearest
    return scheduler_pb2.ExplainResponse(
        node_count=explanation.node_count,
        fitting_count=explanation.fitting_count,
        refusals=_refusals(explanation.refusals),
        nearest=_verdict(nearest) if nearest else None,
        smallest_change=explanation.smallest_change,
        verdicts=[_verdict(each) for each in explanation.verdicts],
    )


def _verdict(verdict: Verdict) -> scheduler_pb2.NodeVerdict:
    return scheduler_pb2.NodeVerdict(
        node_id=verdict.node_id, reasons=verdict.reasons, score=verdict.score, shortfall=verdict.shortfall
    )
