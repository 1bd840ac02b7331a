"""Draining the broker's messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.nodes import parse_registration
from cluster.topics import Channel
from manager.domain import engines
from manager.domain.model import Node, NodeState
from manager.mqtt import intake
from manager.mqtt.inbox import Incoming
from manager.mqtt.intake import Intake
from standins.engines.generations import recorded
from testbed.live_core import HandBroker, LiveCore, live_core
from testbed.waiting import wait_until_async

DEAD = b'{"sname": "app.test.web.test", "status": "DEAD", "status_detail": "", "instance": 0}'


@pytest.fixture(name="live")
async def _live(tmp_path: Path) -> AsyncIterator[LiveCore]:
    async with live_core(tmp_path) as live:
        yield live


def _registered(live: LiveCore, generation: str) -> Node:
    return live.core.state.register(parse_registration(recorded(generation, "register")["payload"]), 1)


async def test_mistake_of_ours_costs_one_message_only(live: LiveCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a message makes us stumble over, it is acknowledged, counted, and the next ones are handled."""
    node, core, broker = _registered(live, "A"), live.core, HandBroker(live.core.counters)
    handling = Intake(core, broker, live.detector)
    good = recorded("A", "information")["sequence"][0]["raw"].encode()
    parse = intake.parse_information

    def stumbling(payload: bytes, dialect: Any) -> Any:
        return parse(payload, dialect) if payload == good else 1 // 0

    monkeypatch.setattr(intake, "parse_information", stumbling)
    monkeypatch.setattr(engines, "on_state", lambda *_: 1 // 0)
    now_s = live.clock.mono_s()
    await handling._take_telemetry([Incoming(node.id, Channel.INFORMATION, b"{}", now_s, 1, 0) for _ in range(2)])
    core.hearing.heard(node.id, now_s)
    broker.inbox.put(Incoming(node.id, Channel.INFORMATION, good, now_s, 1, 0))
    states = [Incoming(node.id, Channel.STATE, DEAD, now_s, number, 1) for number in (1, 2)]
    for state in states:
        broker.inbox.put(state)
    handling.wake()
    running = [
        asyncio.create_task(work) for work in (handling.take_telemetry_forever(), handling.take_others_forever())
    ]
    await wait_until_async(lambda: broker.acknowledged == states)
    for task in running:
        task.cancel()
    assert core.counters["mqtt_stumbled"] == 4
    assert core.state.nodes[node.id].state is NodeState.READY


@pytest.mark.parametrize("generation", ["A", "C"])
async def test_empty_static_keys_never_overwrite_a_registration(live: LiveCore, generation: str) -> None:
    """Telemetry holds every static key of a registration, empty: address, name, runtimes and amounts stay."""
    node, core = _registered(live, generation), live.core
    message = recorded(generation, "information")["sequence"][0]
    assert message["payload"]["host"] == ""
    now_s = live.clock.mono_s()
    core.hearing.heard(node.id, now_s)
    telemetry = Incoming(node.id, Channel.INFORMATION, message["raw"].encode(), now_s, 1, 0)
    await Intake(core, HandBroker(core.counters), live.detector)._take_telemetry([telemetry])
    heard = core.state.nodes[node.id]
    assert heard.registration == node.registration
    assert heard.registration.document == node.registration.document
    assert heard.state is NodeState.READY
    assert core.state.live[node.id].memory_free_bytes
