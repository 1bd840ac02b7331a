"""The manager without its sockets: the real state, life cycle, leases, observation and dispatcher on virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, cast

from cluster.errors import UnavailableError
from cluster.jobs import JobSpec, OnDisconnect
from cluster.nodes import Registration
from manager.core import Core
from manager.dispatcher import Dispatcher
from manager.domain.aggregate import ClusterState
from manager.domain.effects import Effect, Verb
from manager.domain.events import MovePlanned, PlanRefused
from manager.domain.leases import LeaseRules, judge
from manager.domain.machine import wants_placement
from manager.domain.model import InstanceKey, InstanceState, Node, NodeState, Refusal, Update, UpdatePhase
from manager.domain.observation import came_ready, on_resources, on_state
from manager.domain.policy import Policy, backoff_ms
from manager.domain.reconciliation import Rung, apply_verdict, fenced_nodes, heal, ring
from manager.domain.rolling import MOVING
from manager.jobs import Jobs
from simulation.broker import Broker, Message
from simulation.invariants import check_instance, check_state
from simulation.loop import Loop
from worker.records import DeleteAsked, DeployAsked, Ref

POLICY: Final = Policy(retry_cap_ms=20_000, start_deadline_ms=60_000, pending_cap_ms=10_000, retention_ms=15_000)
TICK_S: Final = 1.0
HEALTH_DEADLINE_MS: Final = 30_000
Records = dict[tuple[str, Any], Any]


class Batch:
    """Changed records on their way to the disk, and who waits for them."""

    def __init__(self) -> None:
        self.records: Records = {}
        self.waiting: list[Callable[[bool], None]] = []


class SimManager:
    """`disk` is what is durable: all that a crash leaves."""

    def __init__(self, loop: Loop, broker: Broker, rng: random.Random) -> None:
        self._loop, self._broker, self._rng = loop, broker, rng
        self.disk: Records = {}
        self.state = ClusterState(POLICY)
        self.is_up = False
        self.is_failing = False
        self.plans_fail = 0.0
        self.wall_skew_s = 0.0
        self.epoch = 0
        self.rules = LeaseRules()
        self.is_checked = True
        self._listening_since: float | None = None

    # Life

    def boot(self) -> None:
        """Start on what is durable."""
        self.epoch += 1
        self.is_up = True
        self._listening_since = None
        self._writing: Batch | None = None
        self._next = Batch()
        self._inbox: list[Message] = []
        self._is_taking = False
        self._to_plan: dict[InstanceKey, None] = {}
        self._refused: dict[InstanceKey, int] = {}
        self._beats: dict[str, float] = {}
        self._view: dict[str, Any] = {}
        self.dispatcher = Dispatcher(self._find_node, lambda: self._loop.now)
        self.dispatcher.commander = self
        self.jobs = Jobs(cast("Core", self), self.now_ms)
        self.state = ClusterState(POLICY)
        self._adopt()
        self._every(TICK_S, self._tick)
        self._every(0.5, self._look_around)
        self._every(0.2, self._plan)
        self._every(2.0, self._acknowledge_leases)

    def crash(self) -> None:
        """`kill -9`; of a write under way nothing, a part or all is durable."""
        self.epoch += 1
        self.is_up = False
        self._broker.disconnect_manager()
        if self._writing:
            self._apply(self._writing, self._rng.randint(0, len(self._writing.records)))

    def _adopt(self) -> None:
        kinds: dict[str, list[Any]] = {"node": [], "job": [], "instance": []}
        for (kind, _), record in self.disk.items():
            kinds[kind].append(record)
        self.state.restore(kinds["node"], kinds["job"], kinds["instance"])
        self.dispatcher.forget_all()
        self._to_plan.clear()
        for instance in list(self.state.instances.values()):
            self._follow_up(instance.key)

    # Saving

    def commit(self, saved: Callable[[bool], None] | None = None) -> None:
        """Save what changed; `saved` is told whether it, and all before it, became durable."""
        dirty = self.state.take_dirty()
        for node_id in dirty.nodes:
            self._next.records["node", node_id] = self.state.nodes.get(node_id)
        for job_id in dirty.jobs:
            self._next.records["job", job_id] = self.state.jobs.get(job_id)
        for key in dirty.instances:
            instance = self.state.instances.get(key)
            self._next.records["instance", key] = instance
            if instance is not None and self.is_checked:
                check_instance(instance)
        if self.is_checked and dirty.instances:
            check_state(self.state)
        if saved:
            self._next.waiting.append(saved)
        if self._writing is None:
            self._write()

    def _write(self) -> None:
        self._writing, self._next = self._next, Batch()
        self._soon(self._rng.random() * 0.05, self._written)

    def _written(self) -> None:
        batch = self._writing
        assert batch is not None
        self._writing = None
        if self.is_failing:
            self._fail(batch)
            return
        self._apply(batch, len(batch.records))
        for waiting in batch.waiting:
            waiting(True)
        for kind, key in batch.records:
            if kind == "instance":
                self._follow_up(key)
        if self._next.records or self._next.waiting:
            self._write()

    def _apply(self, batch: Batch, count: int) -> None:
        for identity, record in list(batch.records.items())[:count]:
            if record is None:
                self.disk.pop(identity, None)
            else:
                self.disk[identity] = record

    def _fail(self, batch: Batch) -> None:
        """Everybody is told; memory is what the disk holds. A part of the write may have got there."""
        self._apply(batch, self._rng.randint(0, len(batch.records)))
        failed, self._next = [*batch.waiting, *self._next.waiting], Batch()
        self._adopt()
        for waiting in failed:
            waiting(False)

    def _follow_up(self, key: InstanceKey) -> None:
        if key not in self.state.instances:
            self.dispatcher.forget(key)
            return
        instance = self.state.instances[key]
        if instance is self.disk.get(("instance", key)):
            self.dispatcher.consider(instance)
            if wants_placement(instance) and (instance.retry_at_ms or 0) <= self.now_ms():
                self._to_plan[key] = None

    # Calls

    def _require_store(self) -> None:
        if not self.is_up or self.is_failing:
            raise UnavailableError("the manager is away")

    def deploy(self, key: InstanceKey, spec: JobSpec, answered: Callable[[bool], None]) -> None:
        """Raises UnavailableError before anything is changed."""
        self._require_store()
        self.state.deploy([(key, spec)], "root", self.now_ms())
        self.commit(answered)

    def delete(self, key: InstanceKey, answered: Callable[[bool], None]) -> None:
        """Raises UnavailableError before anything is changed."""
        self._require_store()
        self.state.delete([key], "root", self.now_ms())
        self.commit(answered)

    def move(self, key: InstanceKey) -> None:
        """Make before break, where the instance runs and another node fits; else nothing happens."""
        self._require_store()
        instance = self.state.instances.get(key)
        if (
            instance is None
            or instance.state is not InstanceState.RUNNING
            or instance.successor
            or instance.spec.one_shot
        ):
            return
        others = [node_id for node_id in self.state.nodes if node_id != instance.node_id]
        targets = [node_id for node_id in others if not self.state.unfit_reason(node_id, instance.spec)]
        if targets:
            now_ms, target = self.now_ms(), self._rng.choice(targets)
            event = MovePlanned(
                actor="operator",
                node_id=target,
                generation=max(instance.generation + 1, now_ms),
                deadline_ms=self.state.first_deadline_ms(target, now_ms),
            )
            self.state.apply(key, event, now_ms)
            self.commit()

    def update(self, job_id: str, spec: JobSpec, *, rolls_back: bool) -> None:
        """A rolling change behind a health gate. Raises ClusterError."""
        self._require_store()
        old = self.jobs.get(job_id).spec
        gate = Update(
            old=old, phase=UpdatePhase.ROLLING, health_deadline_ms=HEALTH_DEADLINE_MS, rollback_on_failure=rolls_back
        )
        self.jobs.update(job_id, spec, gate, "operator")
        self.commit()

    def is_updating(self, job_id: str) -> bool:
        """Whether a rolling change is under way, which may yet bring the old specification back."""
        job = self.state.jobs.get(job_id)
        return job is not None and job.update is not None and job.update.phase in MOVING

    def cordon(self, node_id: str, *, is_cordoned: bool) -> None:
        """Raises UnavailableError before anything is changed."""
        self._require_store()
        self.state.set_cordoned(node_id, is_cordoned, "operator", self.now_ms())
        self.commit()

    def register(self, registration: Registration, answered: Callable[[str], None]) -> None:
        """Raises ClusterError."""
        self._require_store()
        node = self.state.register(registration, self.now_ms(), self._loop.now)
        self.commit(lambda is_saved: answered(node.id) if is_saved else None)

    # Messages

    def _receive(self, message: Message) -> None:
        self._inbox.append(message)
        if not self._is_taking:
            self._is_taking = True
            self._soon(0.0, self._take)

    def _take(self) -> None:
        """Batch after batch: apply, save, acknowledge; while the store fails everything waits here in order."""
        if self.is_failing:
            self._soon(0.5, self._take)
            return
        count = len(self._inbox)
        to_send = [effect for message in self._inbox for effect in self._on_message(message)]

        def saved(is_saved: bool) -> None:
            if is_saved:
                for effect in to_send:
                    self.dispatcher.send_once(effect)
                for message in self._inbox[:count]:
                    self._broker.acknowledge(message)
                del self._inbox[:count]
            self._is_taking = bool(self._inbox)
            if self._is_taking:
                self._soon(0.0, self._take)

        if self.state.dirty or self._writing:
            self.commit(saved)
        else:
            saved(True)

    def _on_message(self, message: Message) -> list[Effect]:
        node = self.state.node_of_topic(message.node_id)
        if node is None:
            return []
        if message.kind == "telemetry":
            self._on_telemetry(node, message.body[1])
        elif message.kind == "will":
            live = self.state.live[node.id]
            live.will_mono_s = self._loop.now
        else:
            react = on_state if message.kind == "state" else on_resources
            return react(self.state, node, message.body, self.now_ms()).stale
        return []

    def _on_telemetry(self, node: Node, beat: float) -> None:
        live = self.state.live[node.id]
        live.heartbeat_mono_s, live.will_mono_s = self._loop.now, None
        self._beats[node.id] = beat
        if node.state is not NodeState.READY:
            came_ready(self.state, node, self.now_ms())
            self.dispatcher.repeat_for(node.id)
            for instance in self.state.instances.values():
                if instance.state is InstanceState.PENDING and instance.is_desired:
                    self._to_plan[instance.key] = None

    def send(self, node: Node, effect: Effect) -> bool:
        """The dispatcher's way to the broker."""
        if not self._broker.is_up or self._listening_since is None:
            return False
        ref = Ref(effect.key.job_id, effect.key.number, effect.generation)
        is_leased = effect.spec.on_disconnect is OnDisconnect.STOP_AFTER
        leased_at = self._beats.get(node.id) if is_leased else None
        event = (
            DeployAsked(ref, effect.spec, leased_at=leased_at)
            if effect.verb is Verb.DEPLOY
            else DeleteAsked(ref, effect.spec)
        )
        self._broker.command(node.id, event)
        return True

    def _find_node(self, node_id: str) -> Node | None:
        return self.state.nodes.get(node_id)

    def _acknowledge_leases(self) -> None:
        for node_id, node in self.state.nodes.items():
            specs = [p.spec for key in self.state.on_node[node_id] for _, p in self.state.instances[key].placements()]
            is_holder = node_id in self._beats and any(s.on_disconnect is OnDisconnect.STOP_AFTER for s in specs)
            silence_s = self._loop.now - (self.state.live[node_id].heartbeat_mono_s or 0.0)
            if (
                is_holder
                and node.state is NodeState.READY
                and silence_s < self.rules.lease_s
                and node_id in self._beats
            ):
                self._broker.command(node_id, self._beats[node_id])

    # Time

    def now_ms(self) -> int:
        """The wall clock."""
        return int((1_700_000_000 + self._loop.now + self.wall_skew_s) * 1000)

    def _tick(self) -> None:
        self._connect()
        if self.is_failing:
            return
        self._judge()
        heal(self.state, self.now_ms())
        for key in [key for key in self.state.instances if self._is_due(key)]:
            if ring(self.state, key, self.now_ms()) is Rung.WANTS_NODE:
                self._to_plan[key] = None
        self.jobs.advance_all()
        self.dispatcher.tick()
        if self.state.dirty:
            self.commit()

    def lose_broker(self) -> None:
        """Nobody is judged while we cannot hear."""
        self._listening_since = None

    def _connect(self) -> None:
        if self._broker.is_up and self._listening_since is None:
            self._listening_since = self._loop.now
            self._broker.connect_manager(self._receive)

    def _judge(self) -> None:
        if self._listening_since is None:
            return
        pairs = [(node, self.state.live[node.id]) for node in self.state.nodes.values()]
        for verdict in judge(pairs, self._loop.now, self._listening_since, self.rules).verdicts:
            apply_verdict(self.state, verdict, self.now_ms())

    def _is_due(self, key: InstanceKey) -> bool:
        instance = self.state.instances[key]
        times = [p.deadline_ms for _, p in instance.placements() if p.deadline_ms is not None]
        if instance.retry_at_ms is not None and wants_placement(instance):
            times.append(instance.retry_at_ms)
        if instance.state is InstanceState.STOPPED:
            times.append(instance.updated_at_ms + POLICY.retention_ms)
        return bool(times) and min(times) <= self.now_ms()

    # Planning, by a scheduler whose view is a little old

    def _look_around(self) -> None:
        self._view = {node_id: self.state.allocated[node_id] for node_id in self.state.nodes}

    def _plan(self) -> None:
        if self.is_failing or not self._to_plan or self._rng.random() < self.plans_fail:
            return
        keys, self._to_plan = list(self._to_plan), {}
        self._soon(self._rng.random() * 0.1, lambda: self._planned(keys))

    def _planned(self, keys: list[InstanceKey]) -> None:
        if self.is_failing:
            self._to_plan.update(dict.fromkeys(keys))
            return
        for key in keys:
            if key in self.state.instances and wants_placement(self.state.instances[key]):
                self._place(key)
        if self.state.dirty:
            self.commit()

    def _place(self, key: InstanceKey) -> None:
        node_id = self._choose(key)
        if node_id:
            if self.state.place(key, node_id, self.now_ms()):
                self._to_plan[key] = None
            self._refused.pop(key, None)
            return
        attempt = self._refused[key] = self._refused.get(key, 0) + 1
        wait_ms = backoff_ms(attempt, POLICY.retry_base_ms, POLICY.pending_cap_ms, str(key))
        refusals = (Refusal(reason="capacity", node_count=len(self.state.nodes)),)
        self.state.apply(key, PlanRefused(refusals=refusals, retry_at_ms=self.now_ms() + wait_ms), self.now_ms())

    def _choose(self, key: InstanceKey) -> str:
        """Any node that would fit on the old view: some plans are refused by the re-check."""
        instance = self.state.instances[key]
        fenced = fenced_nodes(self.state, instance, self.now_ms())
        fitting = [
            node_id
            for node_id, allocated in self._view.items()
            if node_id not in fenced
            and (node := self.state.nodes.get(node_id))
            and node.state is NodeState.READY
            and not node.capacity.fits(instance.spec.demand, allocated)
        ]
        return self._rng.choice(fitting) if fitting else ""

    def _soon(self, delay_s: float, call: Callable[[], None]) -> None:
        epoch = self.epoch
        self._loop.after(delay_s, lambda: call() if self.epoch == epoch else None)

    def _every(self, period_s: float, call: Callable[[], None]) -> None:
        epoch = self.epoch

        def beat() -> None:
            if self.epoch == epoch:
                call()
                self._loop.after(period_s, beat)

        self._loop.after(self._rng.random() * period_s, beat)
