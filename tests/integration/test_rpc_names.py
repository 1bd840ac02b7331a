"""A peer that returns at another address under its name, on real gRPC and a name server of the test's own."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.rpc import channel, serving
from testbed.ports import free_port
from testbed.waiting import wait_until_async

A_RECORD, HEADER_BYTES = 1, 12


class NameServer:
    """Answers every question for an IPv4 address with `address`, which nobody may remember; for others with nothing."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, asker = self._socket.recvfrom(512)
            if not query:
                return
            self._socket.sendto(self._answer(query), asker)

    def _answer(self, query: bytes) -> bytes:
        name_end = query.index(b"\0", HEADER_BYTES) + 1
        (kind,) = struct.unpack_from("!H", query, name_end)
        question, count = query[HEADER_BYTES : name_end + 4], int(kind == A_RECORD)
        head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, count, 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, A_RECORD, 1, 0, 4) + socket.inet_aton(self.address)
        return head + question + record * count


async def _answers(stub: health_pb2_grpc.HealthStub) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        return True
    return False


async def test_1_a_peer_is_looked_up_anew_when_it_does_not_answer() -> None:
    """One that is gone just after its name was asked for is found at its new address long before half a minute."""
    port = free_port()
    with NameServer("127.0.0.2") as names:
        async with channel(f"dns://127.0.0.1:{names.port}/manager.test:{port}") as peer:
            stub = health_pb2_grpc.HealthStub(peer)
            async with serving(f"127.0.0.2:{port}", {}, drain_s=0):
                await wait_until_async(lambda: _answers(stub), what="the peer answers")
            names.address = "127.0.0.3"
            async with serving(f"127.0.0.3:{port}", {}, drain_s=0):
                await wait_until_async(lambda: _answers(stub), timeout=5, what="the peer answers at its new address")
