"""The network plug-in hears of a job before its deploy goes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from manager.core import Core
from manager.domain.effects import Effect, Verb
from manager.domain.model import Node
from manager.domain.policy import Policy
from manager.root import network
from manager.root.network import NetworkPlugin
from manager.store.factory import make_store
from testbed.records import instance, node, spec
from testbed.stores import sqlite_url
from testbed.waiting import wait_until_async


class _Plugin:
    """Answers POST /api/net/deployment with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/api/net/deployment"
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


class _Commander:
    def __init__(self) -> None:
        self.sent: list[Effect] = []

    def send(self, node: Node, effect: Effect) -> bool:
        self.sent.append(effect)
        return True


@pytest.fixture(name="plugin")
def _plugin() -> Iterator[_Plugin]:
    plugin = _Plugin()
    thread = Thread(target=plugin.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield plugin
    plugin.server.shutdown()
    thread.join()
    plugin.server.server_close()


def _effect(number: int = 0, verb: Verb = Verb.DEPLOY, name: str = "web") -> Effect:
    return Effect(verb=verb, key=instance(number).key, node_id="n1", generation=1, spec=spec(name))


@contextlib.asynccontextmanager
async def _running(folder: Path, address: str) -> AsyncIterator[tuple[NetworkPlugin, _Commander]]:
    commander = _Commander()
    made = NetworkPlugin(Core(make_store(sqlite_url(folder)), Policy()), commander, address)
    task = asyncio.create_task(made.run())
    yield made, commander
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_deploy_waits_for_the_announcement(tmp_path: Path, plugin: _Plugin) -> None:
    """The first try is held, the next after the answer goes out; instances of one job share an announcement."""
    async with _running(tmp_path, plugin.address) as (made, commander):
        assert not made.send(node(), _effect(0))
        assert not made.send(node(), _effect(1))
        await wait_until_async(lambda: made.send(node(), _effect(0)))
        assert made.send(node(), _effect(1))
        assert plugin.bodies == [{"job_name": "web"}]
        assert [effect.key.number for effect in commander.sent] == [0, 1]


async def test_other_commands_do_not_wait(tmp_path: Path, plugin: _Plugin) -> None:
    """Deletes go out at once and nobody is told."""
    async with _running(tmp_path, plugin.address) as (made, _):
        assert made.send(node(), _effect(verb=Verb.DELETE))
        assert plugin.bodies == []


@pytest.mark.parametrize("status", [500, 0])
async def test_failing_plugin_holds_a_deploy_for_a_bounded_time(
    tmp_path: Path, plugin: _Plugin, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It is told again, its failure is counted and in the history, and the deploy goes on without it."""
    monkeypatch.setattr(network, "HOLD_S", 0.6)
    plugin.status = status
    async with _running(tmp_path, plugin.address if status else "127.0.0.1:1") as (made, _):
        assert not made.send(node(), _effect())
        await asyncio.sleep(0.3)
        assert not made.send(node(), _effect())
        await wait_until_async(lambda: made.send(node(), _effect()), timeout=5)
        counters = made._core.counters
        await wait_until_async(lambda: counters["network_plugin_failures"] >= 2)
        assert "network_plugin_failed" in [entry.event.kind for entry in made._core.history.after(0)]


async def test_plugin_that_comes_back_is_told_after_all(tmp_path: Path, plugin: _Plugin) -> None:
    """A failure is repeated until it is taken."""
    plugin.status = 500
    async with _running(tmp_path, plugin.address) as (made, _):
        made.send(node(), _effect())
        await wait_until_async(lambda: len(plugin.bodies) >= 2)
        plugin.status = 200
        await wait_until_async(lambda: made.send(node(), _effect()))
        assert not made._is_failing
