"""The link in figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manager.domain.roots import LinkState
from manager.roots import Roots


class RootCollector(Collector):
    """The state of the link as one gauge of 1 among zeros, and how many jobs the guard protects."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        link = GaugeMetricFamily("cluster_root_link", "How the cluster stands with its root.", labels=["state"])
        for state in LinkState:
            link.add_metric([state], float(self._roots.standing.state is state))
        guard = self._roots.guard
        jobs = GaugeMetricFamily("cluster_root_guard_jobs", "Jobs that the root lost.", labels=["kind"])
        for kind, ids in (("guarded", guard.guarded), ("held", guard.held), ("kept", guard.kept)):
            jobs.add_metric([kind], len(ids))
        return [link, jobs]


def show(roots: Roots) -> None:
    """Add the figures to what `/metrics` serves."""
    REGISTRY.register(RootCollector(roots))
