"""The relay of the root's calls, on real sockets, and in a manager whose gateway has another address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from cluster.process import run
from manager.root import relay as module
from manager.root.relay import CONNECTIONS, Relay
from standins.roots.r1 import R1
from standins.roots.r3 import R2, R3
from standins.roots.root import Root
from testbed.attached import NAME, attached_with_node
from testbed.cluster import HOST
from testbed.ports import free_port, is_listening
from testbed.waiting import wait_until

BODY = bytes(range(256)) * 20_000


class Relaying:
    """A relay on a loop in a thread of its own, in front of `gateway`."""

    def __init__(self, gateway: int, *, use_uvloop: bool = True) -> None:
        self.port, self.counters = free_port(), Counter[str]()
        self._gateway = gateway
        self._started = threading.Event()
        self._thread = threading.Thread(target=run, args=(self._main,), kwargs={"use_uvloop": use_uvloop})
        self._stop: Callable[[], object] = lambda: None

    def start(self) -> Relaying:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def stop(self) -> None:
        self._stop()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def call(self) -> socket.socket:
        return wait_until(self._connect, what="the relay listens")

    def _connect(self) -> socket.socket | None:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection((HOST, self.port), timeout=30)
        return None

    async def _main(self) -> None:
        relaying = asyncio.create_task(Relay(HOST, self.port, (HOST, self._gateway), self.counters).run())
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(relaying.cancel)
        self._started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await relaying


@contextlib.contextmanager
def relaying(gateway: int, *, use_uvloop: bool = True) -> Iterator[Relaying]:
    made = Relaying(gateway, use_uvloop=use_uvloop).start()
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def listener(port: int = 0) -> Iterator[socket.socket]:
    with socket.create_server((HOST, port)) as made:
        made.settimeout(30)
        yield made


@contextlib.contextmanager
def joined(relay: Relaying, gateway: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A caller, and what the gateway sees of it."""
    with relay.call() as caller, gateway.accept()[0] as taken:
        taken.settimeout(30)
        yield caller, taken


def port_of(made: socket.socket) -> int:
    return int(made.getsockname()[1])


def answer_of(caller: socket.socket) -> bytes:
    """All that comes until the end; b"" where the connection is broken off."""
    chunks = []
    with contextlib.suppress(ConnectionError):
        while chunk := caller.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks)


def ask(caller: socket.socket, body: bytes) -> bytes:
    """Say all, finish, and hear all."""
    saying = threading.Thread(target=say, args=(caller, body))
    saying.start()
    try:
        return answer_of(caller)
    finally:
        saying.join()


def say(caller: socket.socket, body: bytes) -> None:
    with contextlib.suppress(OSError):  # a connection that was closed
        caller.sendall(body)
        caller.shutdown(socket.SHUT_WR)


def echo_once(gateway: socket.socket) -> None:
    """Answer one caller with all that it said, after its end."""
    with gateway.accept()[0] as taken:
        taken.sendall(answer_of(taken))


@contextlib.contextmanager
def echoing(gateway: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=echo_once, args=(gateway,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_1_each_way_is_passed_on_to_its_own_end(use_uvloop: bool) -> None:
    """Megabytes reach the gateway whole, it sees their end, and its answer comes back after that."""
    with listener() as gateway, relaying(port_of(gateway), use_uvloop=use_uvloop) as relay:
        with echoing(gateway), relay.call() as caller:
            assert ask(caller, BODY) == BODY
        assert relay.counters == {"root_calls_relayed": 1}


def test_1_a_dead_gateway_closes_the_callers_connection_and_a_new_one_is_found() -> None:
    """Nobody waits for a gateway that is away; that, and that it is back, is logged once."""
    port = free_port()
    with capture_logs() as logs, relaying(port) as relay:
        for _ in range(3):
            with relay.call() as caller:
                assert ask(caller, b"GET / HTTP/1.0\r\n\r\n") == b""
        with listener(port) as gateway, echoing(gateway), relay.call() as caller:
            assert ask(caller, b"hello") == b"hello"
        events = [entry["event"] for entry in logs]
        assert events.count("the gateway does not take the root's calls") == 1
        assert events.count("the gateway takes the root's calls again") == 1


def test_1_a_gateway_that_does_not_take_connections_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that swallows what is sent to it costs the caller the bound of a connection."""
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    with socket.create_server((HOST, 0), backlog=0) as gateway, contextlib.ExitStack() as stack:
        while _is_taken(stack, port_of(gateway)):
            pass
        with capture_logs() as logs, relaying(port_of(gateway)) as relay, relay.call() as caller:
            assert answer_of(caller) == b""
        assert [entry["why"] for entry in logs if "why" in entry] == ["it does not answer"]


def _is_taken(stack: contextlib.ExitStack, port: int) -> bool:
    """Whether one more connection fits into the queue of a listener that takes none out."""
    probe = stack.enter_context(socket.socket())
    probe.settimeout(0.5)
    try:
        probe.connect((HOST, port))
    except TimeoutError:
        return False
    return True


def test_1_connections_are_bounded_and_their_end_makes_room() -> None:
    """As many as may be are kept, one more is closed at once and said once; the first that ends makes room."""
    with listener() as gateway, capture_logs() as logs, relaying(port_of(gateway)) as relay:
        with contextlib.ExitStack() as stack:
            callers = [stack.enter_context(relay.call()) for _ in range(CONNECTIONS)]
            taken = [stack.enter_context(gateway.accept()[0]) for _ in callers]
            for _ in range(3):
                assert answer_of(stack.enter_context(relay.call())) == b""
            assert relay.counters["root_calls_refused"] == 3
            callers[0].close()
            taken[0].close()
            with echoing(gateway):
                wait_until(lambda: _echoes(relay), what="a call after one has ended is answered")
        assert [entry["event"] for entry in logs].count("too many connections of the root, refusing more") == 1


def _echoes(relay: Relaying) -> bool:
    with contextlib.suppress(ConnectionError), relay.call() as caller:
        return ask(caller, b"hello") == b"hello"
    return False


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_1_whoever_breaks_off_ends_the_other_side_too(use_uvloop: bool) -> None:
    """A reset from the root reaches the gateway, and one from the gateway the root, and nothing is kept of either."""
    with listener() as gateway, relaying(port_of(gateway), use_uvloop=use_uvloop) as relay:
        for breaks_off in (0, 1):
            with joined(relay, gateway) as ends:
                ends[breaks_off].sendall(b"half a req")
                assert ends[1 - breaks_off].recv(100) == b"half a req"
                ends[breaks_off].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                ends[breaks_off].close()
                assert answer_of(ends[1 - breaks_off]) == b""


def test_1_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose machine is gone does not hold its place; one that goes on talking keeps it."""
    monkeypatch.setattr(module, "IDLE_S", 3.0)
    with (
        listener() as gateway,
        relaying(port_of(gateway)) as relay,
        joined(relay, gateway) as (talker, heard),
        joined(relay, gateway) as silent,
    ):
        for _ in range(20):
            talker.sendall(b".")
            assert heard.recv(10) == b"."
            time.sleep(0.2)
        assert [answer_of(end) for end in silent] == [b"", b""]
        talker.sendall(b"!")
        assert heard.recv(10) == b"!"


def test_1_a_slow_caller_is_not_read_ahead_for() -> None:
    """What the gateway says to a root that does not read stays in the gateway, not in the manager's memory."""
    with listener() as gateway, relaying(port_of(gateway)) as relay, joined(relay, gateway) as (caller, taken):
        taken.settimeout(2.0)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200_000_000:
                sent += taken.send(bytes(1_000_000))
        assert sent < 50_000_000
        taken.close()
        assert len(answer_of(caller)) == sent


def test_1_a_taken_port_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay outlives somebody else on its port and listens there afterwards."""
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.1)
    with listener() as gateway, capture_logs() as logs:
        relay = Relaying(port_of(gateway))
        with listener(relay.port):
            relay.start()
            time.sleep(0.5)
        try:
            with echoing(gateway), relay.call() as caller:
                assert ask(caller, b"hello") == b"hello"
        finally:
            relay.stop()
        (told,) = [entry for entry in logs if entry["log_level"] == "warning"]
        assert told["event"] == "cannot listen for the root's calls, trying again"
        assert told["address"] == f"{HOST}:{relay.port}"
        assert "in use" in told["why"]


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_1_its_end_waits_for_nobody(use_uvloop: bool) -> None:
    """A manager that stops closes what is connected, both ends."""
    with listener() as gateway, contextlib.ExitStack() as stack:
        with relaying(port_of(gateway), use_uvloop=use_uvloop) as relay:
            ends = stack.enter_context(joined(relay, gateway))
        assert [answer_of(end) for end in ends] == [b"", b""]
        assert not is_listening(relay.port)


@pytest.mark.parametrize("make", [R1, R2, R3])
def test_1_a_root_that_calls_the_managers_address_reaches_the_gateway(make: Callable[[], Root]) -> None:
    """The manager outlives somebody else on the relay's port; then each order of an unmodified root arrives."""
    root, port = make(), free_port()
    with attached_with_node(root) as (running, _):
        running.kill("manager")
        manager = running.parts["manager"]
        manager.env |= {"GATEWAY_PORT": str(port), "ROOT_CALLBACK_RELAY": f"{HOST}:{running.ports['gateway']}"}
        with listener(port):
            running.start_part("manager")
            running.wait_until_ready()
            wait_until(lambda: "cannot listen for the root's calls" in manager.output(), what="the taken port is told")
        wait_until(lambda: "listening for the root's calls" in manager.output(), what="the relay listens")
        wait_until(lambda: root.registered(NAME).port == str(port), what="the root calls the manager's address")
        service = root.data.add_service("web", "local/busybox:1")
        root.deploy(service)
        root.wait_for_status(service, "RUNNING")
        assert root.undeploy(service, 0) == 200
        assert running.http.get("/api/cluster/status")["counters"]["root_calls_relayed"] >= 2
        assert root.data.faults == []
