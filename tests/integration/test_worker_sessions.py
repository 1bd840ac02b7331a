"""The worker's shell between a real broker and its disk: no state is lost, doubled or taken for another."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage

from cluster.topics import Channel
from testbed.machines import spec
from testbed.mosquitto import Mosquitto
from testbed.ports import free_port
from testbed.waiting import wait_until_async
from testbed.worker import NODE_ID, ManagerSide, manager_side
from worker import agent as agent_module
from worker.agent import Agent
from worker.gateway import Membership, RegistrationError, register
from worker.mqtt import Address, Handlers, Session
from worker.records import DeleteAsked, Event, LeaseAcknowledged, Ref
from worker.settings import WorkerSettings
from worker.state import State


@pytest.fixture(name="manager")
def _manager(mosquitto: Mosquitto) -> Iterator[ManagerSide]:
    with manager_side(mosquitto) as manager:
        yield manager


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Agent]:
    """An agent without runtimes, whose gateway does not answer, for the time of the block."""
    state = State(folder)
    agent = Agent(WorkerSettings(gateway_url=f"http://127.0.0.1:{free_port()}", worker_data_dir=folder), state, {})
    async with asyncio.TaskGroup() as tasks:
        begun = asyncio.Event()
        inner = tasks.create_task(_begin(agent, begun), name="agent")
        await begun.wait()
        try:
            yield agent
        finally:
            inner.cancel()
    await agent.close(stop_workloads=False)
    state.close()


async def _begin(agent: Agent, begun: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        agent.begin(tasks)
        begun.set()


def delete(agent: Agent, number: int) -> None:
    """A command about something unknown: it is answered STOPPED, and forgotten once that has arrived."""
    agent._inbox.put_nowait(DeleteAsked(Ref("j", number, 1), spec()))


def membership(broker: Mosquitto, host: str = "127.0.0.1") -> Membership:
    """Two names of the same broker are two memberships."""
    return Membership(node_id=NODE_ID, broker_port=broker.port, broker_host=host)


async def test_states_survive_every_change_of_the_session(
    tmp_path: Path, manager: ManagerSide, mosquitto: Mosquitto
) -> None:
    """While the membership changes again and again, twice at a time, each state arrives, and each is acknowledged."""
    count = 400
    async with serving(tmp_path) as agent:
        for number in range(count):
            delete(agent, number)
            if number % 40 == 0:
                for host in ("127.0.0.1", "localhost", "127.0.0.1"):
                    agent.registrar.take(membership(mosquitto, host))
            await asyncio.sleep(0.005)
        await wait_until_async(lambda: {state["instance"] for state in manager.states} == set(range(count)))
        await wait_until_async(lambda: not agent.machine.instances, what="each is acknowledged and forgotten")
        await wait_until_async(lambda: not agent._state.outbox(), what="the outbox is empty")
        sequences = list(dict.fromkeys(state["sequence"] for state in manager.states))
        assert sequences == sorted(sequences)
        assert len({state["instance"] for state in manager.states}) == len(sequences) == count


async def test_there_is_one_session_at_a_time(tmp_path: Path, manager: ManagerSide, mosquitto: Mosquitto) -> None:
    """Two with the same client id would throw each other out for ever."""
    async with serving(tmp_path) as agent:
        for host in ("127.0.0.1", "localhost", "127.0.0.1", "localhost"):
            agent.registrar.take(membership(mosquitto, host))
        await wait_until_async(lambda: agent.is_connected)
        delete(agent, 0)
        await wait_until_async(lambda: manager.states, what="its state")
        before = manager.connections.count(True)
        await asyncio.sleep(3.0)  # longer than a client that was thrown out waits before it comes again
        assert manager.connections.count(True) == before
        assert agent.is_connected


async def test_a_session_that_was_ended_tells_nothing_any_more(mosquitto: Mosquitto) -> None:
    """A late acknowledgement has the number of another message by now; a late message is left to be delivered again."""
    told: list[object] = []
    handlers = Handlers(
        connected=lambda: told.append("connected"),
        message=lambda channel, payload, _: told.append((channel, payload)),
        published=told.append,
    )
    session = Session(Address(host="127.0.0.1", port=mosquitto.port, node_id=NODE_ID), handlers)
    await wait_until_async(lambda: session.is_connected)
    client = session._client
    await session.stop()
    told.clear()
    message = MQTTMessage(mid=1, topic=f"nodes/{NODE_ID}/controls".encode())
    session._published(client, 1)
    session._received(client, message)
    session._connected(client)
    assert told == []
    assert not session.is_connected
    assert session.publish(Channel.STATE, b"{}", qos=1) is None


async def test_a_message_that_brings_a_bug_to_light_costs_itself(
    tmp_path: Path, manager: ManagerSide, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged, lest it come again for ever, and the commands behind it are carried out."""

    def parse(payload: bytes) -> object:
        if b"poison" in payload:
            raise KeyError("poison")
        return sound(payload)

    sound = agent_module.parse_command
    monkeypatch.setattr(agent_module, "parse_command", parse)
    async with serving(tmp_path) as agent:
        agent.registrar.take(membership(mosquitto))
        await wait_until_async(lambda: agent.is_connected)
        for number in range(40):  # more than the broker sends without an acknowledgement
            manager.command("delete", "poison", number=number)
        manager.command("delete", "sound")
        await wait_until_async(lambda: manager.last("sound"), what="the answer to the sound one")


@pytest.mark.parametrize("kind", [DeleteAsked, LeaseAcknowledged])
async def test_an_event_that_brings_a_bug_to_light_costs_itself(
    tmp_path: Path, manager: ManagerSide, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, kind: type[Event]
) -> None:
    """The machine goes on with the next."""
    monkeypatch.setattr(agent_module, "AGAIN_S", 0.01)
    async with serving(tmp_path) as agent:
        sound = agent.machine.handle

        def handle(event: Event, now: float) -> object:
            if isinstance(event, kind) and getattr(getattr(event, "ref", None), "number", 0) == 0:
                raise KeyError("a bug")
            return sound(event, now)

        monkeypatch.setattr(agent.machine, "handle", handle)
        agent.registrar.take(membership(mosquitto))
        agent._inbox.put_nowait(LeaseAcknowledged(1.0))
        delete(agent, 0)
        delete(agent, 1)
        await wait_until_async(lambda: manager.last("j", 1), what="the answer to the other")


async def test_a_broken_part_begins_again(
    tmp_path: Path, manager: ManagerSide, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that ends telemetry, the inventory or the session ends nothing else, and they come back."""
    monkeypatch.setattr(agent_module, "AGAIN_S", 0.01)
    bugs = {"sample": 1, "Session": 1}

    def failing(name: str) -> Callable[..., object]:
        sound = getattr(agent_module, name)

        def fails_once(*arguments: object) -> object:
            bugs[name] -= 1
            if bugs[name] >= 0:
                raise KeyError(name)
            return sound(*arguments)

        return fails_once

    for name in bugs:
        monkeypatch.setattr(agent_module, name, failing(name))
    async with serving(tmp_path) as agent:
        agent.registrar.take(membership(mosquitto))
        await wait_until_async(lambda: manager.telemetry and manager.inventories, what="both come")
    assert all(left < 0 for left in bugs.values())


_ANSWERS = {
    "garbage": b"this is no HTTP\r\n\r\n",
    "nothing": b"",
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "an error cut short": b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nno",
    "a line without end": b"HTTP/1.1 200 OK\r\n" + b"X" * 100_000 + b"\r\n\r\n",
    "another's JSON": b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"no"',
}


@pytest.mark.parametrize("answer", _ANSWERS.values(), ids=_ANSWERS)
async def test_whatever_answers_in_the_gateways_place_is_a_failed_registration(answer: bytes) -> None:
    """A proxy, a captive portal or another program there must not end the worker."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RegistrationError):
            await register(f"http://127.0.0.1:{server.getsockname()[1]}", b"{}")
        thread.join()
