"""`node …`: take machines in, keep new work away from them, empty them, forget them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clusterctl.exits import CommandError, ExitCode
from clusterctl.options import ADDRESS, ManagerOption, NodeArgument

if TYPE_CHECKING:
    from cluster.v1.node_pb2 import Node

_node = typer.Typer(no_args_is_help=True, help="Adopt, cordon, uncordon, drain, give up or remove a node.")


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.add_typer(_node, name="node")


@_node.command()
def adopt(
    address: Annotated[str, typer.Argument(metavar="IP:PORT", help="Where a waiting worker listens.")],
    manager: ManagerOption = ADDRESS,
) -> None:
    """Admit a worker that waits to be asked."""
    from cluster.v1.manager_pb2 import AdoptNodeRequest
    from clusterctl.client import connected, request_id

    with connected(manager) as peer:
        request = AdoptNodeRequest(request_id=request_id(), address=address)
        node = peer.call(peer.api.AdoptNode, request).node
    typer.echo(f"adopted {_named(node)}")


@_node.command()
def cordon(name: NodeArgument, manager: ManagerOption = ADDRESS) -> None:
    """Place nothing new on a node; what runs there stays."""
    typer.echo(f"cordoned {_named(_set_cordoned(manager, name, True))}")


@_node.command()
def uncordon(name: NodeArgument, manager: ManagerOption = ADDRESS) -> None:
    """Allow new placements on a node again."""
    typer.echo(f"uncordoned {_named(_set_cordoned(manager, name, False))}")


@_node.command()
def drain(
    name: NodeArgument,
    manager: ManagerOption = ADDRESS,
    max_parallel: Annotated[int, typer.Option(min=0, help="How many instances move at once; 0: the default.")] = 0,
    deadline: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="0: the default.")] = 0,
) -> None:
    """Cordon a node and move its instances away, waiting until it is empty; uncordoning it takes that back."""
    from cluster.convert import duration
    from cluster.v1.manager_pb2 import DrainNodeRequest
    from clusterctl.client import connected, request_id
    from clusterctl.output import printable

    request = DrainNodeRequest(request_id=request_id(), node=name, max_parallel=max_parallel)
    if deadline:
        request.deadline.CopyFrom(duration(deadline))
    last = None
    with connected(manager) as peer:
        for last in peer.stream(peer.api.DrainNode, request):
            typer.echo(f"{last.moved_count}/{last.total_count} moved {printable(last.detail)}".rstrip())
    if last is None or not last.is_done or last.moved_count < last.total_count:
        raise CommandError(f"{name} is not empty: {last.detail if last else 'the drain broke off'}")


@_node.command("confirm-lost")
def confirm_lost(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NODE…", help="Silent nodes that will not return.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All nodes that are waited for.")] = False,
    manager: ManagerOption = ADDRESS,
) -> None:
    """Give silent nodes up at once: what was there is placed anew, as its jobs say for a lost node.

    Nodes that fell silent together are waited for (`clusterctl status` shows them), because they usually return.
    """
    from cluster.v1.manager_pb2 import ConfirmLostRequest
    from clusterctl.client import connected, request_id

    if bool(names) == every:
        raise CommandError("name the nodes that are lost, or give --all", ExitCode.USAGE)
    with connected(manager) as peer:
        request = ConfirmLostRequest(request_id=request_id(), nodes=names or [])
        for node in peer.call(peer.api.ConfirmLost, request).nodes:
            typer.echo(f"gave up {_named(node)}")


@_node.command()
def remove(
    name: NodeArgument,
    manager: ManagerOption = ADDRESS,
    force: Annotated[bool, typer.Option("--force", help="Also where it holds instances: it never comes back.")] = False,
) -> None:
    """Forget a node."""
    from cluster.v1.manager_pb2 import RemoveNodeRequest
    from clusterctl.client import connected, request_id

    with connected(manager) as peer:
        peer.call(peer.api.RemoveNode, RemoveNodeRequest(request_id=request_id(), node=name, is_forced=force))
    typer.echo(f"removed {name}")


def _set_cordoned(address: str, name: str, is_cordoned: bool) -> Node:
    from cluster.v1.manager_pb2 import CordonNodeRequest
    from clusterctl.client import connected, request_id

    with connected(address) as peer:
        request = CordonNodeRequest(request_id=request_id(), node=name, is_cordoned=is_cordoned)
        return peer.call(peer.api.CordonNode, request).node


def _named(node: Node) -> str:
    return f"{node.registration.name} ({node.id})"
