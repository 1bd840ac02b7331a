"""`root …`: how the cluster stands with its root, and what becomes of workloads that a root lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from clusterctl.formats import Output
from clusterctl.options import ADDRESS, ManagerOption, OutputOption

if TYPE_CHECKING:
    from cluster.v1.manager_pb2 import DecideRootDeletesResponse
    from cluster.v1.root_pb2 import RootDecision

_root = typer.Typer(no_args_is_help=True, help="Show the link to the root; decide about workloads that it lost.")


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.add_typer(_root, name="root")


@_root.command()
def show(manager: ManagerOption = ADDRESS, output: OutputOption = Output.TABLE) -> None:
    """Say how the link stands and which jobs the guard protects."""
    from cluster.v1.manager_pb2 import GetRootRequest
    from clusterctl import describing
    from clusterctl.client import connected
    from clusterctl.output import write_data
    from clusterctl.records import to_record

    with connected(manager) as peer:
        record = to_record(peer.call(peer.api.GetRoot, GetRootRequest()).root)
    if output is Output.TABLE:
        describing.show(record)
    else:
        write_data(record, output)


@_root.command("confirm-deletes")
def confirm_deletes(manager: ManagerOption = ADDRESS) -> None:
    """Delete the workloads that a root which lost its database ordered deleted, and guard them no longer."""
    from cluster.v1.root_pb2 import ROOT_DECISION_CONFIRM_DELETES

    answer = _decide(manager, ROOT_DECISION_CONFIRM_DELETES)
    typer.echo(f"deleting {_counted(answer)}; the root's deletes are obeyed again")


@_root.command()
def keep(manager: ManagerOption = ADDRESS) -> None:
    """Keep the workloads that the root does not know; they are this cluster's own from now on."""
    from cluster.v1.root_pb2 import ROOT_DECISION_KEEP

    typer.echo(f"keeping {_counted(_decide(manager, ROOT_DECISION_KEEP))}; the root is told nothing of them")


def _decide(address: str, decision: RootDecision.ValueType) -> DecideRootDeletesResponse:
    from cluster.v1.manager_pb2 import DecideRootDeletesRequest
    from clusterctl.client import connected, request_id

    with connected(address) as peer:
        request = DecideRootDeletesRequest(request_id=request_id(), decision=decision)
        return peer.call(peer.api.DecideRootDeletes, request)


def _counted(answer: DecideRootDeletesResponse) -> str:
    count = len(answer.job_ids)
    return f"{count} job{'' if count == 1 else 's'}"
