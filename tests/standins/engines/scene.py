"""A real cluster with stand-in engines, all times scaled alike, and what tests ask of it."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from standins.engines.engine import Engine, Timing
from standins.engines.generations import GENERATIONS
from testbed.cluster import Cluster, cluster
from testbed.waiting import wait_until

SCALE: Final = 0.15
TIMING: Final = Timing(pull_s={"docker.io/local/slow:1": 6.0}).scaled(SCALE)
SETTINGS: Final = {
    "ENGINE_PERIOD_S": str(TIMING.period_s),
    "REFENCE_S": str(10 * SCALE),
    "LEASE_S": "3",
    "GRACE_S": "1",
    "RETRY_BASE_S": "0.2",
    "RETRY_CAP_S": "2",
    "MASS_EXPIRY_COUNT": "100",
}
Shown = dict[str, Any]
RUN: Final = {"image": "docker.io/local/busybox:1", "technology": "docker", "cmd": ["sleep"]}


class Scene:
    """The cluster, its engines by host name, and the orders of the test."""

    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        self.engines: dict[str, Engine] = {}
        self._job_count = 0
        self._engine_count = 0

    def add(self, generation: str, host: str = "", **facts: Any) -> Engine:
        """Start an engine and wait until it is READY."""
        self._engine_count += 1
        host = host or f"edge-{generation.lower()}-{self._engine_count}"
        engine = GENERATIONS[generation](self.cluster.ports["gateway"], host, timing=TIMING, **facts)
        self.engines[host] = engine
        engine.start()
        self.cluster.wait_until_node_is(host, "READY")
        return engine

    def new_job(self) -> str:
        """A job id that nobody has used."""
        self._job_count += 1
        return f"{self._job_count:024x}"

    def deploy(self, engine: Engine | None = None, job_id: str = "", number: int = 0, **document: Any) -> str:
        """Order an instance, on one engine alone where one is given; answers the job's id."""
        job_id = job_id or self.new_job()
        body = {"job_name": f"app.test.s{int(job_id, 16)}.test", **RUN, **document}
        if engine is not None:
            body.setdefault("constraints", [{"type": "direct", "node": engine.host}])
        answer = self.cluster.http.insist("POST", f"/api/service/{job_id}/{number}", body)
        assert answer.status == 200, answer
        return job_id

    def delete(self, job_id: str, number: int = 0) -> None:
        """Order that it be gone."""
        assert self.cluster.http.insist("DELETE", f"/api/service/{job_id}/{number}").status == 200

    def instance(self, job_id: str, number: int = 0) -> Shown:
        """An instance as the cluster shows it."""
        found: Shown = self.cluster.http.get(f"/api/instances/{job_id}/{number}")
        return found

    def wait_for(self, job_id: str, state: str, number: int = 0, timeout: float = 60.0) -> Shown:
        """Wait for a state of an instance."""

        def shown() -> Shown | None:
            found = self.instance(job_id, number)
            return found if found["state"] == state else None

        return wait_until(shown, timeout, 0.05, f"{job_id}/{number} is {state}") or {}

    def run(self, engine: Engine | None = None, **document: Any) -> str:
        """Order an instance and wait until it runs."""
        job_id = self.deploy(engine, **document)
        self.wait_for(job_id, "RUNNING")
        return job_id

    def copies(self, job_id: str, number: int = 0) -> list[str]:
        """The host names of the engines on which a container of an instance runs."""
        name = f"app.test.s{int(job_id, 16)}.test.instance.{number}"
        return [host for host, engine in self.engines.items() if name in engine.containerd.running()]

    def commands(self, engine: Engine, verb: str, job_id: str) -> int:
        """How often an engine was told to deploy or delete a job's instances."""
        name = f'"app.test.s{int(job_id, 16)}.test"'.encode()
        return sum(1 for heard, payload in list(engine.heard) if heard == verb and name in payload)

    def node(self, engine: Engine) -> dict[str, Any]:
        """An engine's node with its history."""
        found: dict[str, Any] = self.cluster.http.get(f"/api/nodes/{engine.host}")
        return found

    def retire(self, engine: Engine) -> None:
        """End an engine and forget its containers, for the tests that follow."""
        engine.sigkill()
        del self.engines[engine.host]

    def crashes(self) -> list[str]:
        """Every panic of any engine, and every message that one dropped."""
        return [text for engine in self.engines.values() for text in (*engine.crashes, *engine.dropped)]


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """A ready cluster without engines for the time of the block; no engine may have crashed at its end."""
    with cluster(is_embedded=False, **SETTINGS) as made:
        played = Scene(made)
        try:
            yield played
            assert played.crashes() == []
        finally:
            for engine in played.engines.values():
                if engine.is_up:
                    engine.sigkill()
