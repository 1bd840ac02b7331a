"""`orphans …`: take in, or end, what runs on a node and is not known to the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clusterctl.options import ADDRESS, ManagerOption, NodeArgument, TimeoutOption, WaitOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.v1.instance_pb2 import Instance

_orphans = typer.Typer(
    no_args_is_help=True, help="Adopt or delete what runs on a node unknown; `get orphans` lists it."
)
NameArgument = Annotated[str, typer.Argument(metavar="JOB_NAME", help="The job's name on the node.")]
NumberArgument = Annotated[
    int | None, typer.Argument(metavar="[N]", min=0, help="The instance's number; without it all of that name there.")
]
FileOption = Annotated[
    str, typer.Option("--file", "-f", metavar="FILE", help='The job document of what runs there; "-": standard input.')
]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.add_typer(_orphans, name="orphans")


@_orphans.command()
def adopt(
    node: NodeArgument,
    job_name: NameArgument,
    number: NumberArgument = None,
    manager: ManagerOption = ADDRESS,
    file: FileOption = "",
    job_id: Annotated[str, typer.Option("--id", help="The job's id; without it the node's word, or the name's.")] = "",
) -> None:
    """Make it an instance of this cluster, in the generation that runs; it is not restarted.

    A worker tells what it runs. Of what runs on other nodes a job of that name says it, or else FILE.
    """
    from clusterctl import orphans
    from clusterctl.client import connected

    with connected(manager) as peer:
        _say("adopted", node, orphans.adopt(peer, node, job_name, number, file=file, job_id=job_id))


@_orphans.command()
def delete(
    node: NodeArgument,
    job_name: NameArgument,
    number: NumberArgument = None,
    manager: ManagerOption = ADDRESS,
    wait: WaitOption = False,
    timeout: TimeoutOption = 60,
) -> None:
    """End it on its node; the order is repeated until the node confirms it."""
    from clusterctl import orphans, waiting
    from clusterctl.client import connected

    with connected(manager) as peer:
        found = orphans.delete(peer, node, job_name, number)
        _say("being deleted", node, found)
        if wait:
            waiting.until_gone(peer, [item.key for item in found], timeout)


def _say(what: str, node: str, found: Iterable[Instance]) -> None:
    for item in found:
        typer.echo(f"{what}: {item.job_name}/{item.key.number} on {node}, as {item.key.job_id}/{item.key.number}")
