"""Restarts of root, broker and manager for a long time: in the end the root believes what runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from standins.roots.data import Service
from standins.roots.r1 import R1
from standins.roots.r3 import R2, R3
from standins.roots.root import Root
from testbed.attached import NAME, attached_with_node, link
from testbed.cluster import Cluster
from testbed.scripted_node import WorkerNode
from testbed.waiting import wait_until


@dataclass
class Soak:
    """One cluster below one root, and what the root ordered of it; orders that got no 200 may be lost."""

    root: Root
    running: Cluster
    node: WorkerNode
    dice: random.Random
    wanted: dict[tuple[str, int], Service] = field(default_factory=dict)
    unsure: set[tuple[str, int]] = field(default_factory=set)

    def step(self) -> None:
        """Something happens."""
        actions: list[Callable[[], None]] = [self.deploy] * 4 + [self.undeploy] * 2
        actions += [self.root.restart, self.restart_manager, self.restart_broker, self.root_away]
        self.dice.choice(actions)()
        time.sleep(self.dice.uniform(0.2, 1.5))

    def deploy(self) -> None:
        """The root orders an instance of a new or a known service."""
        services = list(self.root.data.services.values())
        is_new = not services or self.dice.random() < 0.5
        name = f"s{len(services)}"
        service = self.root.data.add_service(name, "local/busybox:1") if is_new else self.dice.choice(services)
        number = service.next_number
        try:
            self.root.deploy(service)
        except AssertionError:
            self.unsure.add((service.id, number))
        self.wanted[service.id, number] = service

    def undeploy(self) -> None:
        """The root orders an instance deleted."""
        if self.wanted:
            key = self.dice.choice(sorted(self.wanted))
            service = self.wanted.pop(key)
            if self.root.undeploy(service, key[1]) != 200:
                self.unsure.add(key)

    def restart_manager(self) -> None:
        """`kill -9` and start."""
        self.running.kill("manager")
        self.running.start_part("manager")

    def restart_broker(self) -> None:
        """`kill -9` and start."""
        self.running.kill("broker")
        self.running.start_part("broker")

    def root_away(self) -> None:
        """The root is gone for a while."""
        self.root.stop()
        time.sleep(self.dice.uniform(0.5, 3))
        self.root.start()

    def differences(self) -> list[str]:
        """Where root and node disagree about what was surely ordered."""
        found = [
            f"{key} is believed {self.root.status_of(service, key[1])!r}, runs: {key in self.node.running}"
            for key, service in self.wanted.items()
            if key not in self.unsure
            and (self.root.status_of(service, key[1]) != "RUNNING" or key not in self.node.running)
        ]
        surplus = self.node.running.keys() - self.wanted.keys() - self.unsure
        return found + [f"{key} runs and was deleted" for key in surplus]


def _soak(root: Root, seconds: float, seed: int) -> None:
    with attached_with_node(root) as (running, node):
        soak = Soak(root, running, node, random.Random(seed))
        if isinstance(root, R2):
            soak.deploy()  # shows the era
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            soak.step()
        running.wait_until_ready()
        wait_until(lambda: link(running)["connected_to_root"], timeout=60, what="attached in the end")
        wait_until(
            lambda: not soak.differences(), timeout=60, what=f"no differences; seed {seed}: {soak.differences()}"
        )
        assert root.data.faults == []
        assert [cluster.name for cluster in root.data.clusters.values()] == [NAME]
        assert max(len(str(report)) for report in root.data.reports) < 200_000


@pytest.mark.parametrize("make", [R1, R2, R3])
def test_restarts_for_a_short_time(make: Callable[[], Root]) -> None:
    """Restarts of every part in any order leave root and cluster of one opinion."""
    _soak(make(), seconds=20, seed=7)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [R1, R2, R3])
def test_root_soak(make: Callable[[], Root]) -> None:
    """The same for ten minutes, shared by the generations."""
    _soak(make(), seconds=200, seed=int(time.time()))
