"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from clusterctl.formats import Output

ManagerOption = Annotated[
    str,
    typer.Option(
        "--manager", "-m", envvar="CLUSTERCTL_MANAGER", metavar="HOST:PORT", help="The manager's gRPC address."
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to write what was read.")]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Go on and show changes until Ctrl-C.")]
JobFilter = Annotated[str, typer.Option("--job", "-j", metavar="JOB", help="Only this job: an id or a name.")]
NodeFilter = Annotated[str, typer.Option("--node", "-n", metavar="NODE", help="Only this node: an id or a name.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return only when it has happened.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long --wait waits.")]
InstanceArgument = Annotated[
    str, typer.Argument(metavar="JOB[/NUMBER]", help="A job (id or name) and the number of its instance.")
]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="A node's id or name.")]
ADDRESS: Final = "127.0.0.1:10101"
