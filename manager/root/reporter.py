"""Sending reports: what is due, in portions that the root can digest, and what it acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from cluster.process import LOG
from manager.core import Core, now_ms
from manager.domain.model import Instance, InstanceKey, NodeState
from manager.domain.roots import Era
from manager.root.errors import ReportRefusedError, RootAwayError
from manager.root.ledger import Ledger, by_job, is_over, reportable
from manager.root.report import ReportedInstance, ReportedJob, node_id_of, report_body
from manager.root.totals import totals_of
from manager.root.web import RootWeb
from manager.roots import ACKNOWLEDGED, Roots

MAX_PORTION: Final = 500
WATERMARK_PERIOD_MS: Final = 30_000


class Reporter:
    """Reports to one root; `refresh_s` is how often an unchanged instance is told of again."""

    def __init__(self, core: Core, roots: Roots, refresh_s: float) -> None:
        self._core = core
        self._roots = roots
        self._refresh_s = refresh_s
        self._portion = MAX_PORTION
        self.ledger = Ledger(int(roots.saved(ACKNOWLEDGED) or 0))

    def may_purge(self, key: InstanceKey) -> bool:
        """Whether the root has heard the last of an instance, or never hears of it."""
        instance = self._core.state.instances.get(key)
        return instance is None or not self._reportable([instance]) or self.ledger.is_settled(instance)

    def due(self) -> list[Instance]:
        """What the next reports have to tell."""
        if self._roots.standing.era in (None, Era.UNDECIDED):
            return []
        mine = self._reportable(self._core.state.instances.values())
        return self.ledger.due(mine, time.monotonic(), self._refresh_s)

    async def send(self, web: RootWeb) -> bool:
        """Send one report; True where more is due at once. Raises RootAwayError."""
        began_ms, due = now_ms(), self.due()
        portion = due[: self._portion]
        try:
            await self._post(web, portion)
        except RootAwayError:
            self._portion = max(self._portion // 2, 1)
            raise
        except ReportRefusedError as error:
            await self._after_refusal(web, portion, error)
            return True
        self._portion = min(self._portion * 2, MAX_PORTION)
        self.ledger.acknowledge(portion, time.monotonic())
        is_done = len(portion) == len(due)
        if is_done and self._roots.standing.era is not Era.UNDECIDED:
            self._save_watermark(began_ms)
        return not is_done

    async def _post(self, web: RootWeb, portion: Sequence[Instance]) -> None:
        standing, state = self._roots.standing, self._core.state
        totals = totals_of(state.nodes.values(), state.live, state.allocated)
        body = report_body(standing.era or Era.UNDECIDED, totals, self._jobs(portion))
        try:
            await web.report(standing.cluster_id, body)
        except (RootAwayError, ReportRefusedError):
            self._core.counters["root_reports_failed"] += 1
            raise
        self._core.counters["root_reports"] += 1
        self._core.counters["root_instances_reported"] += len(portion)
        self._roots.stand(last_report_at_ms=now_ms())

    async def _after_refusal(self, web: RootWeb, portion: Sequence[Instance], error: ReportRefusedError) -> None:
        """Find the instance that the root fails on. Raises RootAwayError where it fails on an empty report as well."""
        try:
            await self._post(web, [])
        except ReportRefusedError:
            raise RootAwayError(str(error)) from None
        if len(portion) > 1:
            self._portion = max(len(portion) // 2, 1)
            return
        self.ledger.set_aside(portion)
        self._portion = MAX_PORTION
        self._core.counters["root_instances_set_aside"] += len(portion)
        LOG.error(
            "root fails on an instance, it is left out until it changes", key=str(portion[0].key), error=str(error)
        )

    def _jobs(self, portion: Sequence[Instance]) -> list[ReportedJob]:
        state = self._core.state
        jobs = []
        for job_id, reported in by_job(portion).items():
            keys = (InstanceKey(job_id, number) for number in state.of_job.get(job_id, {}))
            members = self._reportable(state.instances[key] for key in keys if key in state.instances)
            jobs.append(
                ReportedJob(
                    id=job_id,
                    name=state.jobs[job_id].spec.name,
                    members=members or reported,
                    reported=[self._reported(instance) for instance in reported],
                )
            )
        return jobs

    def _reported(self, instance: Instance) -> ReportedInstance:
        node = self._core.state.nodes.get(node_id_of(instance))
        is_seen = node is not None and node.state is NodeState.READY and not is_over(instance)
        return ReportedInstance(
            instance=instance,
            node=node,
            usage=self._core.usages.get(instance.key),
            seen_at_ms=now_ms() if is_seen else 0,
        )

    def _reportable(self, instances: Iterable[Instance]) -> list[Instance]:
        return reportable(instances, self._core.state.jobs, self._roots.guard.unknown_to_root)

    def _save_watermark(self, began_ms: int) -> None:
        """Remember now and then up to when everything was acknowledged, so that a restart does not tell it again."""
        newest = max((item.updated_at_ms for item in self._core.state.instances.values()), default=0)
        saved = int(self._roots.saved(ACKNOWLEDGED) or 0)
        if saved < newest and began_ms - saved > WATERMARK_PERIOD_MS:
            self._roots.save(ACKNOWLEDGED, str(began_ms - 1))
