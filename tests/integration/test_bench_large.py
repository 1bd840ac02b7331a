"""The bench of large clusters works: storms, outages and single steps at tiny sizes; no figure is judged here."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from bench import big_plane, full_memory, loop, outage, own_figures, storm
from bench.big_plane import dropped
from bench.crowd import TELEMETRY_S, Command, Crowd
from bench.loop_probe import LoopProbe
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from manager.domain.model import Instance, InstanceKey
from manager.ports import Contents
from testbed.cluster import HOST
from testbed.full_store import GENERATION, WIDE_JOB, Layout, contents, fill, load
from testbed.mosquitto import Mosquitto
from testbed.mqtt_wire import PacketStream, Published, connected, publication, published, subscription
from testbed.ports import free_port
from testbed.records import differences
from testbed.stores import sqlite_url
from testbed.waiting import wait_until

NODES = 10
QUIET_S = TELEMETRY_S * 1.25
BUSY = -1.0
STEPS = 34
BRIEF = storm.Times(steady_s=0.5, silence_s=4.5, watch_s=60.0, replace_s=0.0, settle_s=1.0)
HASTY = {"LEASE_S": "3", "GRACE_S": "60"}  # longer than the crowd's telemetry takes, shorter than its silence


def _storm(name: str) -> dict[str, Any]:
    result = storm.run(sizes=(NODES,), scenarios=(name,), times=BRIEF, settings=HASTY)
    names = [figure.name for figure in own_figures.figures_of("storm", result)]
    assert f"storm {NODES}, {name}: largest gap of the loop" in names
    found: dict[str, Any] = result["sizes"][str(NODES)][name]
    assert found["counters"]["mqtt_telemetry"] > 0
    assert found["storm"]["gaps"]["count"] > 0
    return found


@pytest.mark.real("mosquitto")
def test_storm_without_those_that_are_gone() -> None:
    """Everybody else is READY again, and what was on the others does not count as healthy."""
    found = _storm("gone")
    assert (found["unready"], found["lost"], found["nodes"]["READY"]) == (0, 30, 7)


@pytest.mark.real("mosquitto")
def test_storm_amid_a_rolling_update() -> None:
    """The update reaches instances that answer with their new generation, and is not taken for damage."""
    found = _storm("rolling")
    assert found["unready"] == 0
    assert found["rolled"] > 0
    assert found["commands"]["deploy"] > 0  # those of the last step may still be on their way
    assert found["touched"] == 0


@pytest.mark.real("mosquitto")
def test_outage_part() -> None:
    """While the store is away instances say something, and it is looked whether that is saved in the end."""
    result = outage.run(sizes=(NODES,), away_s=7.0, steady_s=0.5, settle_s=1.0)
    found = result["sizes"][str(NODES)]
    assert found["said"] > len(found["ready_away"]) > 0
    assert found["lost_states"] == len(found["lost_words"]) < found["said"]
    assert len(own_figures.figures_of("outage", result)) == 6


@pytest.mark.real("mosquitto")
def test_full_memory_part() -> None:
    """A manager starts on full histories, and a change of one is measured."""
    result = full_memory.run(sizes=(NODES,), events=50, rest_s=0.0)
    found = result["sizes"][str(NODES)]
    assert found["instances"] == NODES * 10
    assert 0 < found["change_bytes"] < found["written_bytes"]
    assert len(own_figures.figures_of("full_memory", result)) == 6


def test_loop_part() -> None:
    """Every step has its time at both sizes and its growth."""
    result = loop.run(sizes=(NODES, 2 * NODES))
    assert {len(steps) for steps in (*result["us"].values(), result["growth"])} == {STEPS}
    assert len(own_figures.figures_of("loop", result)) == 2 * STEPS


@pytest.mark.real("mosquitto")
def test_crowd_speaks_obeys_and_falls_silent(mosquitto: Mosquitto) -> None:
    """Telemetry comes from every node; a deploy is answered; in silence nothing is sent, and those gone stay away."""
    layout = Layout(nodes=4)
    with contextlib.closing(connected(mosquitto.port, "listener")) as link:
        link.sendall(subscription(("nodes/+/information", 0), ("nodes/+/job", 0)))
        listener = _Listener(link)
        crowd = Crowd(mosquitto.port, layout).start()
        try:
            wait_until(lambda: len(listener.nodes()) == 4, what="every node is heard")
            job = b'{"id": "j", "name": "web", "instance_number": 7, "generation": 5}'
            link.sendall(publication(f"nodes/{layout.node_id(1)}/controls", b'{"command": "deploy", "job": %b}' % job))
            [state] = wait_until(lambda: [item for item in listener.hear() if item.topic.endswith("/job")])
            assert b'"RUNNING"' in state.payload
            [command] = crowd.commands()
            assert (command.verb, command.node, command.number, command.generation) == ("deploy", 1, 7, 5)
            crowd.silence()
            wait_until(lambda: not listener.hear(QUIET_S), what="nobody sends")
            crowd.speak(gone=3)
            wait_until(listener.nodes, what="somebody is back")
            assert {*listener.nodes(), *listener.nodes(QUIET_S)} == {layout.node_id(0)}
            assert crowd.pace().telemetry > 0
        finally:
            crowd.stop()


class _Listener:
    """Another client of the broker."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._stream = PacketStream()

    def hear(self, seconds: float = 0.1) -> list[Published]:
        """What arrives within `seconds`."""
        heard: list[Published] = []
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._link.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                packets = self._stream.feed(self._link.recv(65_536))
                heard += [item for packet in packets if (item := published(*packet))]
        return heard

    def nodes(self, seconds: float = QUIET_S) -> set[str]:
        """The ids of those who speak within `seconds`."""
        return {item.topic.split("/")[1] for item in self.hear(seconds)}


def test_touched_are_healthy_instances_only() -> None:
    """A command or a new generation counts, unless its node is gone or a rolling update asks for it, once."""
    layout = Layout(nodes=100)
    saved = contents(layout)
    old = {item.key: item for item in saved.instances}
    moved = _with_generation(saved, old[layout.keys_on(50)[1]])
    wide = [Command(0.0, "deploy", 3, WIDE_JOB, 3, GENERATION + 1), Command(0.0, "delete", 3, WIDE_JOB, 3, GENERATION)]

    def touched(name: str, commands: list[Command], contents: Contents) -> int:
        return int(storm._Storm(layout, name, BRIEF)._touched(commands, contents)["touched"])

    assert touched("back", [], saved) == 0
    assert touched("back", [], moved) == 1
    assert touched("back", wide, moved) == 2
    assert touched("rolling", wide, saved) == 0
    assert touched("rolling", [*wide, replace(wide[0], generation=GENERATION + 2)], saved) == 1
    assert touched("gone", [Command(0.0, "deploy", 3, WIDE_JOB, 99, GENERATION + 1)], saved) == 0


def _with_generation(saved: Contents, instance: Instance) -> Contents:
    newer = replace(instance, generation=GENERATION + 1)
    return replace(saved, instances=tuple(newer if item is instance else item for item in saved.instances))


def test_superseded_telemetry_is_not_dropped() -> None:
    """Of the manager's counters those count that tell of a loss."""
    counters = {"mqtt_telemetry": 9, "mqtt_telemetry_superseded_dropped": 5, "mqtt_telemetry_dropped": 2}
    assert dropped(counters) == 2


def test_the_largest_gap_of_a_manager_s_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells of its last minute only, and may be too busy to answer; where it tells nothing, nothing is told."""

    class Plane:
        def __init__(self, *answers: float | None) -> None:
            self.answers = list(answers)

        def loop_gap_s(self) -> float | None:
            answer = self.answers.pop(0) if self.answers else answers[0]
            if answer == BUSY:
                raise TimeoutError
            return answer

    monkeypatch.setattr(big_plane, "_GAPS_PERIOD_S", 0.01)
    for answers, largest_s in (((0.1, BUSY, 0.3, 0.2), 0.3), ((None, None), None)):
        plane: Any = Plane(*answers)
        with big_plane.OwnGaps(plane) as gaps:
            wait_until(lambda held=plane.answers: not held, what="it was asked again and again")
        assert gaps.largest_s == largest_s


async def test_probe_sees_a_loop_that_is_blocked() -> None:
    """The longest round trip is at least as long as the loop did nothing else."""
    async with _served() as port:
        probe = await asyncio.to_thread(LoopProbe(f"{HOST}:{port}").start)
        try:
            while (await asyncio.to_thread(probe.take)).count < 3:
                await asyncio.sleep(0.1)
            time.sleep(0.5)
            await asyncio.sleep(0.1)
            assert (await asyncio.to_thread(probe.take)).max_ms > 400
        finally:
            probe.stop()


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[int]:
    server, port = grpc.aio.server(), free_port()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    yield port
    await server.stop(None)


def test_filled_store_holds_the_layout(tmp_path: Path) -> None:
    """What is loaded is what was laid out: every instance once, with its history, on the node that knows of it."""
    layout = Layout(nodes=30, events=50, job_size=7)
    fill(sqlite_url(tmp_path), layout)
    loaded = load(sqlite_url(tmp_path))
    expected = contents(layout)
    for one, other in ((loaded.nodes, expected.nodes), (loaded.jobs, expected.jobs)):
        assert sorted(map(repr, one)) == sorted(map(repr, other))
    found = {item.key: item for item in loaded.instances}
    assert [text for item in expected.instances for text in differences(found[item.key], item)] == []
    where = {key: layout.node_id(node) for node in range(30) for key in layout.keys_on(node)}
    assert {key: item.node_id for key, item in found.items()} == where
    assert len(where) == layout.instances
    assert InstanceKey(WIDE_JOB, 29) in where


def test_packets_are_cut_where_they_end() -> None:
    """Whatever pieces a connection delivers, each message arrives once and whole."""
    sent = [Published("nodes/a/job", b"x" * size, size % 3) for size in (0, 1, 127, 128, 20_000)]
    data = b"".join(publication(item.topic, item.payload, item.packet_id) for item in sent)
    for piece in (1, 3, 1000, len(data)):
        stream = PacketStream()
        packets = [packet for at in range(0, len(data), piece) for packet in stream.feed(data[at : at + piece])]
        assert [published(*packet) for packet in packets] == sent
