"""Engines of all generations under random orders and faults; in the end each desired instance runs exactly once."""

import contextlib
import random
import time
from collections.abc import Callable

import pytest

from standins.engines.engine import Engine
from standins.engines.scene import Scene, scene
from testbed.waiting import wait_until

pytestmark = pytest.mark.real("mosquitto")
LONGEST_S = 60.0


class Chaos:
    """Random orders and faults; `wanted` is what must run in the end."""

    def __init__(self, stage: Scene, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.wanted: set[str] = set()
        self.unwanted: set[str] = set()

    def run(self, seconds: float) -> None:
        """Do one thing after the other for a while."""
        things: list[tuple[float, Callable[[], None]]] = [
            (10, self.deploy),
            (5, self.delete),
            (2, self.deploy_again),
            (1, self.kill_engine),
            (1, self.terminate_engine),
            (2, self.break_connection),
            (0.5, self.restart_containerd),
            (0.3, self.restart_broker),
            (0.3, self.restart_manager),
        ]
        weights, actions = zip(*things, strict=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            [action] = self.random.choices(actions, weights)
            action()
            time.sleep(self.random.uniform(0.0, 0.4))

    def deploy(self) -> None:
        """A service; now and then its image takes long."""
        if len(self.wanted) < 40:
            image = self.random.choice(["local/busybox:1"] * 4 + ["docker.io/local/slow:1"])
            self.wanted.add(self.stage.deploy(image=image))

    def delete(self) -> None:
        """One of the services."""
        if self.wanted:
            job_id = self.random.choice(sorted(self.wanted))
            self.wanted.remove(job_id)
            self.unwanted.add(job_id)
            self.stage.delete(job_id)

    def deploy_again(self) -> None:
        """One that was deleted, perhaps a moment ago."""
        if self.unwanted:
            job_id = self.random.choice(sorted(self.unwanted))
            self.unwanted.remove(job_id)
            self.wanted.add(job_id)
            self.stage.deploy(job_id=job_id)

    def engine(self) -> Engine:
        """Any engine."""
        return self.random.choice(list(self.stage.engines.values()))

    def kill_engine(self) -> None:
        """SIGKILL, and a new start."""
        engine = self.engine()
        engine.sigkill()
        self.start(engine)

    def terminate_engine(self) -> None:
        """SIGTERM, and a new start."""
        engine = self.engine()
        engine.sigterm()
        self.start(engine)

    def start(self, engine: Engine) -> None:
        """Start as a service manager does: again and again until it works."""

        def starts() -> bool:
            with contextlib.suppress(Exception):
                engine.start()
            return engine.is_up

        wait_until(starts, 60.0, 0.5, f"{engine.host} is up")

    def break_connection(self) -> None:
        """A network fault."""
        self.engine().break_connection()

    def restart_containerd(self) -> None:
        """Zombies until the engine starts anew."""
        self.engine().restart_containerd()

    def restart_broker(self) -> None:
        """kill -9 and a new start."""
        self.stage.cluster.kill("broker")
        self.stage.cluster.start_part("broker")

    def restart_manager(self) -> None:
        """kill -9 and a new start."""
        self.stage.cluster.kill("manager")
        self.stage.cluster.start_part("manager")

    def problems(self) -> list[str]:
        """What differs from what is wanted."""
        found = []
        copies: dict[str, int] = {}
        for engine in self.stage.engines.values():
            for name in engine.containerd.living():
                copies[name] = copies.get(name, 0) + 1
        wanted = {_name(job_id) for job_id in self.wanted}
        found += [f"{name} runs {copies.get(name, 0)} times" for name in sorted(wanted) if copies.get(name, 0) != 1]
        found += [f"{name} runs unwanted" for name in sorted(copies.keys() - wanted)]
        states = {item["job_id"]: item["state"] for item in self.stage.cluster.http.instances()}
        found += [f"{job_id} is {states[job_id]}" for job_id in sorted(self.wanted) if states[job_id] != "RUNNING"]
        found += [f"{job_id} is {states[job_id]}" for job_id in sorted(self.unwanted) if states[job_id] != "STOPPED"]
        return found

    def settle(self) -> None:
        """Wait until all is as it should be, and stays so."""
        self.stage.cluster.wait_until_ready()
        try:
            wait_until(lambda: not self.problems(), LONGEST_S, 0.5, "every service runs exactly once")
        except AssertionError as error:
            problems = self.problems()
            text = " ".join(problems)
            stories = [self.story(job_id) for job_id in sorted(self.wanted | self.unwanted) if self.is_in(job_id, text)]
            raise AssertionError("\n".join([str(error), *problems, *stories, self.stage.cluster.story()])) from None

    def is_in(self, job_id: str, text: str) -> bool:
        """Whether a problem is about a job."""
        return job_id in text or f"{_name(job_id)} " in text

    def story(self, job_id: str) -> str:
        """What the cluster and the engines know of a job."""
        shown, name = self.stage.instance(job_id), _name(job_id)
        lines = [f"{job_id}: {shown['state']} on {shown['node_id']}: {shown['detail']}"]
        lines += [f"  {event['at']} {event['kind']} {event['state']}: {event['cause']}" for event in shown["events"]]
        for host, engine in self.stage.engines.items():
            container = engine.containerd.containers.get(name)
            told = [verb for verb, payload in list(engine.heard) if name.partition(".instance.")[0].encode() in payload]
            said = [item.status for item in list(engine.said) if item.name == name]
            lines.append(f"  {host} ({engine.id}, up {engine.is_up}) has {container}, heard {told}, said {said}")
        return "\n".join(lines)


def _name(job_id: str) -> str:
    """The container of a job's only instance."""
    return f"app.test.s{int(job_id, 16)}.test.instance.0"


def soak(seconds: float, rounds: int, seed: int) -> None:
    """Rounds of chaos and rest."""
    with scene() as stage:
        for generation in "ABCDAC":
            stage.add(generation)
        chaos = Chaos(stage, seed)
        for _ in range(rounds):
            chaos.run(seconds)
            chaos.settle()
            assert stage.crashes() == []


@pytest.mark.timeout(600)
def test_every_service_runs_exactly_once_after_random_faults() -> None:
    """No engine ever crashes or drops a message; what is wanted runs once, what was deleted is gone."""
    soak(12.0, 1, seed=random.randrange(1000))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_soak_of_ten_minutes() -> None:
    """The same for ten minutes, with a rest after each."""
    soak(50.0, 12, seed=random.randrange(1_000_000))
