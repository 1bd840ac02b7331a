"""The worker's messages, as the manager's own parsers read them."""

from dataclasses import replace

import pytest

from cluster.nodes import Dialect, parse_registration
from cluster.payloads import (
    ANY_SOURCE,
    Command,
    parse_command,
    parse_object,
    parse_resources,
    parse_state,
    write_command,
)
from testbed.machines import REF, spec
from worker import messages
from worker.agent import to_event
from worker.gateway import Membership, parse_membership
from worker.records import DeleteAsked, DeployAsked, Instance, MoveAnnounced, Phase, Status
from worker.runtime.base import Usage
from worker.state import Message

NODE = messages.NodeFacts(
    name="n1",
    ip="127.0.0.2",
    port=10200,
    technologies=("docker", "wasm"),
    vcpus=4,
    memory_in_mb=2048,
    storage_in_mb=100,
    architecture="amd64",
)


def test_registration_is_this_projects_dialect() -> None:
    """Names, technologies and totals arrive; the first time without an id."""
    found = parse_registration(parse_object(messages.registration(NODE, "")))
    assert (found.dialect, found.name, found.ip, found.port) == (Dialect.WORKER, "n1", "127.0.0.2", 10200)
    assert found.technologies == ("docker", "wasm")
    assert found.capacity.cpu_millicores == 4000
    assert found.capacity.memory_bytes == 2048 * 1024 * 1024
    assert found.given_id == ""


def test_state() -> None:
    """Every field of a state arrives; an exit code only where there is one."""
    message = Message(
        sequence=7, ref=REF, job_name="web", status=Status.FAILED, detail="d" * 5000, exit_code=3, at_ms=99
    )
    found = parse_state(messages.state(message, "127.0.0.2"))
    assert (found.job_name, found.job_id, found.number, found.generation) == ("web", "j1", 0, 100)
    assert (found.status, found.exit_code, found.sequence, found.at_ms) == ("FAILED", 3, 7, 99)
    assert len(found.detail) == 1024
    assert found.restarts == 0
    assert parse_state(messages.state(replace(message, restarts=4), "127.0.0.2")).restarts == 4


def test_inventory() -> None:
    """Everything on disk with what it takes, and the sequence that it contains."""
    item = Instance(ref=REF, spec=spec(), phase=Phase.RUNNING, status=Status.RUNNING, detail="fine", restarts=2)
    usage = {REF: Usage(cpu_percent=12.3456, memory_bytes=10, disk_bytes=20, last_words="hello")}
    found = parse_resources(messages.Inventories().compose([item], usage, 42, 0.0))
    assert (found.is_inventory, found.sequence) == (True, 42)
    (entry,) = found.entries
    assert (entry.job_id, entry.job_name, entry.number, entry.generation) == ("j1", "web", 0, 100)
    assert (entry.technology, entry.status, entry.detail) == ("docker", "RUNNING", "fine")
    assert (entry.cpu_percent, entry.memory_bytes, entry.disk_bytes) == (12.346, 10, 20)
    assert (entry.restarts, entry.logs) == (2, "hello")


def test_last_words_are_told_when_they_change_and_once_a_minute() -> None:
    """An inventory that says nothing of them means that they are as they were; an emptied log is told."""
    item = Instance(ref=REF, spec=spec(), phase=Phase.RUNNING, status=Status.RUNNING)
    inventories = messages.Inventories()

    def told(words: str, at_s: float) -> str | None:
        raw = inventories.compose([item], {REF: Usage(last_words=words)}, 1, at_s)
        return parse_resources(raw).entries[0].logs

    assert [told("a", 0), told("a", 5), told("b", 10), told("b", 69), told("b", 70), told("", 75), told("", 80)] == [
        *("a", None, "b", None, "b", "", None)
    ]


def test_last_words_of_what_is_gone_are_forgotten() -> None:
    """The same instance is told anew when it is back."""
    item = Instance(ref=REF, spec=spec(), phase=Phase.RUNNING, status=Status.RUNNING)
    inventories, usages = messages.Inventories(), {REF: Usage(last_words="a")}
    inventories.compose([item], usages, 1, 0.0)
    inventories.compose([], {}, 1, 1.0)
    assert parse_resources(inventories.compose([item], usages, 1, 2.0)).entries[0].logs == "a"


@pytest.mark.parametrize(
    ("word", "event"),
    [
        ("deploy", DeployAsked(REF, spec())),
        ("replicate", DeployAsked(REF, spec())),
        ("delete", DeleteAsked(REF, spec())),
        ("move", MoveAnnounced(REF, "target")),
    ],
)
def test_commands(word: str, event: object) -> None:
    """A command as the manager writes it becomes the machine's event, its specification whole."""
    command = Command(command=word, job_id="j1", number=0, generation=100, spec=spec(), cluster="c", worker="target")
    assert to_event(parse_command(write_command(command))) == event


@pytest.mark.parametrize("are_stopped", [True, False])
def test_farewell(are_stopped: bool) -> None:
    """It says that the session ended on purpose, and what became of the workloads."""
    word = "stopped" if are_stopped else "kept"
    said = parse_object(messages.farewell(are_workloads_stopped=are_stopped))
    assert said == {"online": False, "stopped": True, "workloads": word}


def test_live_moves() -> None:
    """The words of a live move arrive on both sides, and only where there is one."""
    plain = Message(sequence=7, ref=REF, job_name="web", status=Status.STARTING, detail="", exit_code=None, at_ms=99)
    assert "incoming" not in parse_object(messages.state(plain, "127.0.0.2"))
    waiting = parse_state(messages.state(replace(plain, incoming="tcp:127.0.0.2:4711"), "127.0.0.2"))
    assert waiting.incoming == "tcp:127.0.0.2:4711"
    deploy = Command(command="deploy", job_id="j1", number=0, generation=100, spec=spec(), incoming=ANY_SOURCE)
    assert to_event(parse_command(write_command(deploy))) == DeployAsked(REF, spec(), is_live=True)
    move = replace(deploy, command="move", worker="b", incoming="tcp:127.0.0.2:4711")
    assert to_event(parse_command(write_command(move))) == MoveAnnounced(REF, "b", "tcp:127.0.0.2:4711")


def test_membership() -> None:
    """The port is a string or a number."""
    assert parse_membership(b'{"id":"a1","MQTT_BROKER_PORT":"10003"}') == Membership(node_id="a1", broker_port=10003)
    with_host = parse_membership(b'{"id":"a1","MQTT_BROKER_PORT":1,"MQTT_BROKER_HOST":"h"}')
    assert (with_host.broker_port, with_host.broker_host) == (1, "h")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id":"a/b","MQTT_BROKER_PORT":"1"}',
        b'{"id":"a","MQTT_BROKER_PORT":"x"}',
        b'{"id":"a"}',
        b'{"id":"a","MQTT_BROKER_PORT":"1","MQTT_BROKER_HOST":"no..name"}',
    ],
)
def test_bad_answers_are_refused(body: bytes) -> None:
    """An answer that cannot be used is an error, not a half registration."""
    with pytest.raises(ValueError):
        parse_membership(body)
