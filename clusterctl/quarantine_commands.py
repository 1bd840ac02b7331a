"""`quarantine …`: saved records that cannot be read, set aside so that the manager starts without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clusterctl.exits import CommandError, ExitCode
from clusterctl.formats import Output
from clusterctl.options import ADDRESS, ManagerOption, OutputOption

if TYPE_CHECKING:
    from cluster.v1.manager_pb2 import QuarantinedRecord

_quarantine = typer.Typer(no_args_is_help=True, help="List, export or drop saved records that cannot be read.")
KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="node, job, instance or setting.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The record's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.add_typer(_quarantine, name="quarantine")


@_quarantine.command("list")
def list_records(manager: ManagerOption = ADDRESS, output: OutputOption = Output.TABLE) -> None:
    """List what is set aside, and why."""
    from clusterctl import columns
    from clusterctl.output import console, table, write_data
    from clusterctl.records import to_record

    records = [to_record(item) for item in _found(manager)]
    if output is not Output.TABLE:
        write_data(records, output)
    elif records:
        console().print(table(columns.QUARANTINED, records))
    else:
        typer.echo("nothing is in quarantine")


@_quarantine.command()
def export(kind: KindArgument, record_id: IdArgument, manager: ManagerOption = ADDRESS) -> None:
    """Write a record as it was saved, as JSON, to standard output."""
    for item in _found(manager):
        if (item.kind, item.id) == (kind, record_id):
            typer.echo(item.saved_text)
            return
    raise CommandError(f"no {kind} {record_id} is in quarantine", ExitCode.NOT_FOUND)


@_quarantine.command()
def drop(kind: KindArgument, record_id: IdArgument, manager: ManagerOption = ADDRESS) -> None:
    """Drop a record for good: export it before."""
    from cluster.v1.manager_pb2 import ReleaseQuarantinedRequest
    from clusterctl.client import connected, request_id

    with connected(manager) as peer:
        request = ReleaseQuarantinedRequest(request_id=request_id(), kind=kind, id=record_id)
        peer.call(peer.api.ReleaseQuarantined, request)
    typer.echo(f"dropped {kind} {record_id}")


def _found(address: str) -> list[QuarantinedRecord]:
    from cluster.v1.manager_pb2 import ListQuarantinedRequest
    from clusterctl.client import connected

    with connected(address) as peer:
        return list(peer.call(peer.api.ListQuarantined, ListQuarantinedRequest()).records)
