"""Figures for Prometheus, read from the core when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manager.core import Core


class CoreCollector(Collector):
    """Counts of nodes and instances by state, and the totals of the counters."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        state = self._core.state
        nodes = GaugeMetricFamily("cluster_nodes", "Nodes by state.", labels=["state"])
        for name, count in Counter(node.state.value for node in list(state.nodes.values())).items():
            nodes.add_metric([name], count)
        instances = GaugeMetricFamily("cluster_instances", "Instances by state.", labels=["state"])
        for name, count in Counter(item.state.value for item in list(state.instances.values())).items():
            instances.add_metric([name], count)
        totals = CounterMetricFamily("cluster_manager", "Totals since the start.", labels=["what"])
        for name, count in list(self._core.counters.items()):
            totals.add_metric([name], count)
        return [nodes, instances, totals]


def serve_metrics(bind: str, port: int, core: Core) -> None:
    """Serve `/metrics`; port 0 serves nothing. Raises OSError where the port is taken."""
    if port:
        REGISTRY.register(CoreCollector(core))
        start_http_server(port, bind)
