"""Thousands of nodes of the worker's dialect in one cheap process: their packets are ready, and go out in slices.

Each node sends telemetry every 2 s and its inventory every 5 s, spread evenly, over a handful of raw connections. One
more connection takes the commands of all of them and answers at once. How late the packets left is told: what a crowd
sent late, the manager cannot have heard in time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from bench.figures import percentile
from bench.flood import CONTEXT
from bench.residents import Residents

from cluster.topics import Channel
from cluster.topics import subscription as filter_of
from testbed.full_store import Layout
from testbed.mqtt_wire import GOODBYE, PacketStream, Published, acknowledgement, connected, published, subscription

TELEMETRY_S: Final = 2.0
INVENTORY_S: Final = 5.0
DROPPED_BY_BROKER: Final = "$SYS/broker/publish/messages/dropped"
_TICK_S: Final = 0.01
_LINKS: Final = 4
_READ_BYTES: Final = 1 << 20
_ANSWER_S: Final = 120.0


@dataclass(frozen=True)
class Command:
    """A command as it arrived, at a time of the monotonic clock."""

    at_mono_s: float
    verb: str
    node: int
    job_id: str
    number: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What was sent since the last question, how late, and what the crowd's process took for it."""

    telemetry: int
    inventories: int
    states: int
    late_p99_s: float
    late_max_s: float
    cpu_share: float
    dropped_by_broker: int


class Crowd:
    """The nodes of a layout, in a process of their own."""

    def __init__(self, port: int, layout: Layout) -> None:
        self._pipe: Any
        self._pipe, child = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(port, layout, child), daemon=True, name="crowd")

    def start(self) -> Crowd:
        """Start, and wait until commands can arrive."""
        self._process.start()
        self._answer()
        return self

    def stop(self) -> None:
        """End them all."""
        with contextlib.suppress(BrokenPipeError, OSError):
            self._pipe.send(("stop", ()))
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()

    def silence(self) -> None:
        """Nobody sends or hears anything from now on."""
        self._ask("silence")

    def speak(self, gone: int = 0) -> float:
        """All but the last `gone` nodes are back; answers when, by the monotonic clock."""
        return float(self._ask("speak", gone))

    def say(self, node: int, detail: str) -> None:
        """One instance of a node says something new."""
        self._ask("say", node, detail)

    def pace(self) -> Pace:
        """How it went since this was last asked."""
        answer: Pace = self._ask("pace")
        return answer

    def commands(self) -> list[Command]:
        """Every command that arrived so far."""
        answer: list[Command] = self._ask("commands")
        return answer

    def _ask(self, what: str, *arguments: Any) -> Any:
        self._pipe.send((what, arguments))
        return self._answer()

    def _answer(self) -> Any:
        if not self._pipe.poll(_ANSWER_S):
            raise TimeoutError("the crowd does not answer")
        return self._pipe.recv()


class _Round:
    """One kind of message of all nodes, again and again, evenly over its period."""

    def __init__(self, packets: Sequence[bytes], period_s: float) -> None:
        self._packets = packets
        self._period_s = period_s
        self._began_s = time.monotonic()
        self._position = 0
        self.count = 0

    def take(self, now_s: float, *, is_silent: bool) -> tuple[bytes, float]:
        """What is due now, and when its first packet was."""
        nodes, first = len(self._packets), self._position
        due_s = self._began_s + first * self._period_s / nodes
        self._position = max(first, 1 + int((now_s - self._began_s) / self._period_s * nodes))
        if is_silent or first == self._position:
            return b"", now_s
        start = max(first, self._position - nodes)  # later than a whole period: what would be old is not sent
        chosen = [packet for n in range(start, self._position) if (packet := self._packets[n % nodes])]
        self.count += len(chosen)
        return b"".join(chosen), due_s


@dataclass
class _Told:
    """What was counted."""

    commands: list[Command] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    states: int = 0
    dropped: int = 0


class _Nodes:
    """The crowd inside its process: one thread sends, one hears."""

    def __init__(self, port: int, layout: Layout) -> None:
        self._residents = Residents(layout)
        self._told = _Told()
        self._hearing = threading.Event()
        self._hearing.set()
        self._links = [connected(port, f"crowd-{number}") for number in range(_LINKS)]
        self._ears = connected(port, "crowd-ears")
        self._ears.sendall(subscription((filter_of(Channel.CONTROLS), 1), (DROPPED_BY_BROKER, 0)))
        self._saying = threading.Lock()
        self._packet_id = 0
        own = self._residents
        self._rounds = (_Round(own.telemetry, TELEMETRY_S), _Round(own.inventories, INVENTORY_S))
        self._marked = (time.monotonic(), time.process_time(), 0, 0, 0)
        for target in (self._send_forever, self._hear_forever):
            threading.Thread(target=target, daemon=True).start()

    # What may be asked

    def silence(self) -> None:
        self._hearing.clear()

    def speak(self, gone: int) -> float:
        self._residents.bury(gone)
        self._hearing.set()
        return time.monotonic()

    def say(self, node: int, detail: str) -> None:
        self._send_state(lambda packet_id: self._residents.words(node, detail, packet_id))

    def commands(self) -> list[Command]:
        return list(self._told.commands)

    def pace(self) -> Pace:
        told, late_s = self._told, self._told.late_s or [0.0]
        told.late_s = []
        telemetry, inventories = (item.count for item in self._rounds)
        then, self._marked = self._marked, (time.monotonic(), time.process_time(), telemetry, inventories, told.states)
        since = [now - before for now, before in zip(self._marked, then, strict=True)]
        return Pace(
            telemetry=int(since[2]),
            inventories=int(since[3]),
            states=int(since[4]),
            late_p99_s=percentile(late_s, 0.99),
            late_max_s=max(late_s),
            cpu_share=since[1] / since[0],
            dropped_by_broker=told.dropped,
        )

    def close(self) -> None:
        for link in (*self._links, self._ears):
            with contextlib.suppress(OSError):
                link.sendall(GOODBYE)

    # The threads

    def _send_forever(self) -> None:
        turn = 0
        while True:
            time.sleep(_TICK_S)
            now_s, is_silent = time.monotonic(), not self._hearing.is_set()
            for item in self._rounds:
                packets, due_s = item.take(now_s, is_silent=is_silent)
                if packets:
                    turn += 1
                    self._links[turn % _LINKS].sendall(packets)
                    self._told.late_s.append(time.monotonic() - due_s)

    def _hear_forever(self) -> None:
        stream = PacketStream()
        while data := self._ears.recv(_READ_BYTES):
            self._hearing.wait()
            for kind, body in stream.feed(data):
                if (message := published(kind, body)) is not None:
                    self._on_message(message)

    def _on_message(self, message: Published) -> None:
        if message.packet_id:
            self._ears.sendall(acknowledgement(message.packet_id))
        if message.topic == DROPPED_BY_BROKER:
            self._told.dropped = int(message.payload)
            return
        node = self._residents.numbers.get(message.topic.split("/")[1])
        if node is not None:
            self._on_command(node, orjson.loads(message.payload))

    def _on_command(self, node: int, body: dict[str, Any]) -> None:
        job = body["job"]
        facts = (body["command"], node, job["id"], job["instance_number"], job["generation"])
        self._told.commands.append(Command(time.monotonic(), *facts))
        self._send_state(lambda packet_id: self._residents.carry_out(node, body, packet_id))

    def _send_state(self, encode: Callable[[int], bytes]) -> None:
        with self._saying:
            self._packet_id = self._packet_id % 65_535 + 1
            if packet := encode(self._packet_id):
                self._ears.sendall(packet)
                self._told.states += 1


def _serve(port: int, layout: Layout, pipe: Any) -> None:
    nodes = _Nodes(port, layout)
    pipe.send(None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            what, arguments = pipe.recv()
            if what == "stop":
                break
            pipe.send(getattr(nodes, what)(*arguments))
    nodes.close()
