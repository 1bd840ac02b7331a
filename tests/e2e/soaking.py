"""Random outages of every part of a whole cluster, orders meanwhile, and the proof that nothing healthy was touched."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from standins.engines.scene import RUN, SETTINGS, Scene
from testbed.cable import Cable, cable
from testbed.cluster import cluster
from testbed.operating import HELLO, copies_of
from testbed.scripted_node import Key
from testbed.waiting import ConditionNotMetError, wait_until

POLICY: Final = {**SETTINGS, "LEASE_S": "10", "GRACE_S": "5", "WILL_GRACE_S": "30", "MASS_EXPIRY_COUNT": "2"}
WORKERS: Final = ("edge-0", "edge-1", "edge-2")
ENGINES: Final = "AACC"
ALONE_S: Final = 5.0  # a node that is away alone for longer than lease and grace is replaced, and rightly
Seen = Mapping[Key, Hashable]


def touched(before: Seen, after: Seen) -> list[str]:
    """Which of the copies of before are not the same one any more."""
    return [f"{key}: {copy} became {after.get(key)}" for key, copy in before.items() if after.get(key) != copy]


class Soak:
    """A cluster of workers and engines, its dice, and what was ordered of it and acknowledged."""

    def __init__(self, stage: Scene, wires: dict[str, Cable], seed: int, longest_s: float) -> None:
        self.stage, self.made, self.wires = stage, stage.cluster, wires
        self.dice, self.order_dice = random.Random(seed), random.Random(seed + 1)  # each has a thread of its own
        self.longest_s = longest_s
        self.count = 0
        self.wanted: set[str] = set()
        self.outages: Counter[str] = Counter()
        self.violations: list[str] = []
        self.known: Seen = {}

    def order(self) -> None:
        """Deploy one more service, and at times delete one, until acknowledged."""
        self.count += 1
        job_id = f"{self.count:024x}"
        document = RUN if self.count % 2 else {**HELLO, "stop_grace_s": 1}
        body = {"job_name": f"app.test.s{self.count}.test", **document}
        assert self.made.http.insist("POST", f"/api/service/{job_id}/0", body).status == 200
        self.wanted.add(job_id)
        if len(self.wanted) > 10:
            gone = self.order_dice.choice(sorted(self.wanted))
            assert self.made.http.insist("DELETE", f"/api/service/{gone}/0").status == 200
            self.wanted.remove(gone)

    def seen(self) -> dict[Key, Hashable]:
        """Every copy that really runs, and what tells it from another one; one that runs twice is seen as such."""
        found: dict[Key, list[Hashable]] = {}
        for copy in copies_of(self.made):
            found.setdefault(copy.key, []).append(copy)
        for host, engine in self.stage.engines.items():
            with engine.containerd.lock:
                for item in engine.containerd.containers.values():
                    number = int(item.service.name.split(".")[2][1:])
                    found.setdefault((f"{number:024x}", 0), []).append((host, id(item)))
        return {key: copies[0] if len(copies) == 1 else tuple(copies) for key, copies in found.items()}

    def settle(self) -> None:
        """Wait until nodes are READY, and nodes and listing show exactly what was acknowledged."""
        self.made.wait_until_ready()
        for name in (*WORKERS, *self.stage.engines):
            self.made.wait_until_node_is(name, "READY")
        wait_until(lambda: not self.differences(), 120.0, 0.5, "what was acknowledged runs")

    def differences(self) -> list[str]:
        """How what runs and what is shown differ from what was acknowledged."""
        there = {key[0] for key in self.seen()}
        shown = {item["job_id"]: item["state"] for item in self.made.http.instances()}
        found = [f"{job_id} runs: {job_id in there}" for job_id in sorted(there ^ self.wanted)]
        found += [f"{key} runs twice" for key, copy in self.seen().items() if type(copy) is tuple and len(copy) > 2]
        running = {job_id for job_id, state in shown.items() if state == "RUNNING"}
        return found + [f"{job_id} is {shown.get(job_id)}" for job_id in sorted(running ^ self.wanted)]

    def round(self) -> None:
        """One outage with orders amid it; what ran before, but for what was deleted, must be the same copies after."""
        before = self.known
        outage = self.dice.choice(self.kinds())
        name = outage.__name__
        self.outages[name] += 1
        print(f"soak: outage {self.outages.total()}, {name}; {len(before)} copies run", flush=True)
        with ThreadPoolExecutor(2) as pool:
            ordered, broken = pool.submit(self.order), pool.submit(outage)
            broken.result()
            ordered.result()
        try:
            self.settle()
        except ConditionNotMetError as error:
            self.violations.append(f"after {name}: {error}: {self.differences()}")
        kept = {key: copy for key, copy in before.items() if key[0] in self.wanted}
        self.known = self.seen()
        self.violations += [f"after {name}: {text}" for text in touched(kept, self.known)]

    def kinds(self) -> list[Callable[[], None]]:
        """Everything that can fail."""
        side = [self.broker, self.manager, self.scheduler, self.gateway, self.store, self.whole_side]
        return [*side, self.link, self.several_links, self.worker_process, self.engine_connection]

    def broker(self) -> None:
        """Away for a while."""
        self._parts("broker")

    def manager(self) -> None:
        """Away for a while."""
        self._parts("manager")

    def scheduler(self) -> None:
        """Away for a while."""
        self._parts("scheduler")

    def gateway(self) -> None:
        """Away for a while."""
        self._parts("gateway")

    def whole_side(self) -> None:
        """All of the manager's side, back in any order."""
        self._parts("broker", "manager", "scheduler", "gateway")

    def store(self) -> None:
        """Another program holds the database locked."""
        with contextlib.closing(sqlite3.connect(self.made.folder / "cluster.db", isolation_level=None)) as thief:
            thief.execute("PRAGMA busy_timeout=10000")
            thief.execute("BEGIN EXCLUSIVE")
            self._pause(self.longest_s)
            thief.execute("ROLLBACK")

    def link(self) -> None:
        """One worker is cut off, for less than lease and grace."""
        self._cut([self.dice.choice(WORKERS)], min(ALONE_S, self.longest_s))

    def several_links(self) -> None:
        """All our workers are cut off at once, for any time up to the bound."""
        self._cut(list(WORKERS), self.longest_s)

    def worker_process(self) -> None:
        """`kill -9` of a worker's process, its workloads living on."""
        name = self.dice.choice(WORKERS)
        self.made.kill(name)
        self._pause(min(ALONE_S, self.longest_s))
        self.made.start_part(name)

    def engine_connection(self) -> None:
        """An engine's connection breaks."""
        self.stage.engines[self.dice.choice(sorted(self.stage.engines))].break_connection()

    def _parts(self, *parts: str) -> None:
        for part in parts:
            self.made.kill(part)
        self._pause(self.longest_s)
        for part in self.dice.sample(parts, len(parts)):
            self.made.start_part(part)

    def _cut(self, names: list[str], longest_s: float) -> None:
        for name in names:
            self.wires[name].pull()
        self._pause(longest_s)
        for name in names:
            self.wires[name].plug()

    def _pause(self, longest_s: float) -> None:
        time.sleep(self.dice.uniform(0.5, longest_s))


@contextlib.contextmanager
def soaking(seed: int, longest_s: float, **settings: Any) -> Iterator[Soak]:
    """A cluster of three workers behind cables and four engines, with services that run."""
    with cluster(**{**POLICY, **settings}) as made, contextlib.ExitStack() as stack:
        wires = {name: stack.enter_context(cable(made.ports["broker"])) for name in WORKERS}
        for name, wire in wires.items():
            made.add_worker(name, MQTT_BROKER_PORT=str(wire.port), WORKER_TECHNOLOGIES="wasm")
        stage = Scene(made)
        try:
            for generation in ENGINES:
                stage.add(generation)
            soak = Soak(stage, wires, seed, longest_s)
            for _ in range(8):
                soak.order()
            soak.settle()
            soak.known = soak.seen()
            yield soak
        finally:
            for engine in stage.engines.values():
                engine.sigkill()


def soak_for(seconds: float, seed: int, longest_s: float) -> Soak:
    """Outages one after the other for that time; tells each, and a summary."""
    print(f"soak: {seconds:g} s, SOAK_SEED={seed}", flush=True)
    with soaking(seed, longest_s) as soak:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not soak.violations:
            soak.round()
    story = ", ".join(f"{name} {count}" for name, count in sorted(soak.outages.items()))
    print(f"soak: {soak.outages.total()} outages ({story}), {soak.count} orders, {len(soak.violations)} violations")
    return soak
