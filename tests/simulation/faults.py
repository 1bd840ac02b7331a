"""What goes wrong: with nodes alone, with several at once, and with what all of them share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from simulation.node import SimNode
from simulation.storage import CALM_S, Weather
from simulation.worker import SimWorker
from simulation.world import World

BOOT_S = 5.0


class Faults:
    """Injects faults that end by themselves; `calm` ends what is left."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._cuts: dict[str, int] = {}
        self._is_over = False

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        self._world.loop.call_later(seconds, function)

    # Nodes

    def cut(self, nodes: Sequence[SimNode], seconds: float, kind: str = "cut") -> None:
        """A partition between machines and everything else."""
        self._world.story.fault(f"{kind} {'several' if len(nodes) > 1 else 'one'}", _names(nodes), f"{seconds:.1f} s")
        for node in nodes:
            self._cut(node)
            self._later(
                seconds + (self._rng.uniform(0.0, 2.0) if len(nodes) > 1 else 0.0), lambda node=node: self._mend(node)
            )

    def _cut(self, node: SimNode) -> None:
        self._cuts[node.name] = self._cuts.get(node.name, 0) + 1
        node.link.cut()
        self._world.timeline.fault_begins(node.name)

    def _mend(self, node: SimNode) -> None:
        if self._cuts.get(node.name, 0) > 0:
            self._cuts[node.name] -= 1
            self._world.timeline.fault_ends(node.name)
            if not self._cuts[node.name]:
                node.link.mend()

    def flap(self, node: SimNode, times: int) -> None:
        """A link that comes and goes, faster or slower than the lease."""
        off_s, on_s = self._rng.uniform(0.5, 14.0), self._rng.uniform(0.5, 8.0)
        self._world.story.fault("flapping node", node.name, f"{times} times {off_s:.1f} s off, {on_s:.1f} s on")

        def turn(left: int) -> None:
            if left and not self._is_over:
                self._cut(node)
                self._later(off_s, lambda: self._mend(node))
                self._later(off_s + on_s, lambda: turn(left - 1))

        turn(times)

    def crash(self, node: SimNode, seconds: float) -> None:
        """`kill -9` of the worker or engine."""
        if node.is_up:
            self._world.story.fault(f"process of {node.kind} killed", node.name, f"{seconds:.1f} s")
            self._world.timeline.fault_begins(node.name, is_crash=True)
            node.crash()
            self._later(seconds, lambda: self._boot(node, is_new_boot=False))

    def power_off(self, nodes: Sequence[SimNode], seconds: float) -> None:
        """Machines lose power."""
        nodes = [node for node in nodes if node.is_powered]
        if nodes:
            self._world.story.fault("power lost", _names(nodes), f"{seconds:.1f} s")
        for node in nodes:
            self._world.timeline.fault_begins(node.name, is_crash=True)
            node.power_off()
            self._later(seconds, lambda node=node: self._boot(node, is_new_boot=True))

    def _boot(self, node: SimNode, *, is_new_boot: bool) -> None:
        self._world.timeline.fault_ends(node.name)
        if not node.is_up and (node.is_powered or is_new_boot):
            node.boot(is_new_boot=not node.is_powered)

    def reinstall(self, node: SimWorker, seconds: float) -> None:
        """A machine gets a new disk."""
        if node.is_powered:
            self.power_off([node], seconds)
            self._world.story.fault("new disk", node.name)
            self._world.timeline.new_disk(node.name)
            node.wipe()

    def fail_workload(self, node: SimNode) -> None:
        """A workload of a machine crashes."""
        running = sorted(node.running(), key=str)
        if running:
            copy = self._rng.choice(running)
            self._world.story.fault("workload crashed", copy)
            self._world.clients.touch(*copy.slot)
            node.fail(copy, 1)

    # What all share

    def crash_broker(self, seconds: float) -> None:
        """The broker dies: every session breaks."""
        broker = self._world.broker
        if broker.is_up:
            self._world.story.fault("broker away", f"{seconds:.1f} s")
            broker.crash()
            self._later(seconds, broker.restart)

    def flap_broker(self, times: int) -> None:
        """The broker comes and goes."""
        for number in range(times):
            self._later(number * 12.0, lambda: self.crash_broker(self._rng.uniform(0.5, 9.0)))

    def kill_manager(self, seconds: float) -> None:
        """`kill -9` of the manager and a new start, on a clock that may be another."""
        manager = self._world.manager
        if manager.is_up:
            self._world.story.fault("manager killed", f"{seconds:.1f} s")
            manager.kill()
            manager.skew_s = self._rng.uniform(-2.0, 2.0)
            self._later(seconds, self._boot_manager)

    def stop_manager(self, seconds: float) -> None:
        """SIGTERM."""
        if self._world.manager.is_serving:
            self._world.story.fault("manager stopped", f"{seconds:.1f} s")
            self._world.clients.spawn(self._stop_manager(seconds))

    async def _stop_manager(self, seconds: float) -> None:
        await self._world.manager.stop()
        self._later(seconds, self._boot_manager)

    def _boot_manager(self) -> None:
        if not self._world.manager.is_up:
            self._world.manager.boot()

    def cut_manager(self, seconds: float) -> None:
        """The manager's way to the broker."""
        link = self._world.manager_link
        if not link.is_cut:
            self._world.story.fault("manager cut off", f"{seconds:.1f} s")
            link.cut()
            self._later(seconds, link.mend)

    def flap_manager(self, times: int) -> None:
        """The manager's way to the broker comes and goes."""
        off_s, on_s = self._rng.uniform(0.5, 9.0), self._rng.uniform(0.5, 6.0)
        for number in range(times):
            self._later(number * (off_s + on_s), lambda: None if self._is_over else self.cut_manager(off_s))

    def set_clock(self, seconds: float) -> None:
        """The machine's clock is put right, or wrong."""
        self._world.story.fault("clock set", f"{seconds:+.1f} s")
        self._world.manager.skew_s += seconds

    def trouble_store(self, seconds: float, **facts: object) -> None:
        """The database in another weather for a while."""
        disk = self._world.disk
        self._world.story.fault(f"store {', '.join(facts)}", *facts.values(), f"{seconds:.1f} s")
        disk.weather = replace(disk.weather, **facts)  # type: ignore[arg-type]
        self._world.store_changed()

        def over() -> None:
            calm = Weather()
            disk.weather = replace(disk.weather, **{name: getattr(calm, name) for name in facts})
            self._world.store_changed()

        self._later(seconds, over)

    def kill_scheduler(self, seconds: float) -> None:
        """`kill -9` of the scheduler."""
        scheduler = self._world.scheduler
        if scheduler.is_up:
            self._world.story.fault("scheduler away", f"{seconds:.1f} s")
            scheduler.kill()
            self._world.scheduler_changed()
            self._later(seconds, self._boot_scheduler)

    def _boot_scheduler(self) -> None:
        if not self._world.scheduler.is_up:
            self._world.scheduler.boot()
            self._world.scheduler_changed()

    def blind_scheduler(self, seconds: float) -> None:
        """The scheduler goes on planning on an old view."""
        self._world.story.fault("scheduler on an old view", f"{seconds:.1f} s")
        stream = self._world.scheduler.stream
        stream.is_cut = True

        def over() -> None:
            stream.is_cut = False
            self._world.scheduler_changed()

        self._later(seconds, over)

    def hang_scheduler(self, seconds: float) -> None:
        """Plans are not answered."""
        self._world.story.fault("scheduler does not answer", f"{seconds:.1f} s")
        channel = self._world.manager.scheduler_channel
        channel.is_cut = True

        def over() -> None:
            channel.is_cut = False
            self._world.scheduler_changed()

        self._later(seconds, over)

    def worsen(self, seconds: float, **facts: float) -> None:
        """A worse network for everybody."""
        quality = self._world.quality
        self._world.story.fault(f"network {', '.join(facts)}", *facts.values(), f"{seconds:.1f} s")
        before = {name: getattr(quality, name) for name in facts}
        for name, value in facts.items():
            setattr(quality, name, value)
        self._world.quality_changed()

        def over() -> None:
            for name, value in before.items():
                setattr(quality, name, value)
            self._world.quality_changed()

        self._later(seconds, over)

    # The end

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        world = self._world
        self._is_over = True
        world.story.tell("calm from here on")
        world.quality.loss, world.quality.duplication, world.quality.delay_s = 0.0, 0.0, 0.05
        world.quality_changed()
        world.disk.weather = Weather(latency_s=CALM_S)
        world.store_changed()
        world.scheduler.stream.is_cut = world.manager.scheduler_channel.is_cut = False
        world.scheduler_changed()
        world.manager_link.mend()
        world.broker.restart()
        self._boot_manager()
        self._boot_scheduler()
        for node in world.nodes.values():
            node.start_failure = 0.0
            while self._cuts.get(node.name, 0):
                self._mend(node)
            node.link.mend()
            self._boot(node, is_new_boot=not node.is_powered)


def _names(nodes: Sequence[SimNode]) -> str:
    return ", ".join(node.name for node in nodes)
