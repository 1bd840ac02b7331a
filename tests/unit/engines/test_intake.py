"""Draining the broker's messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.nodes import parse_registration
from cluster.topics import Channel
from manager.core import Core, now_ms
from manager.domain import engines
from manager.domain.model import NodeState
from manager.domain.policy import Policy
from manager.mqtt import intake
from manager.mqtt.bridge import Incoming
from manager.mqtt.intake import Intake
from manager.store.factory import make_store
from standins.engines.generations import recorded
from testbed.stores import sqlite_url

DEAD = b'{"sname": "app.test.web.test", "status": "DEAD", "status_detail": "", "instance": 0}'


class _Bridge:
    """Gives out the messages that it was given, once, and notes which were acknowledged."""

    def __init__(self) -> None:
        self.telemetry: list[Incoming] = []
        self.others: list[Incoming] = []
        self.acknowledged: list[Incoming] = []

    @property
    def has_waiting(self) -> bool:
        return bool(self.telemetry or self.others)

    def take(self, limit: int) -> tuple[list[Incoming], list[Incoming]]:
        taken = (self.telemetry, self.others)
        self.telemetry, self.others = [], []
        return taken

    def acknowledge(self, incoming: Incoming) -> None:
        self.acknowledged.append(incoming)


@pytest.fixture(name="core")
async def _core(tmp_path: Path) -> AsyncIterator[Core]:
    core = Core(make_store(sqlite_url(tmp_path)), Policy())
    await core.open()
    writing = asyncio.create_task(core.writer.run())
    yield core
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_mistake_of_ours_costs_one_message_only(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a message makes us stumble over, it is acknowledged, counted, and the next ones are handled."""
    node = core.state.register(parse_registration(recorded("A", "register")["payload"]), now_ms(), 0.0)
    bridge: Any = _Bridge()
    handling = Intake(core, bridge)
    good = recorded("A", "information")["sequence"][0]["raw"].encode()
    parse = intake.parse_information

    def stumbling(payload: bytes, dialect: Any) -> Any:
        return parse(payload, dialect) if payload == good else 1 // 0

    monkeypatch.setattr(intake, "parse_information", stumbling)
    monkeypatch.setattr(engines, "on_state", lambda *_: 1 // 0)
    bridge.telemetry = [Incoming(node.id, Channel.INFORMATION, text, 1.0, 1, 0) for text in (b"{}", b"{}", good)]
    bridge.others = states = [Incoming(node.id, Channel.STATE, DEAD, 1.0, number, 1) for number in (1, 2)]
    bridge.on_ready()
    running = asyncio.create_task(handling.run())
    async with asyncio.timeout(5):
        while len(bridge.acknowledged) < len(states):
            await asyncio.sleep(0.01)
    running.cancel()
    assert bridge.acknowledged == states
    assert core.counters["mqtt_stumbled"] == 4
    assert core.state.nodes[node.id].state is NodeState.READY


@pytest.mark.parametrize("generation", ["A", "C"])
async def test_empty_static_keys_never_overwrite_a_registration(core: Core, generation: str) -> None:
    """Telemetry holds every static key of a registration, empty: address, name, runtimes and amounts stay."""
    node = core.state.register(parse_registration(recorded(generation, "register")["payload"]), now_ms(), 0.0)
    message = recorded(generation, "information")["sequence"][0]
    assert message["payload"]["host"] == ""
    bridge: Any = _Bridge()
    Intake(core, bridge)._take_telemetry([Incoming(node.id, Channel.INFORMATION, message["raw"].encode(), 1.0, 1, 0)])
    heard = core.state.nodes[node.id]
    assert heard.registration == node.registration
    assert heard.registration.document == node.registration.document
    assert heard.state is NodeState.READY
    assert core.state.live[node.id].memory_free_bytes
