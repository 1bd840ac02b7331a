"""The link without a root, and with one that makes it stumble."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from manager.core import Core
from manager.domain.policy import Policy
from manager.domain.roots import LinkState
from manager.root import link as module
from manager.root.link import RootLink
from manager.root.settings import RootSettings
from manager.roots import Roots
from manager.store.factory import make_store
from testbed.stores import sqlite_url
from testbed.waiting import wait_until_async


def _link(folder: Path, **settings: Any) -> tuple[RootLink, Roots]:
    core = Core(make_store(sqlite_url(folder)), Policy())
    core.writer.working.set()
    roots = Roots(core)
    return RootLink(core, roots, lambda: RootSettings(**settings)), roots


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "no root is configured"), ({"cluster_pairing_key": "k"}, "SYSTEM_MANAGER_URL is not")],
)
async def test_stand_alone_is_said_once(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    """Without a root the link ends at once; a key without a root is pointed out."""
    link, roots = _link(tmp_path, system_manager_url="", **settings)
    with capture_logs() as logs:
        await link.run()
    assert [words in entry["event"] for entry in logs] == [True]
    assert roots.is_stand_alone


async def test_what_is_no_address_is_told_and_nothing_else_happens(tmp_path: Path) -> None:
    """A wrong SYSTEM_MANAGER_URL is one line, and the cluster goes on."""
    link, roots = _link(tmp_path, system_manager_url="ftp://root")
    await link.run()
    assert roots.standing.state is LinkState.REFUSED
    assert "SYSTEM_MANAGER_URL" in roots.words


@pytest.mark.parametrize("error", [RuntimeError("a bug"), TypeError("another")])
async def test_nothing_ends_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever goes wrong is said once, and tried again after a pause."""
    tries = []

    async def stumble(*_: Any) -> None:
        tries.append(1)
        raise error

    monkeypatch.setattr(module, "handshake", stumble)
    link, roots = _link(tmp_path, system_manager_url="127.0.0.1:1", root_retry_base_s=0.01, root_retry_cap_s=0.02)
    with capture_logs() as logs:
        task = asyncio.create_task(link.run())
        await wait_until_async(lambda: len(tries) > 2)
    assert [entry["event"] for entry in logs].count("root link stumbled") == 1
    assert str(error) in roots.standing.detail
    assert roots.standing.state is LinkState.NEVER
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_pauses_grow_and_are_capped(tmp_path: Path) -> None:
    """A root that is away is tried less and less often, never in a busy loop."""
    pauses = module.Pauses(1.0, 8.0)
    taken = [pauses.next_s() for _ in range(6)]
    full = [1, 2, 4, 8, 8, 8]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(taken, full, strict=True))
    pauses.reset()
    assert pauses.next_s() <= 1
