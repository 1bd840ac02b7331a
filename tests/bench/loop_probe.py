"""How long a manager's event loop does nothing else, seen from outside: round trips of its health check at 50 Hz.

The check needs the loop and nothing more, so the longest round trip bounds the longest gap from above. What the machine
was too busy to schedule or to write is in it as well: what the probe itself waited for such things tells that apart.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from bench.figures import percentile
from bench.flood import CONTEXT
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testbed.cluster import HOST
from testbed.control_plane import ControlPlane

_PERIOD_S: Final = 0.02
_NAP_S: Final = 0.005
_LINE: Final = b"x" * 200 + b"\n"
_CALL_S: Final = 120.0
_ANSWER_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Round trips in milliseconds, the one that still waits included; a failed one lasts until one works.

    `machine_ms` is the longest that the probe itself was held up by its machine: in a short sleep, or in writing a line
    to a file as a log does.
    """

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    machine_ms: float


class LoopProbe:
    """Asks `address` in a process of its own, one call after the other."""

    def __init__(self, address: str) -> None:
        self._pipe: Any
        self._pipe, child = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(address, child), daemon=True, name="loop probe")

    def start(self) -> LoopProbe:
        """Begin to ask."""
        self._process.start()
        return self

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()

    def take(self) -> Gaps:
        """The round trips since this was last asked."""
        self._pipe.send(None)
        if not self._pipe.poll(_ANSWER_S):
            raise TimeoutError("the loop probe does not answer")
        taken_s, machine_s = self._pipe.recv()
        return Gaps(
            count=len(taken_s),
            p50_ms=round(percentile(taken_s, 0.5) * 1e3, 1),
            p99_ms=round(percentile(taken_s, 0.99) * 1e3, 1),
            max_ms=round(max(taken_s) * 1e3, 1),
            machine_ms=round(machine_s * 1e3, 1),
        )


@contextlib.contextmanager
def probing(plane: ControlPlane) -> Iterator[LoopProbe]:
    """A probe of a running manager for the time of the block."""
    probe = LoopProbe(f"{HOST}:{plane.ports['manager']}").start()
    try:
        yield probe
    finally:
        probe.stop()


class _Asking:
    """The calls of the process; `began_s` is when the present one began."""

    def __init__(self, address: str) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))
        self.taken_s: list[float] = []
        self.began_s = time.monotonic()
        self.machine_s = 0.0

    def nap_forever(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            while True:
                began_s = time.monotonic()
                time.sleep(_NAP_S)
                file.write(_LINE)
                self.machine_s = max(self.machine_s, time.monotonic() - began_s - _NAP_S)

    def ask_forever(self) -> None:
        while True:
            self.began_s = time.monotonic()
            while not self._is_answered():
                time.sleep(_PERIOD_S)
            taken_s = time.monotonic() - self.began_s
            self.taken_s.append(taken_s)
            time.sleep(max(0.0, _PERIOD_S - taken_s))

    def _is_answered(self) -> bool:
        try:
            self._stub.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
        except grpc.RpcError:
            return False
        return True

    def take(self) -> tuple[list[float], float]:
        taken_s, self.taken_s = self.taken_s, []
        machine_s, self.machine_s = self.machine_s, 0.0
        waiting_s = time.monotonic() - self.began_s
        return [*taken_s, waiting_s] if waiting_s > _PERIOD_S or not taken_s else taken_s, machine_s


def _serve(address: str, pipe: Any) -> None:
    asking = _Asking(address)
    for target in (asking.ask_forever, asking.nap_forever):
        threading.Thread(target=target, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv()
            pipe.send(asking.take())
