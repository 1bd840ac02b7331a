"""A machine that speaks the documented contract only: four keys, two measures, one command topic.

One that `reports` tells states; one that is mute never does. Its containers are kept over a restart of its process and
started again after a boot, as a container engine's `always` does.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.errors import ClusterError
from cluster.topics import Channel, topic
from simulation.broker import Publication
from simulation.client import SimClient, doubling
from simulation.node import SimNode, Surroundings
from simulation.truth import Copy, End, Slot, mark_of

TELEMETRY_S = 2.0


@dataclass(eq=False)
class Container:
    """What it was told to run; `copy` while it does."""

    job: dict[str, Any]
    slot: Slot
    copy: Copy | None = None
    is_over: bool = False
    owes: str = ""

    @property
    def is_one_shot(self) -> bool:
        """Whether it runs once."""
        return bool(self.job.get("one_shot"))


class SimSeed(SimNode):
    """Obeys deploy, replicate and delete by job and instance number."""

    def __init__(self, world: Surroundings, name: str, rng: random.Random, *, reports: bool) -> None:
        super().__init__(world, name, rng)
        self.reports = reports
        self.kind = "seed" if reports else "mute"
        self._containers: dict[Slot, Container] = {}

    # Life

    def begin(self, *, is_new_boot: bool) -> None:
        """Containers that are not running are started again, and all are told of."""
        self.client = None
        self.register_until(self._register)
        self.every(TELEMETRY_S, self._beat)
        for container in list(self._containers.values()):
            if container.copy is None and not container.is_over:
                self._start(container)

    def ends(self) -> None:
        """Containers go on."""

    def loses_power(self) -> None:
        """Nothing runs any more, and everything will again."""
        for container in self._containers.values():
            if container.copy is not None:
                self._world.copies.end(container.copy, End.LOST_POWER)
                container.copy = None
                if container.is_one_shot:
                    self._finish(container, "DEAD")

    # Membership

    async def _register(self) -> None:
        while True:
            try:
                body = {"id": self.node_id, "name": self.name, "ip": "127.0.0.1", "port": "3000"}
                self.node_id = (await self._world.register(self, body))["id"]
            except ClusterError:
                await asyncio.sleep(self._rng.uniform(1.0, 5.0))
            else:
                break
        self._join()

    def _join(self) -> None:
        self._said: dict[int, tuple[Container, str]] = {}
        client = self.client = SimClient(
            self._world.broker,
            self.link,
            f"{self.node_id}-seed",
            pauses=lambda: doubling(1.0, 8.0),
            keepalive_s=10.0,
        )
        client.on_connect = self._connected
        client.on_message = self._received
        client.on_published = self._published
        client.start()

    def _connected(self) -> None:
        assert self.client is not None
        self.client.subscribe(
            (topic(self.node_id, Channel.CONTROLS), 1), (topic(self.node_id, Channel.CONTROL_ERROR), 1)
        )
        for container in self._containers.values():
            if container.copy is not None:
                self._say(container, "ACTIVE")
            elif container.owes:
                self._finish(container, container.owes)

    def _beat(self) -> None:
        if self.client is not None and self.client.is_connected:
            payload = orjson.dumps({"cpu": 1.0, "memory": 2.0})
            self.client.publish(topic(self.node_id, Channel.INFORMATION), payload, 0)

    def _say(self, container: Container, status: str) -> None:
        if not self.reports or self.client is None:
            return
        container.owes = status
        job = container.job
        body = {"sname": job["name"], "status": status, "status_detail": "", "instance": container.slot[1]}
        self._world.story.tell(f"{self.name} says", status, *container.slot)
        payload = orjson.dumps({**body, "publicip": "127.0.0.1"})
        self._said[self.client.publish(topic(self.node_id, Channel.STATE), payload, 1)] = (container, status)

    def _published(self, mid: int) -> None:
        """The broker has it."""
        container, status = self._said.pop(mid)
        if container.owes == status:
            container.owes = ""

    # Commands

    def _received(self, publication: Publication) -> None:
        assert self.client is not None
        self.client.acknowledge(publication.mid)
        if publication.topic == topic(self.node_id, Channel.CONTROL_ERROR):
            self.client.stop()
            self.register_until(self._register)
            return
        body = orjson.loads(publication.payload)
        job, verb = body["job"], body["command"]
        slot = (job["id"], job["instance_number"])
        self._world.story.tell(f"{self.name} is told", verb, f"{slot[0]}/{slot[1]}")
        if verb in ("deploy", "replicate"):
            self._deploy(slot, job)
        elif verb == "delete":
            self._delete(slot, job)

    def _deploy(self, slot: Slot, job: dict[str, Any]) -> None:
        known = self._containers.get(slot)
        if known is not None and not (known.is_over and self.reports):
            if known.copy is not None:
                self._say(known, "ACTIVE")
            return
        container = self._containers[slot] = Container(job, slot)
        self._start(container)

    def _start(self, container: Container) -> None:
        self.soon(self._rng.uniform(0.05, self.start_s), self._started, container)

    def _started(self, container: Container) -> None:
        if self._containers.get(container.slot) is not container or container.copy is not None:
            return
        job = container.job
        if self._rng.random() < self.start_failure:
            if self.reports:
                self._finish(container, "FAILED")
            else:
                self._start(container)
            return
        container.copy = self._world.copies.begin(self.name, container.slot, None, mark_of(job["image"]))
        if container.is_one_shot:
            self._loop.call_later(self._rng.uniform(1.0, 20.0), self._exit, container, End.EXITED)
        self._say(container, "ACTIVE")

    def _delete(self, slot: Slot, job: dict[str, Any]) -> None:
        container = self._containers.pop(slot, None) or Container(job, slot)

        def gone() -> None:
            if container.copy is not None:
                self._world.copies.end(container.copy, End.COMMANDED)
                container.copy = None
            if self.is_up:
                self._say(container, "UNDEPLOYED")

        self._loop.call_later(self._rng.uniform(0.05, 2.0), gone)

    # Ends

    def fail(self, copy: Copy, code: int) -> None:
        """A container crashes; where nobody is told, its engine starts it again."""
        container = self._containers.get(copy.slot)
        if container is None or container.copy is not copy:
            return
        if self.reports:
            self._exit(container, End.CRASHED)
        else:
            self._world.copies.end(copy, End.CRASHED)
            container.copy = None
            if self.is_up:
                self._start(container)

    def _exit(self, container: Container, how: End) -> None:
        if container.copy is None:
            return
        self._world.copies.end(container.copy, how)
        container.copy = None
        self._finish(container, "COMPLETED" if how is End.EXITED else "DEAD")

    def _finish(self, container: Container, status: str) -> None:
        container.is_over, container.owes = True, status
        if self.is_up:
            self._say(container, status)

    @property
    def debts(self) -> str:
        """States that the broker does not have yet."""
        return f"{len(self.client.unacknowledged)} states" if self.client and self.client.unacknowledged else ""
