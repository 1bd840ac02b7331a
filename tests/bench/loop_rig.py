"""What the loop of a manager does in one go, each as a closure over a large cluster at rest.

`operations` is the table: when a step moves or takes other arguments, its row is pointed at the new place. Rows leave
the cluster as they found it, so that they can be repeated.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.residents import Residents
from structlog.testing import capture_logs

from cluster.payloads import parse_resources
from cluster.v1 import manager_pb2
from manager.core import Core, now_ms
from manager.dispatcher import Dispatcher
from manager.domain.effects import Effect
from manager.domain.engines import exclusions
from manager.domain.leases import LeaseRules, judge
from manager.domain.model import (
    Instance,
    InstanceKey,
    InstanceState,
    Node,
    NodeState,
    Setting,
    Update,
    UpdatePhase,
)
from manager.domain.observation import came_ready, on_resources
from manager.domain.policy import Policy
from manager.domain.reconciliation import heal
from manager.domain.rolling import step
from manager.domain.roots import Era, LinkState
from manager.metrics import CoreCollector
from manager.mqtt.leases import _holders
from manager.root.reporter import Reporter
from manager.roots import Roots
from manager.rpc.reading import Reader
from manager.store.factory import make_store
from testbed.full_store import WAITING_JOB, WIDE_JOB, Layout, contents
from testbed.stores import sqlite_url

PENDING: Final = 1_000
_REFRESH_S: Final = 60.0
Operation = Callable[[], object]


def layout_of(nodes: int) -> Layout:
    """Some nodes are engines, some jobs have `stop_after`, and 1,000 instances wait for a node."""
    return Layout(nodes=nodes, pending=PENDING, engine_every=10, stop_after_every=10)


def operations(rig: Rig) -> dict[str, Operation]:
    """Each step by its name."""
    return {
        "judge all leases": rig.judge,
        "heal": lambda: heal(rig.core.state, now_ms()),
        "retry_pending, 1,000 pending": rig.retry_pending,
        "alarms, none due": lambda: rig.core.due_alarms(now_ms()),
        "lease holders": lambda: _holders(rig.core),
        "a page of instances in the middle": lambda: rig.reader.instances(rig.middle_page),
        "exclusions for an engine-doubtful name": lambda: exclusions(rig.core.state, rig.doubtful),
        "due to the root, nothing new": rig.reporter.due,
        "a tick of the dispatcher, one command per node outstanding": rig.dispatcher.tick,
        "repeat for one node": lambda: rig.dispatcher.repeat_for(rig.node.id),
        "a node comes back": rig.comes_back,
        "a step of an update, one instance per node": lambda: step(rig.rolling, rig.wide, now_ms()),
        "status": lambda: rig.reader.status([], "cluster"),
        "metrics": lambda: CoreCollector(rig.core).collect(),
        "one inventory of 10": rig.inventory,
        "a full garbage collection": gc.collect,
        "adopt": rig.adopt,
    }


class _Taker:
    """A broker that takes every command."""

    def send(self, node: Node, effect: Effect) -> bool:
        return True


class Rig:
    """A core that holds a layout, every node heard just now, the root told of everything; `close` it."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self._store = make_store(sqlite_url(folder))
        self._contents = replace(contents(layout), settings=(Setting(name="cluster_id", value="c" * 24, version=1),))
        self.core = Core(self._store, Policy())
        self.adopt()
        state = self.core.state
        self.node = state.nodes[layout.node_id(layout.nodes // 2 + 1)]
        for live in state.live.values():
            live.heartbeat_mono_s = time.monotonic()
        self._listening_since_mono_s = time.monotonic() - 3600
        self.reader = Reader(self.core)
        self.reporter = self._reporter()
        self.wide = [state.instances[InstanceKey(WIDE_JOB, node)] for node in range(layout.nodes)]
        self.dispatcher = self._dispatcher()
        self.rolling = replace(state.jobs[WIDE_JOB], update=Update(old=self.wide[0].spec, phase=UpdatePhase.ROLLING))
        token = str(layout.keys_on(layout.nodes // 2)[1])
        self.middle_page = manager_pb2.ListInstancesRequest(page_size=100, page_token=token)
        waiting = state.instances[InstanceKey(WAITING_JOB, 0)]
        self.doubtful = replace(waiting, spec=replace(waiting.spec, name="a" * 70))
        self._inventory = Residents(layout).inventory(layout.nodes // 2 + 1)

    def judge(self) -> None:
        """As the tick does."""
        state = self.core.state
        pairs = [(node, state.live[node.id]) for node in state.nodes.values()]
        now_mono_s = self._listening_since_mono_s + 3600
        if judge(pairs, now_mono_s, self._listening_since_mono_s, LeaseRules(lease_s=3600)).verdicts:
            raise RuntimeError("nodes that were heard just now were judged")

    def retry_pending(self) -> None:
        """As whenever something changes for the better."""
        self.core.retry_pending()
        if len(self.core.to_plan) != PENDING:
            raise RuntimeError(f"{len(self.core.to_plan)} instances are to be planned")
        self.core.to_plan.clear()

    def comes_back(self) -> None:
        """As the intake does at the first message of a node that was silent."""
        state = self.core.state
        silent = replace(state.nodes[self.node.id], state=NodeState.SUSPECT, events=())
        state.put_node(silent)
        came_ready(state, silent, now_ms())
        self.dispatcher.repeat_for(self.node.id)
        self.retry_pending()
        state.take_dirty()
        state.dirty_views.clear()

    def inventory(self) -> None:
        """As the intake does with one that holds no news."""
        on_resources(self.core.state, self.node, parse_resources(self._inventory), now_ms())
        if self.core.state.dirty:
            raise RuntimeError("an inventory without news changed something")

    def adopt(self) -> None:
        """As at the start, and after each failure of the store."""
        with capture_logs():
            self.core.adopt(self._contents)
        self.core.to_plan.clear()

    def close(self) -> None:
        """Give the store back."""
        self._store.close()

    def _reporter(self) -> Reporter:
        roots = Roots(self.core)
        with capture_logs():
            roots.stand(state=LinkState.ATTACHED, era=Era.R3, cluster_id="c" * 24)
        reporter = Reporter(self.core, roots, _REFRESH_S)
        reporter.ledger.acknowledge(self.core.state.instances.values(), time.monotonic() + 3600)
        return reporter

    def _dispatcher(self) -> Dispatcher:
        """One whose clock stands still, so that nothing falls due."""
        dispatcher = Dispatcher(self.core.find_node, clock=lambda: 0.0)
        dispatcher.commander = _Taker()
        for instance in self.wide:
            dispatcher.consider(_scheduled(instance))
        return dispatcher


def _scheduled(instance: Instance) -> Instance:
    current: Any = instance.current
    return replace(instance, current=replace(current, state=InstanceState.SCHEDULED), state=InstanceState.SCHEDULED)
