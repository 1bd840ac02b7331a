"""How long a manager's event loop does nothing else, seen from outside: round trips of its health check at 50 Hz.

The check needs the loop and nothing more, so the longest round trip bounds the longest gap from above; what the machine
was too busy to schedule is in it as well.
"""

from __future__ import annotations

import contextlib
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
_CALL_S: Final = 120.0
_ANSWER_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Round trips in milliseconds, the one that still waits included; a failed one lasts until one works."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


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
        taken_s: list[float] = self._pipe.recv()
        return Gaps(
            count=len(taken_s),
            p50_ms=round(percentile(taken_s, 0.5) * 1e3, 1),
            p99_ms=round(percentile(taken_s, 0.99) * 1e3, 1),
            max_ms=round(max(taken_s) * 1e3, 1),
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

    def take(self) -> list[float]:
        taken_s, self.taken_s = self.taken_s, []
        waiting_s = time.monotonic() - self.began_s
        return [*taken_s, waiting_s] if waiting_s > _PERIOD_S or not taken_s else taken_s


def _serve(address: str, pipe: Any) -> None:
    asking = _Asking(address)
    threading.Thread(target=asking.ask_forever, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv()
            pipe.send(asking.take())
