"""The cluster that is measured: as `clusterctl up` runs it, its broker saving every 5 s instead of at each change."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from testbed.cluster import PARTS, Cluster, cluster

BROKER: Final = "autosave_on_changes false\nautosave_interval 5\nlog_type error\n"


def bench_cluster() -> AbstractContextManager[Cluster]:
    """A ready cluster without workers for the time of the block."""
    return cluster(broker_configuration=BROKER)


def cpu_s(made: Cluster) -> dict[str, float]:
    """Processor seconds that each part has taken so far: unlike the clock, hardly changed by what else runs here."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = {name: Path(f"/proc/{made.parts[name].pid}/stat").read_text().rpartition(")")[2].split() for name in PARTS}
    return {name: (int(of[11]) + int(of[12])) / ticks for name, of in fields.items()}
