"""Figures for Prometheus, as they were last counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manager.core import Core
from manager.figures import Gauge

_WAITED: Final = "Silent nodes that are waited for: nothing of theirs is placed anew yet."
_GAP: Final = "Longest pause of the event loop in the last minute."


class CoreCollector(Collector):
    """Counts of nodes and instances by state, and the totals of the counters."""

    def __init__(self, core: Core, gauge: Gauge) -> None:
        self._core = core
        self._gauge = gauge

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        figures = self._gauge.figures
        nodes = GaugeMetricFamily("cluster_nodes", "Nodes by state.", labels=["state"])
        for name, count in figures.nodes.items():
            nodes.add_metric([name], count)
        instances = GaugeMetricFamily("cluster_instances", "Instances by state.", labels=["state"])
        for name, count in figures.instances.items():
            instances.add_metric([name], count)
        totals = CounterMetricFamily("cluster_manager", "Totals since the start.", labels=["what"])
        for name, count in list(self._core.counters.items()):
            totals.add_metric([name], count)
        return [
            nodes,
            instances,
            GaugeMetricFamily("cluster_nodes_waited_for", _WAITED, value=figures.held_nodes),
            GaugeMetricFamily("cluster_quarantined_records", "Unreadable records.", value=figures.quarantined),
            GaugeMetricFamily("cluster_store_backlog_records", "Records not saved yet.", value=figures.backlog),
            GaugeMetricFamily("cluster_manager_loop_gap_seconds", _GAP, value=self._gauge.loop_gap_s),
            totals,
        ]


def serve_metrics(bind: str, port: int, core: Core, gauge: Gauge) -> None:
    """Serve `/metrics`; port 0 serves nothing. Raises OSError where the port is taken."""
    if port:
        REGISTRY.register(CoreCollector(core, gauge))
        start_http_server(port, bind)
