"""Free TCP ports on loopback: each test process takes them from a range of its own, so that none races for one.

The ranges lie below the ports that the kernel gives to outgoing connections and above those of `clusterctl up`, which
takes an offset instead.
"""

import itertools
import random
import socket
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

_FIRST: Final = 21_000
_SIZE: Final = 400
_RANGES: Final = 29
_CLAIMS: Final[list[socket.socket]] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port on `host` that nothing listens on right now and that this process has not handed out for long."""
    for _ in range(_SIZE):
        port = next(_own_ports())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"all {_SIZE} ports of this process are in use")


def free_offset(ports: Iterable[int]) -> int:
    """By how much to raise `clusterctl up`'s ports, given as they are by default, so that nothing listens on any."""
    wanted = tuple(ports)
    while True:
        offset = random.randrange(1_000, 10_500)
        if not any(is_listening(port + offset) for port in wanted):
            return offset


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts TCP connections on `host:port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


@cache
def _own_ports() -> Iterator[int]:
    """The range of this process; it is another's again when the process ends and its abstract socket with it."""
    for number in range(_RANGES):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0testbed-ports-{number}")
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        first = _FIRST + number * _SIZE
        return itertools.cycle(range(first, first + _SIZE))
    raise RuntimeError("as many test processes run as there are ranges of ports")
