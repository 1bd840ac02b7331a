"""`up`: a whole cluster on this machine."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from clusterctl.exits import UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("up")(up_command)


def up_command(
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where state and logs are kept.")] = Path("data"),
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start no worker.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=100, help="How many workers.")] = 1,
    bind: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Listen there; beyond loopback peers are not authenticated.")
    ] = "127.0.0.1",
    port_offset: Annotated[int, typer.Option(min=0, max=50_000, help="Added to every port.")] = 0,
) -> None:
    """Run broker, manager, scheduler, gateway and workers on this machine until Ctrl-C."""
    from clusterctl.layout import Layout
    from clusterctl.parts import find_mosquitto
    from clusterctl.up import up

    layout = Layout(
        folder=data_dir.resolve(),
        bind=_address(bind),
        port_offset=port_offset,
        worker_count=0 if no_worker else workers,
        mosquitto=find_mosquitto(),
    )
    up(layout)


def _address(bind: str) -> str:
    try:
        return str(ipaddress.IPv4Address("127.0.0.1" if bind == "localhost" else bind))
    except ValueError:
        raise UsageError(f"--bind {bind!r} is not an IPv4 address, such as 127.0.0.1 or 0.0.0.0") from None
