"""Runs a whole cluster on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import http.client
import time
from functools import partial
from typing import Final

from cluster import log_stream
from clusterctl.claim import check_ports, claimed
from clusterctl.formats import note
from clusterctl.guardian import Guardian
from clusterctl.layout import Layout
from clusterctl.options import ADDRESS as DEFAULT_MANAGER
from clusterctl.parts import find_parts
from clusterctl.supervisor import Supervisor

EXAMPLE_IMAGE: Final = "builtin:hello"
_POLL_S: Final = 0.02
_WORKERS_ANYWAY_S: Final = 5.0
_SLOW_POLL_S: Final = 0.2


def up(layout: Layout) -> None:
    """Run the cluster until a signal. Raises CommandError where it cannot start.

    What it says to nobody, because the terminal is gone or the disk is full, ends nothing.
    """
    log_stream.install()
    started = time.monotonic()
    with claimed(layout.folder):
        check_ports(layout)
        guardian = Guardian()
        try:
            _introduce(layout)
            asyncio.run(_run(layout, guardian, started))
        finally:
            guardian.close()
    note("all of it has ended")


def _introduce(layout: Layout) -> None:
    note(f"cluster in {layout.folder} (its state survives restarts)")
    for part in find_parts(layout.mosquitto, has_worker=layout.worker_count > 0):
        note(f"  {part.name:<10} {part.detail}")
    if layout.is_exposed:
        note(f"WARNING: {layout.bind} admits peers without authentication; use it in trusted networks only")


async def _run(layout: Layout, guardian: Guardian, started: float) -> None:
    async with Supervisor(guardian, note) as supervisor:
        supervisor.start(layout.core())
        if await supervisor.until(partial(_is_up_or_late, layout, started + _WORKERS_ANYWAY_S), _POLL_S):
            ready_s = time.monotonic() - started
            supervisor.start(layout.workers())
            if missing := await asyncio.to_thread(_what_is_missing, layout):
                note(f"not ready after {ready_s:.0f} s, going on: {missing}")
            if await supervisor.until(partial(_is_up, layout), _SLOW_POLL_S):
                _report(layout, time.monotonic() - started if missing else ready_s)
                await supervisor.until_signalled()
        note("ending workers and their workloads, then the rest; a second Ctrl-C kills")


async def _is_up(layout: Layout) -> bool:
    return not await asyncio.to_thread(_what_is_missing, layout)


async def _is_up_or_late(layout: Layout, deadline: float) -> bool:
    return time.monotonic() > deadline or await _is_up(layout)


def _what_is_missing(layout: Layout) -> str:
    connection = http.client.HTTPConnection(layout.host, layout.ports["gateway"], timeout=2.0)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        return "" if response.status == 200 else response.read().decode(errors="replace") or "not ready"
    except (OSError, http.client.HTTPException):
        return "the gateway does not answer"
    finally:
        connection.close()


def _report(layout: Layout, ready_s: float) -> None:
    where = f" --manager {layout.address('manager')}" if layout.address("manager") != DEFAULT_MANAGER else ""
    note(
        f"ready after {ready_s:.1f} s\n"
        f"  gateway    http://{layout.address('gateway')} (API: /openapi.json)\n"
        f"  manager    {layout.address('manager')} (gRPC)\n"
        f"  broker     {layout.address('broker')} (MQTT)\n"
        f"  logs       {layout.folder / 'logs'}\n"
        "try in another terminal:\n"
        f"  clusterctl get nodes{where}\n"
        f"  clusterctl deploy --name hello --technology wasm --image {EXAMPLE_IMAGE} --wait{where}\n"
        f"  clusterctl logs hello{where}\n"
        "Ctrl-C ends all of it, workloads too"
    )
