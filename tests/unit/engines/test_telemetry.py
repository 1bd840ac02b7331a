"""Registrations, telemetry and usages of the four generations told apart."""

import json
from typing import Any

import pytest

from cluster.nodes import Dialect, parse_registration
from cluster.payloads import parse_information, parse_resources
from cluster.topics import parse
from manager.domain.lists import usage
from manager.domain.model import Node, NodeLive
from standins.engines.engine import Engine
from standins.engines.generations import GENERATIONS, recorded

MIB = 1024 * 1024


def information(generation: str, **changed: Any) -> bytes:
    """Telemetry of a generation."""
    engine: Engine = GENERATIONS[generation](0, "edge")
    return json.dumps({**engine.information(), **changed}).encode()


def test_recorded_registrations_are_understood() -> None:
    """Host name, address, port as text, cores, memory in MB, runtimes and architecture of A and C."""
    older = parse_registration(json.loads(recorded("A", "register")["raw"]))
    newer = parse_registration(json.loads(recorded("C", "register-unikernel")["raw"]))
    assert (older.dialect, newer.dialect) == (Dialect.ENGINE_A, Dialect.ENGINE_C)
    assert [item.name for item in (older, newer)] == ["worker-1"] * 2
    assert [item.capacity.cpu_millicores for item in (older, newer)] == [2000] * 2
    assert [item.capacity.memory_bytes for item in (older, newer)] == [22580 * MIB, 23342 * MIB]
    assert (older.technologies, newer.technologies) == (("docker",), ("runc", "docker", "unikernel"))
    assert [item.architecture for item in (older, newer)] == ["amd64"] * 2
    assert [item.capacity.gpus for item in (older, newer)] == [0, 0]


def test_gpus_of_each_generation_are_counted() -> None:
    """A lists them, B counts them as cores, C and D as vgpus."""
    body = GENERATIONS["A"](0, "edge").registration()
    assert parse_registration({**body, "gpu_info": {"gpu_0": "{}", "gpu_1": "{}"}}).capacity.gpus == 2
    body = GENERATIONS["B"](0, "edge").registration()
    assert parse_registration({**body, "gpu_cores": 1}).capacity.gpus == 1
    body = GENERATIONS["C"](0, "edge").registration()
    assert parse_registration({**body, "vgpus": 3}).capacity.gpus == 3


@pytest.mark.parametrize(
    ("generation", "changed", "cpu"),
    [("A", {"cpu": 0.5}, 25.0), ("A", {"cpu": 9.5}, 100.0), ("B", {"cpu": 12.5}, 12.5), ("C", {"cpu_percent": 7}, 7.0)],
)
def test_cpu_of_a_is_a_load_average(generation: str, changed: dict[str, Any], cpu: float) -> None:
    """Without GPU keys and architecture it is load per core, clipped; all others send a percentage."""
    dialect = Dialect.ENGINE_A if generation in "AB" else Dialect.ENGINE_C
    assert parse_information(information(generation, **changed), dialect).cpu_percent == cpu


def test_memory_is_percent_in_a_and_b_and_megabytes_in_c_and_d() -> None:
    """The same key with two meanings is told by the keys beside it, never by the dialect of the registration."""
    for generation in "ABCD":
        for dialect in (Dialect.ENGINE_A, Dialect.ENGINE_C):
            telemetry = parse_information(information(generation), dialect)
            assert 0 < (telemetry.memory_percent or 0) < 3
            assert 20_000 * MIB < (telemetry.memory_free_bytes or 0) < 30_000 * MIB


@pytest.mark.parametrize("generation", ["A", "C"])
def test_every_recorded_list_is_understood(generation: str) -> None:
    """Numbers as texts, logs cut in mid-character with NUL and escapes: nothing in any recording is refused."""
    lists = 0
    for path in sorted((GENERATIONS[generation].folder()).iterdir()):
        for entry in _entries(json.loads(path.read_text())):
            if parse(entry["topic"]) and entry["topic"].endswith("jobs/resources"):
                parsed = parse_resources(entry["raw"].encode())
                assert len(parsed.entries) == len(entry["payload"]["services"])
                assert all("\0" not in (item.logs or "") for item in parsed.entries)
                lists += 1
    assert lists > 100


def _entries(document: Any) -> list[dict[str, Any]]:
    found = [document, *document.get("sequence", [])] if isinstance(document, dict) else document
    return [item for item in found if "topic" in item and "raw" in item]


def test_usages_have_one_unit_whatever_the_generation() -> None:
    """Percent of one core and bytes from A; percent of the node and a share of the free memory, or bytes, from C."""
    live = NodeLive(memory_free_bytes=1000)
    node = Node(id="n", registration=parse_registration(recorded("A", "register")["payload"]), registered_at_ms=0)
    cases = [
        ({"cpu": "100.500000", "memory": "1294336.000000"}, 50.25, 1294336),
        ({"cpu": "", "memory": ""}, None, None),
        ({"cpu_percent": "3.5", "memory_percent": "0.250000"}, 3.5, 250),
        ({"cpu_percent": "100.1", "memory_percent": "1294336.000000"}, 100.0, 1294336),
    ]
    for amounts, cpu, memory in cases:
        body = {"services": [{**amounts, "disk": "", "job_name": "a", "virtualization": "docker", "instance": 0}]}
        [entry] = parse_resources(json.dumps(body).encode()).entries
        seen = usage(entry, node, live)
        assert (seen.cpu_percent, seen.memory_bytes) == (cpu, memory)


def test_topics_without_a_node_are_refused() -> None:
    """An engine that got no id speaks on `nodes//…`; the network plug-in's topics are left alone."""
    assert parse("nodes//information") is None
    assert parse("nodes//jobs/resources") is None
    assert parse("nodes/65f1a2b3c4d5e6f7a8b9c0da/net/subnet") is None
