"""The command group that turns errors into exit statuses: no command ends with a traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from clusterctl.exits import CommandError, ExitCode


class CommandGroup(TyperGroup):
    """The root group of the commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named; say in one line what went wrong."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            typer.echo(f"clusterctl: {error.detail}", err=True)
            raise typer.Exit(error.code) from None
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from None
