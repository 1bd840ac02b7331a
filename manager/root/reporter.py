"""Sending reports, in portions that the root can digest, and what follows from its answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from cluster.process import LOG
from manager.core import Core
from manager.domain.model import InstanceKey
from manager.domain.roots import Era
from manager.root.backlog import Backlog
from manager.root.doubts import Scope
from manager.root.errors import ReportRefusedError, RootAwayError, RootBusyError
from manager.root.portion import MAX_INSTANCES, Portion
from manager.root.report import report_body
from manager.root.totals import Totals, totals_of
from manager.root.watermark import Watermark
from manager.root.web import RootWeb
from manager.roots import Roots

SLOW_ANSWER_S: Final = 5.0
FEW_INSTANCES: Final = 10
TOTALS_AGE_S: Final = 0.5
NUMBERS_ONLY: Final = Portion()
NOT_COUNTED: Final = (float("-inf"), Totals())


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of a report: whether more is due at once, and how long the root took for it."""

    has_more: bool = False
    answer_s: float = 0.0


class Reporter:
    """Reports to one root what its backlog holds."""

    def __init__(self, core: Core, roots: Roots, backlog: Backlog) -> None:
        self._core = core
        self._roots = roots
        self._backlog = backlog
        self._watermark = Watermark(core, roots)
        self._limit = MAX_INSTANCES
        self._unanswered: tuple[InstanceKey, ...] = ()
        self._totals = NOT_COUNTED

    def nodes_changed(self) -> None:
        """The numbers of the cluster are others now."""
        self._totals = NOT_COUNTED

    async def send(self, web: RootWeb) -> Sent:
        """Send one report. Raises RootAwayError."""
        if self._backlog.era is Era.UNDECIDED:
            return Sent(answer_s=await self._post_numbers(web))
        await self._backlog.absorb()
        if self._unanswered:
            return await self._probe(web)
        portion = self._backlog.next_portion(time.monotonic(), self._limit)
        try:
            answer_s = await self._post(web, portion)
        except RootAwayError:
            self._limit = max(self._limit // 2, 1)
            self._unanswered = portion.keys
            raise
        except ReportRefusedError as error:
            return await self._after_refusal(web, portion, error)
        return self._after_yes(portion, answer_s)

    async def _probe(self, web: RootWeb) -> Sent:
        """The last report with instances got no answer: one without shows whether the root is back."""
        answer_s = await self._post_numbers(web)
        suspects, self._unanswered = self._unanswered, ()
        self._blame(suspects, "it gives no answer to that", was_answered=False)
        return Sent(has_more=True, answer_s=answer_s)

    async def _after_refusal(self, web: RootWeb, portion: Portion, error: ReportRefusedError) -> Sent:
        """Where a report without instances is taken, the fault is in what was told. Raises RootAwayError where not."""
        if not portion.told:
            raise RootBusyError(str(error))
        answer_s = await self._post_numbers(web)
        self._blame(portion.keys, str(error), was_answered=True)
        return Sent(has_more=self._backlog.has_more(time.monotonic()), answer_s=answer_s)

    def _after_yes(self, portion: Portion, answer_s: float) -> Sent:
        released = self._backlog.acknowledge(portion)
        for scope in released:
            LOG.info("root takes again what it failed on", subject=_subject(scope))
            self._roots.tell("root_takes_again", "the root takes it again", subject=_subject(scope))
        if len(portion.told) > portion.refresh_count:
            self._watermark.told()
        if self._backlog.is_told:
            self._watermark.all_told()
        self._adapt(len(portion.told), answer_s)
        return Sent(has_more=bool(released) or self._backlog.has_more(time.monotonic()), answer_s=answer_s)

    def _adapt(self, count: int, answer_s: float) -> None:
        """Fewer instances a report to a root that is slow, more to one that took a full one quickly.

        Not fewer than a few: what takes long with those is not their number.
        """
        if answer_s > SLOW_ANSWER_S and self._limit > FEW_INSTANCES:
            self._limit = max(self._limit // 2, FEW_INSTANCES)
        elif count >= self._limit and (answer_s <= SLOW_ANSWER_S or self._limit < FEW_INSTANCES):
            self._limit = min(self._limit * 2, MAX_INSTANCES)

    async def _post_numbers(self, web: RootWeb) -> float:
        """A report of the cluster's numbers alone. Raises RootAwayError, also where it is not taken."""
        try:
            return await self._post(web, NUMBERS_ONLY)
        except ReportRefusedError as error:
            raise RootBusyError(str(error)) from None

    async def _post(self, web: RootWeb, portion: Portion) -> float:
        """Send a report; answers how long the root took. Raises RootAwayError or ReportRefusedError."""
        counters, began_mono_s = self._core.counters, time.monotonic()
        body = report_body(self._backlog.era, self._totals_at(began_mono_s), self._backlog.jobs(portion))
        try:
            await web.report(self._roots.standing.cluster_id, body)
        except (RootAwayError, ReportRefusedError):
            counters["root_reports_failed"] += 1
            raise
        counters["root_reports"] += 1
        counters["root_instances_reported"] += len(portion.told)
        self._roots.stand(last_report_at_ms=self._core.now_ms())
        return time.monotonic() - began_mono_s

    def _totals_at(self, now_mono_s: float) -> Totals:
        """The numbers of the cluster: reports that follow each other closely share them, unless nodes changed."""
        if now_mono_s - self._totals[0] > TOTALS_AGE_S:
            state = self._core.state
            self._totals = (now_mono_s, totals_of(state.nodes.values(), state.live, state.allocated))
        return self._totals[1]

    def _blame(self, keys: tuple[InstanceKey, ...], error: str, *, was_answered: bool) -> None:
        scope = self._backlog.blame(keys, time.monotonic(), was_answered=was_answered)
        if scope is not None:
            self._core.counters["root_instances_set_aside"] += 1
            LOG.error("root fails on something, it is left out for a while", subject=_subject(scope), error=error)
            cause = f"the root fails on it, it is left out for a while: {error}"
            self._roots.tell("root_fails_on", cause, subject=_subject(scope))

    @property
    def trouble(self) -> str:
        """What an operator should know although the link stands; "" where all is well."""
        doubts = self._backlog.doubts
        if doubts.is_wary:
            return "the root takes reports about the cluster, but none about its instances: they wait"
        if aside := doubts.aside:
            return f"the root fails on {len(aside)} of what it ordered: left out for a while, see the events"
        return ""


def _subject(scope: Scope) -> str:
    return f"job:{scope}" if isinstance(scope, str) else f"instance:{scope}"
