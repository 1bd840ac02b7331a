"""The cluster that is measured: as `clusterctl up` runs it, its broker saving every 5 s instead of at each change."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from testbed.cluster import Cluster, cluster

BROKER: Final = "autosave_on_changes false\nautosave_interval 5\nlog_type error\n"


def bench_cluster() -> AbstractContextManager[Cluster]:
    """A ready cluster without workers for the time of the block."""
    return cluster(broker_configuration=BROKER)
