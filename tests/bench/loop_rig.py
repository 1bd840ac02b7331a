"""What the loop of a manager does in one go, each as a step over a large cluster at rest.

`steps` is the table: when a step moves or takes other arguments, its row is pointed at the new place. What a step
changed is taken back before the next one, as a store that refuses it would.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from bench.flood import PAYLOAD
from bench.loop_parts import Chooser, Held, Inline, Taker, driven, pieces
from bench.residents import Residents
from structlog.testing import capture_logs

from cluster.convert import spec_to_proto
from cluster.errors import UnavailableError
from cluster.topics import Channel
from cluster.v1 import instance_pb2, manager_pb2, node_pb2
from manager.backlog import MAX_BATCH
from manager.core import Core
from manager.detector import INSTANCES_AT_ONCE, Detector
from manager.dispatcher import Dispatcher
from manager.domain.engines import exclusions
from manager.domain.events import DeployRequested
from manager.domain.leases import LeaseRules
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState, Setting, Update, UpdatePhase
from manager.domain.policy import Policy
from manager.domain.roots import Era, LinkState
from manager.figures import Gauge
from manager.jobs import Jobs
from manager.metrics import CoreCollector
from manager.mqtt import intake, leases
from manager.mqtt.inbox import Incoming
from manager.mqtt.intake import Intake
from manager.planning import BATCH, Planning
from manager.portions import PORTION
from manager.ports import Kind
from manager.root.backlog import Backlog
from manager.root.portion import MAX_INSTANCES
from manager.roots import Roots
from manager.rpc import watch
from manager.rpc.checks import MAX_BATCH as MAX_CALL
from manager.rpc.reading import Reader
from manager.rpc.servicer import ManagerServicer
from testbed.full_store import WAITING_JOB, WIDE_JOB, Layout, contents

PENDING: Final = 1_000
_REFRESH_S: Final = 60.0
_HOUR_S: Final = 3600.0


def layout_of(nodes: int) -> Layout:
    """Some nodes are engines, some jobs have `stop_after`, and 1,000 instances wait for a node."""
    return Layout(nodes=nodes, pending=PENDING, engine_every=10, stop_after_every=10)


@dataclass(frozen=True)
class Step:
    """`do` is measured, of a coroutine the longest piece; `prepare` goes before it each time.

    `waits`: at its end it waits until what it did is saved.
    """

    do: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    waits: bool = False


def steps(rig: Rig) -> dict[str, Step]:
    """Each step by its name."""
    core, reader = rig.core, rig.reader
    return {
        "judge, nobody is due": Step(rig.detector.sweep),
        "judge, everybody is due": Step(rig.detector.sweep, lambda: rig.look(core.state.nodes)),
        "lose a portion": Step(rig.detector._lose_portion, rig.give_up, waits=True),
        "look for room, 1,000 wait": Step(rig.look_for_room),
        "settle a plan of 500": Step(lambda: rig.planning._plan(rig.planning._next_requests()), rig.want),
        "alarms, none due": Step(lambda: core.due_alarms(core.now_ms(), 200)),
        "leases to a portion of nodes": Step(rig.acknowledge),
        "a page of instances in the middle": Step(lambda: reader.instances(rig.middle_page)),
        "a page of nodes that are late": Step(lambda: reader.nodes(rig.late_page)),
        "exclusions for an engine-doubtful name": Step(lambda: exclusions(core.state, rig.doubtful)),
        "due to the root, nothing new": Step(lambda: rig.backlog.has_more(time.monotonic())),
        "what the root has to hear, all changed": Step(rig.backlog.absorb, rig.backlog._hear_all),
        "a portion for the root": Step(rig.tell_root, rig.change_for_root),
        "a tick of the dispatcher, one command per node outstanding": Step(rig.dispatcher.tick),
        "repeat for one node": Step(lambda: rig.dispatcher.repeat_for(rig.node.id)),
        "a late node is heard": Step(rig.hear, lambda: core.state.doubt(rig.node.id, "late")),
        "a lost node comes back": Step(rig.hear, rig.lose),
        "a step of an update, one instance per node": Step(lambda: rig.jobs.advance(WIDE_JOB), rig.roll),
        "status": Step(lambda: reader.status([], "cluster")),
        "figures for metrics": Step(rig.gauge._count),
        "a batch of telemetry": Step(lambda: rig.intake._take_telemetry(rig.telemetry)),
        "a batch of inventories of 10": Step(lambda: rig.intake._take_others(rig.inventories)),
        "views of a portion of nodes": Step(lambda: watch._deltas(core, reader, rig.some_nodes)),
        "a write of 500 is answered": Step(core.writer._write_next, rig.change),
        "deploy 10,000": Step(lambda: rig.servicer.DeployInstances(rig.deploy_all, None), waits=True),
        "scale a job on every node to none": Step(lambda: rig.servicer.ReplicateJob(rig.to_none, None), waits=True),
        "delete a job on every node": Step(lambda: rig.servicer.DeleteInstances(rig.delete_wide, None), waits=True),
        "a write of 10,000 is answered": Step(core.writer._write_next, rig.deploy_many),
        "10,000 that were not saved are taken back": Step(rig.undo, rig.deploy_many),
        "a job on every node, with its instances": Step(
            lambda: reader.get_job(manager_pb2.GetJobRequest(job=WIDE_JOB))
        ),
        "a page of jobs": Step(lambda: reader.jobs(manager_pb2.ListJobsRequest(page_size=100))),
        "a portion of follow-ups": Step(core._follow_portion, lambda: core._followed.extend(rig.some_keys[:PORTION])),
        "a full garbage collection": Step(gc.collect),
        "take over what is saved": Step(rig.take_over),
    }


class Rig:
    """A core that holds a layout, every node heard just now, the root told of everything."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._contents = replace(contents(layout), settings=(Setting(name="cluster_id", value="c" * 24, version=1),))
        self.core = self.take_over()
        self._build()
        self._hear_all()
        state, middle = self.core.state, layout.nodes // 2 + 1
        self.node = state.nodes[layout.node_id(middle)]
        self.wide = [state.instances[InstanceKey(WIDE_JOB, node)] for node in range(layout.nodes)]
        self.dispatcher = self._dispatcher()
        token = str(layout.keys_on(middle - 1)[1])
        self.middle_page = manager_pb2.ListInstancesRequest(page_size=100, page_token=token)
        self.late_page = manager_pb2.ListNodesRequest(states=[node_pb2.NODE_STATE_SUSPECT], page_size=100)
        waiting = state.instances[InstanceKey(WAITING_JOB, 0)]
        self.doubtful = replace(waiting, spec=replace(waiting.spec, name="a" * 70))
        self.some_nodes = list(state.nodes)[: watch.CHUNK]
        self.some_keys = list(state.instances)[:MAX_BATCH]
        self._lay_messages()
        self._lay_calls()

    def _build(self) -> None:
        core, taker = self.core, Taker()
        self.broker = taker
        core.dispatcher.commander = taker
        self.reader, self.jobs, self.gauge = Reader(core), Jobs(core), Gauge(core)
        self.collector = CoreCollector(core, self.gauge)
        self.detector = Detector(core)
        self.intake = Intake(core, taker, self.detector)
        self.planning = Planning(core, Chooser(self._layout.node_id(1)))
        self.backlog = self._backlog()
        nobody: Any = None
        self.servicer: Any = ManagerServicer(core, nobody, nobody, self.jobs, self.detector, "cluster", list)
        self.undo()

    def _hear_all(self) -> None:
        """All were heard just now, and nobody is due for an hour."""
        core, now_s = self.core, time.monotonic()
        core.leases.rules = LeaseRules(lease_s=_HOUR_S)
        core.hearing.echoed(now_s)
        for node_id in core.state.nodes:
            core.hearing.heard(node_id, now_s)
        while self.detector.sweep():
            pass

    def _lay_messages(self) -> None:
        residents, now_s = Residents(self._layout), time.monotonic()
        numbers = [number % self._layout.nodes for number in range(intake.BATCH)]
        ids = [self._layout.node_id(number) for number in numbers]
        self.telemetry = [Incoming(node_id, Channel.INFORMATION, PAYLOAD, now_s, 0, 0) for node_id in ids]
        self.inventories = [
            Incoming(node_id, Channel.RESOURCES, residents.inventory(number), now_s, 0, 0)
            for number, node_id in zip(numbers, ids, strict=True)
            if not self.core.state.nodes[node_id].registration.dialect.is_engine
        ]

    def _lay_calls(self) -> None:
        everything = manager_pb2.DeployInstancesRequest(specs=[spec_to_proto(self._layout.spec(WIDE_JOB))])
        for number in range(MAX_CALL):
            everything.deployments.add(key=instance_pb2.InstanceKey(job_id="m" * 24, number=number))
        self.deploy_all = everything
        self.to_none = manager_pb2.ReplicateJobRequest(job_id=WIDE_JOB)
        all_of_it = instance_pb2.InstanceKey(job_id=WIDE_JOB, number=-1)
        self.delete_wide = manager_pb2.DeleteInstancesRequest(keys=[all_of_it])

    def undo(self) -> None:
        """Whatever was changed since the last write is taken back."""
        core, writer = self.core, self.core.writer
        core.commit()
        writer._revert(writer._backlog.refuse_all(UnavailableError("it was only a measurement")))
        core.to_plan.clear()
        core._followed.clear()

    # What goes before a step

    def look(self, node_ids: Iterable[str]) -> None:
        """The leases of these nodes are due."""
        for node_id in node_ids:
            self.core.leases.look(node_id)

    def give_up(self) -> None:
        """As many nodes as hold a portion of instances are lost."""
        count = INSTANCES_AT_ONCE // self._layout.per_node
        self.detector._lost.clear()
        for node_id in list(self.core.state.nodes)[:count]:
            self.core.state.set_node_state(node_id, NodeState.DOWN, "lost", self.core.now_ms())
            self.detector._lost.append(node_id)

    def want(self) -> None:
        """A batch of instances is to be planned."""
        for number in range(BATCH):
            self.core.want_plan(InstanceKey(WAITING_JOB, number))

    def lose(self) -> None:
        """A node was given up."""
        self.core.state.set_node_state(self.node.id, NodeState.DOWN, "lost", self.core.now_ms())
        self.detector._lost.append(self.node.id)
        list(pieces(self.detector._lose_portion(), waits=True))

    def roll(self) -> None:
        """An update of the job that is everywhere has begun."""
        state, old = self.core.state, self.wide[0].spec
        update = Update(old=old, phase=UpdatePhase.ROLLING, batch_size=1)
        state.put_job(replace(state.jobs[WIDE_JOB], spec=replace(old, image="demo/web:2.0"), update=update))

    def change(self) -> None:
        """As many instances as one write takes were changed."""
        for key in self.some_keys:
            event = DeployRequested(actor="operator", spec=self._layout.spec(key.job_id))
            instance = self.core.state.apply(key, event, self.core.now_ms())
            self.core.state.put(replace(instance, detail="changed"))
        self.core.commit()

    def deploy_many(self) -> None:
        """As many new instances as one call may ask for are on their way to the store; those of last time are gone."""
        state, saved = self.core.state, self.core.saved_records
        for key in [InstanceKey("m" * 24, number) for number in state.of_job.get("m" * 24, ())]:
            saved.put((Kind.INSTANCE, str(key)), None)
            state.revert_instance(key, None)
        list(pieces(self.servicer.DeployInstances(self.deploy_all, None), waits=True))

    # Steps

    def look_for_room(self) -> None:
        """As whenever something changes for the better."""
        self.core.look_for_room()
        if not self.planning._next_requests():
            raise RuntimeError("nothing was looked for")

    def acknowledge(self) -> None:
        """As the lease loop does in one go."""
        for node_id in list(self.core.state.leased)[: leases.AT_ONCE]:
            leases._acknowledge(self.core, self.broker, node_id, _HOUR_S)

    def hear(self) -> None:
        """As the intake does at the first message of a node that was missed."""
        self.detector.heard(self.core.state.nodes[self.node.id])
        self.core.commit()

    def take_over(self) -> Core:
        """As at the start."""
        core = Core(Held(self._contents), Policy(), runner=Inline())
        with capture_logs():
            driven(core.open())
        return core

    def change_for_root(self) -> None:
        """The root was told nothing of the instances of a few nodes."""
        for key in self.some_keys:
            self.backlog.ledger.drop(key)
            self.backlog.ledger._changed[key] = None

    def tell_root(self) -> None:
        """As for one report."""
        portion = self.backlog.next_portion(time.monotonic(), MAX_INSTANCES)
        if not portion.told or not self.backlog.jobs(portion):
            raise RuntimeError("nothing was told")

    def _backlog(self) -> Backlog:
        roots = Roots(self.core)
        with capture_logs():
            roots.stand(state=LinkState.ATTACHED, era=Era.R3, cluster_id="c" * 24)
        backlog = Backlog(self.core, roots, _REFRESH_S)
        driven(backlog.absorb())
        saved = self.core.saved_records.instances
        for instance in saved.values():
            backlog.ledger.acknowledge(instance, saved, time.monotonic() + _HOUR_S)
        return backlog

    def _dispatcher(self) -> Dispatcher:
        """One whose clock stands still, so that nothing falls due."""
        dispatcher = Dispatcher(self.core.find_node, self.core.state.is_ready, clock=lambda: 0.0)
        dispatcher.commander = self.broker
        for instance in self.wide:
            dispatcher.consider(_scheduled(instance))
        return dispatcher


def _scheduled(instance: Instance) -> Instance:
    current: Any = instance.current
    return replace(instance, current=replace(current, state=InstanceState.SCHEDULED), state=InstanceState.SCHEDULED)
