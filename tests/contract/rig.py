"""A real `python -m gateway` process in front of the stand-in manager and scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from contract.stand_in import Server, StandInManager, StandInScheduler, manager_server, scheduler_server

from testbed.ports import free_port, is_listening
from testbed.processes import Process, module
from testbed.waiting import wait_until


@dataclass(frozen=True)
class Rig:
    """The gateway's `client` and process, and the two stand-ins behind it with their servers."""

    client: httpx.Client
    port: int
    gateway: Process
    manager: StandInManager
    manager_server: Server
    scheduler: StandInScheduler
    scheduler_server: Server


@contextlib.contextmanager
def rig(**settings: str) -> Iterator[Rig]:
    """Everything running for the time of the block; `settings` are environment variables of the gateway."""
    manager, scheduler = StandInManager(), StandInScheduler()  # type: ignore[abstract]
    with (
        manager_server(manager, free_port()) as manager_side,
        scheduler_server(scheduler, free_port()) as scheduler_side,
        gateway(manager_side.port, scheduler_side.port, **settings) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        yield Rig(client, port, process, manager, manager_side, scheduler, scheduler_side)


@contextlib.contextmanager
def gateway(manager_port: int, scheduler_port: int, **settings: str) -> Iterator[tuple[Process, int]]:
    """The process and its port, once it listens."""
    port = free_port()
    env = {
        "GATEWAY_PORT": str(port),
        "MANAGER_ADDRESS": f"127.0.0.1:{manager_port}",
        "SCHEDULER_ADDRESS": f"127.0.0.1:{scheduler_port}",
        **settings,
    }
    with module("gateway", env=env) as process:
        wait_until(lambda: is_listening(port) or not process.is_running, what="the gateway listens")
        assert process.is_running, process.output()
        yield process, port
