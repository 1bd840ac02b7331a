"""100 moves of a container with a published port, watched by a client that knows both nodes."""

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from testbed.cluster import Cluster, cluster
from testbed.docker_engine import BUSYBOX, DockerEngine
from testbed.operating import deploy, move, wait_for_state, wait_until_settled
from testbed.ports import free_port

MOVES = 100
NODES = {"edge-a": "127.0.0.2", "edge-b": "127.0.0.3"}
WEB: dict[str, object] = {
    "image": BUSYBOX,
    "technology": "docker",
    "cmd": ["sh", "-c", "mkdir -p /www && echo hello > /www/index.html && exec httpd -f -p 80 -h /www"],
    "stop_grace_s": 0,
    "readiness": {"http": {"path": "/", "port": 80}, "interval_s": 0.1, "timeout_s": 1},
}


class Client:
    """Asks the node that answered last, then the other one; a request has failed when both did."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        order = list(NODES.values())
        while not self._ended.wait(0.005):
            began = time.monotonic()
            errors = []
            for address in tuple(order):
                error = _ask(address, self.port)
                if not error:
                    order.sort(key=lambda item, best=address: item != best)
                    break
                errors.append(f"{address}: {error}")
            self.outcomes["failed" if len(errors) == len(NODES) else "at once" if not errors else "at the other"] += 1
            if len(errors) == len(NODES):
                self.failures.append(f"{errors}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)


def _ask(address: str, port: int) -> str:
    """Why a GET failed; "" where it was answered."""
    connection = http.client.HTTPConnection(address, port, timeout=10.0)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    return "" if (answer.status, body) == (200, b"hello\n") else f"{answer.status} {body[:50]!r}"


def _story(made: Cluster) -> str:
    """What happened to it, and what the workers said."""
    events = made.http.get("/api/instances/web/0")["events"][-12:]
    lines = [f"{event['at']} {event['actor']} {event['kind']} {event['state']}: {event['cause']}" for event in events]
    return "\n".join([*lines, made.story()])


@pytest.fixture
def pair(docker_engine: DockerEngine) -> Iterator[Cluster]:
    """Two real workers with a container engine behind them."""
    with cluster() as made:
        for name in NODES:
            made.add_worker(name, DOCKER_HOST=docker_engine.url, WORKER_STOP_WORKLOADS_ON_EXIT="true")
            made.wait_until_node_is(name, "READY")
        yield made


@pytest.mark.real("docker")
@pytest.mark.timeout(600)
def test_no_request_fails_during_100_moves(pair: Cluster, record_property: Callable[[str, object], None]) -> None:
    """A client that tries the other node when one refuses sees every request answered during 100 moves."""
    port = free_port(NODES["edge-a"])
    deploy(pair, "web", **WEB, port=f"{port}:80")
    found = wait_for_state(pair, "web")
    names = {pair.node(name)["id"]: name for name in NODES}
    order = itertools.cycle(sorted(NODES, key=lambda name: name != names[found["node_id"]]))
    source = next(order)
    with Client(port) as client:
        for _ in range(MOVES):
            target = next(order)
            answer = move(pair, "web", source, target)
            assert answer.status == 200, answer
            found = wait_until_settled(pair, "web")
            assert names[found["node_id"]] == target, _story(pair)
            source = target
    assert client.failures == []
    assert client.outcomes["at once"] > MOVES
    record_property("requests", dict(client.outcomes))
    record_property("slowest_s", client.slowest_s)
    print(f"requests {dict(client.outcomes)}, slowest {client.slowest_s:.3f} s")
