"""The command tree. Commands import what they need when they run, so that `--help` and `up` start fast."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from clusterctl import (
    change_commands,
    node_commands,
    orphan_commands,
    quarantine_commands,
    read_commands,
    root_commands,
    up_command,
)
from clusterctl.exits import EXIT_CODES_HELP
from clusterctl.group import CommandGroup

app = typer.Typer(
    name="clusterctl",
    cls=CommandGroup,
    help=f"Run, read and change a cluster.\n\n{EXIT_CODES_HELP}",
    epilog="An instance is written JOB/NUMBER, where JOB is an id or the name of a living job.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
up_command.register(app)
read_commands.register(app)
change_commands.register(app)
node_commands.register(app)
orphan_commands.register(app)
root_commands.register(app)
quarantine_commands.register(app)


def _version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib import metadata

        typer.echo(metadata.version("cluster-orchestrator"))
        raise typer.Exit


@app.callback()
def root(
    manager: Annotated[
        str, typer.Option("--manager", "-m", metavar="HOST:PORT", help="The manager's gRPC address, for any command.")
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hand the address on to the command that follows."""
    del version
    if manager:
        os.environ["CLUSTERCTL_MANAGER"] = manager
