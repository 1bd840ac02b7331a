"""A machine with a worker engine of another generation: the stand-ins' own behaviour, without their threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from cluster.errors import ClusterError
from simulation.broker import Publication
from simulation.client import SimClient, doubling
from simulation.node import SimNode, Surroundings
from simulation.truth import Copies, Copy, End, Slot, mark_of
from standins.engines.containerd import Containerd
from standins.engines.engine import Engine, Timing
from standins.engines.generations import GENERATIONS
from standins.engines.service import Service

RESTART_S = 30.0
KEEPALIVE_S = 30.0
LONGEST_PAUSE_S = 600.0
ONCE = "once"  # the older engines know no one-shots: what has such a name ends by itself


class SimContainerd(Containerd):
    """Tells the truth of what runs."""

    def __init__(self, node: SimEngine, copies: Copies) -> None:
        super().__init__()
        self._node, self._copies = node, copies
        self.copies: dict[str, Copy] = {}

    def start(self, service: Service) -> None:
        """Start a container."""
        super().start(service)
        slot: Slot = (service.name, service.number)
        self.copies[service.container] = self._copies.begin(self._node.name, slot, None, mark_of(service.image))
        if service.name.startswith(ONCE):
            self._node.will_end(service)

    def remove(self, name: str) -> None:
        """Remove a container."""
        super().remove(name)
        self._end(name, self._node.ending or End.COMMANDED)

    def remove_all(self) -> None:
        """What an engine does when it starts."""
        super().remove_all()
        for name in list(self.copies):
            self._end(name, End.REMOVED)

    def _end(self, name: str, how: End) -> None:
        copy = self.copies.pop(name, None)
        if copy is not None:
            self._copies.end(copy, how)


class _Agenda:
    """The engine's thread on virtual time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    def after(self, pause_s: float, function: Callable[[], None]) -> None:
        """Call a function later; nothing is called after `close`."""
        self._loop.call_later(pause_s, self._call, function)

    def close(self) -> None:
        """Drop what is left."""
        self._is_closed = True

    def _call(self, function: Callable[[], None]) -> None:
        if not self._is_closed:
            function()


class _Virtual(Engine):
    """What an engine does with its network and its time."""

    node: SimEngine
    _agenda: Any

    def join(self) -> None:
        """The agenda of a fresh process."""
        self._agenda = _Agenda()

    def connected(self) -> None:
        """What was stored goes out first, in random order."""
        self._is_connected = True
        self._flush()

    def disconnected(self, unacknowledged: list[Publication]) -> None:
        """What the broker has not confirmed is stored."""
        self._is_connected = False
        self._backlog += [(item.topic, item.payload) for item in unacknowledged]

    @property
    def backlog(self) -> list[tuple[str, bytes]]:
        """What is stored."""
        return self._backlog

    def _publish(self, topic: str, payload: bytes) -> None:
        if self.node.client is not None and self._is_connected:
            self.node.client.publish(topic, payload, 1)
        else:
            self._backlog.append((topic, payload))

    def say(self, service: Service, status: str, detail: str = "") -> None:
        """Publish a state."""
        self.node.tell(f"{self.host} says", status, service.container, detail)
        super().say(service, status, detail)

    def on_command(self, verb: str, payload: bytes) -> None:
        """Obey."""
        self.node.tell(f"{self.host} carries out", verb, payload.decode()[:60])
        super().on_command(verb, payload)

    def start_problem(self, service: Service) -> str:
        """Why the container cannot start."""
        return self.node.start_problem() or super().start_problem(service)


_MADE = {
    generation: type(f"SimEngine{generation}", (_Virtual, made), {})
    for generation, made in GENERATIONS.items()
    if generation in ("A", "C")
}


class SimEngine(SimNode):
    """`generation` is A or C."""

    def __init__(self, world: Surroundings, name: str, rng: random.Random, generation: str, cores: int) -> None:
        super().__init__(world, name, rng)
        self.kind = f"engine {generation}"
        self.ending: End | None = None
        facts = {"free_cores": cores} if generation == "A" else {"vcpus": cores}
        timing = Timing(delete_s=rng.uniform(5.0, 10.0), start_s=rng.uniform(0.1, 3.0))
        self.engine: _Virtual = _MADE[generation](0, name, timing=timing, **facts)
        self.engine.node = self
        self.engine.random = rng
        self.engine.containerd = SimContainerd(self, world.copies)

    def tell(self, what: str, *facts: object) -> None:
        """For the story."""
        self._world.story.tell(what, *facts)

    # Life

    def begin(self, *, is_new_boot: bool) -> None:
        """Remove all containers, register once, connect; whatever fails ends the process."""
        self.client = None
        self.engine.reset()
        self.register_until(self._register)

    def ends(self) -> None:
        """Containers go on, what was stored is lost."""
        self.engine.is_up = False
        if self.engine._agenda:
            self.engine._agenda.close()

    def loses_power(self) -> None:
        """Nothing runs any more."""
        self.engine.containerd.containers.clear()
        for copy in self.engine.containerd.copies.values():  # type: ignore[attr-defined]
            self._world.copies.end(copy, End.LOST_POWER)
        self.engine.containerd.copies.clear()  # type: ignore[attr-defined]

    def _exit(self, why: str) -> None:
        """Its service manager starts it again."""
        self.tell(f"{self.name} exits:", why)
        self._registering = None
        self.crash()
        epoch = self._epoch
        self._loop.call_later(RESTART_S, lambda: self.boot() if self._epoch == epoch and self.is_powered else None)

    async def _register(self) -> None:
        try:
            answer = await self._world.register(self, {**self.engine.registration(), **self.engine.facts})
        except ClusterError as error:
            self._exit(error.detail)
            return
        self.node_id = self.engine.id = answer["id"]
        if self.link.is_cut or not self._world.broker.is_up:
            self._exit("the broker does not answer")
            return
        self.engine.join()
        client = self.client = SimClient(
            self._world.broker,
            self.link,
            f"{self.node_id}-ne",
            pauses=lambda: doubling(1.0, LONGEST_PAUSE_S),
            keepalive_s=KEEPALIVE_S,
            timeout_s=30.0,
            is_clean=True,
        )
        client.on_connect = self._connected
        client.on_disconnect = lambda: self.engine.disconnected(client.forget_unacknowledged())
        client.on_message = self._received
        client.start()
        self.engine.begin()

    def _connected(self) -> None:
        assert self.client is not None
        self.engine.connected()
        self.client.subscribe(*((f"nodes/{self.node_id}/control/{verb}", 1) for verb in ("deploy", "delete")))

    def _received(self, publication: Publication) -> None:
        assert self.client is not None
        self.client.acknowledge(publication.mid)
        verb = publication.topic.rpartition("/")[2]
        self.engine.later(0.0, lambda: self.engine.on_command(verb, publication.payload))

    # Workloads

    def start_problem(self) -> str:
        """Why the next container cannot start."""
        return "failed to resolve reference: not found" if self._rng.random() < self.start_failure else ""

    def will_end(self, service: Service) -> None:
        """A one-shot."""
        self._loop.call_later(self._rng.uniform(1.0, 20.0), self._end, service, 0, End.EXITED)

    def fail(self, copy: Copy, code: int) -> None:
        """A container crashes."""
        name = f"{copy.slot[0]}.instance.{copy.slot[1]}"
        service = self.engine.known.get(name)
        if service is not None:
            self._end(service, code, End.CRASHED)

    def _end(self, service: Service, code: int, how: End) -> None:
        if self.is_up and self.engine.known.get(service.container) is service:
            self.ending = how
            self.engine.end(service, code)
            self.ending = None

    @property
    def debts(self) -> str:
        """What is stored."""
        return f"{len(self.engine.backlog)} stored messages" if self.engine.backlog else ""
