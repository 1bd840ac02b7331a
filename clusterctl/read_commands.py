"""`status`, `get`, `describe`, `logs` and `explain`: commands that change nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusterctl.exits import ExitCode
from clusterctl.formats import Output
from clusterctl.options import (
    ADDRESS,
    InstanceArgument,
    JobFilter,
    ManagerOption,
    NodeArgument,
    NodeFilter,
    OutputOption,
    WatchOption,
)

if TYPE_CHECKING:
    from clusterctl.client import Manager
    from clusterctl.output import Column

_get = typer.Typer(no_args_is_help=True, help="List nodes, jobs, instances, orphans or events.")
_describe = typer.Typer(no_args_is_help=True, help="Show one node, job or instance in full.")
StateFilter = Annotated[str, typer.Option("--state", "-s", metavar="STATE", help="Only those in this state.")]
AllOption = Annotated[bool, typer.Option("--all", "-a", help="STOPPED ones too.")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="At most so many, the newest; 0: all.")]
EventJob = Annotated[str, typer.Option("--job", "-j", metavar="JOB[/NUMBER]", help="Only this job or instance.")]
TailOption = Annotated[
    int, typer.Option("--tail", min=0, metavar="LINES", help="So many last lines first; 0: all kept.")
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C or the instance's end.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.command()(status)
    app.add_typer(_get, name="get")
    app.add_typer(_describe, name="describe")
    app.command()(logs)
    app.command()(explain)


def status(manager: ManagerOption = ADDRESS, output: OutputOption = Output.TABLE) -> None:
    """Say whether the cluster's parts are ready and what it holds; exit status 1 while a part is missing."""
    from cluster.v1.manager_pb2 import GetStatusRequest
    from clusterctl.client import connected
    from clusterctl.describing import show, status_lines
    from clusterctl.output import write_data
    from clusterctl.records import to_record

    with connected(manager) as peer:
        answer = peer.call(peer.api.GetStatus, GetStatusRequest())
        record = to_record(answer)
        if output is Output.TABLE:
            show(status_lines(peer, answer, record))
    if output is not Output.TABLE:
        write_data(record, output)
    if not all(part["is_ready"] or part["name"] == "root" for part in record["parts"]):
        raise typer.Exit(ExitCode.FAILED)


@_get.command("nodes")
def get_nodes(
    manager: ManagerOption = ADDRESS,
    node: NodeFilter = "",
    state: StateFilter = "",
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List nodes."""
    from clusterctl import columns, reading

    _list(manager, partial(reading.nodes, name=node, state=state), columns.NODES, "nodes", output, watch)


@_get.command("jobs")
def get_jobs(
    manager: ManagerOption = ADDRESS,
    job: JobFilter = "",
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs."""
    from clusterctl import columns, reading

    _list(manager, partial(reading.jobs, job=job), columns.JOBS, "jobs", output, watch)


@_get.command("instances")
def get_instances(
    manager: ManagerOption = ADDRESS,
    job: JobFilter = "",
    node: NodeFilter = "",
    state: StateFilter = "",
    with_stopped: AllOption = False,
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List instances; STOPPED ones only with --all or --state."""
    from clusterctl import columns, reading

    read = partial(reading.instances, job=job, node=node, state=state, with_stopped=with_stopped)
    _list(manager, read, columns.INSTANCES, "instances", output, watch)


@_get.command("orphans")
def get_orphans(
    manager: ManagerOption = ADDRESS,
    node: NodeFilter = "",
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what runs on nodes and is not known to the cluster; it is left alone."""
    from clusterctl import columns, reading

    _list(manager, partial(reading.orphans, node=node), columns.ORPHANS, "orphans", output, watch)


@_get.command("events")
def get_events(
    manager: ManagerOption = ADDRESS,
    job: EventJob = "",
    node: NodeFilter = "",
    limit: LimitOption = 1000,
    watch: WatchOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what happened, oldest first; with --watch go on with what happens."""
    from clusterctl import columns, reading
    from clusterctl.client import connected
    from clusterctl.watching import follow_events

    if not watch:
        _list(manager, partial(reading.events, job=job, node=node, limit=limit), columns.EVENTS, "events", output)
        return
    with connected(manager) as peer:
        follow_events(peer, job=job, node=node, limit=limit, output=output)


def _list(
    address: str,
    read: Callable[[Manager], list[dict[str, Any]]],
    shown: tuple[Column, ...],
    key: str,
    output: Output,
    is_watching: bool = False,
) -> None:
    from clusterctl.client import connected
    from clusterctl.output import console, table, write_data

    with connected(address) as peer:
        if is_watching:
            from clusterctl.watching import watch

            watch(partial(read, peer), shown, key, output)
        records = read(peer)
    if output is Output.TABLE:
        console().print(table(shown, records))
    else:
        write_data({key: records}, output)


@_describe.command("node")
def describe_node(name: NodeArgument, manager: ManagerOption = ADDRESS, output: OutputOption = Output.TABLE) -> None:
    """Show a node with its instances and last events."""
    from clusterctl import describing

    _show(manager, name, describing.node, output)


@_describe.command("job")
def describe_job(
    name: Annotated[str, typer.Argument(metavar="JOB", help="An id, or the name of a living one.")],
    manager: ManagerOption = ADDRESS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a job with its specification and instances."""
    from clusterctl import describing

    _show(manager, name, describing.job, output)


@_describe.command("instance")
def describe_instance(
    name: InstanceArgument, manager: ManagerOption = ADDRESS, output: OutputOption = Output.TABLE
) -> None:
    """Show an instance with its placements, specification and history."""
    from clusterctl import describing

    _show(manager, name, describing.instance, output)


def _show(address: str, name: str, read: Callable[[Manager, str], dict[str, Any]], output: Output) -> None:
    from clusterctl.client import connected
    from clusterctl.describing import show
    from clusterctl.output import write_data

    with connected(address) as peer:
        record = read(peer, name)
    if output is Output.TABLE:
        show(record)
    else:
        write_data(record, output)


def logs(
    name: InstanceArgument, manager: ManagerOption = ADDRESS, follow: FollowOption = False, tail: TailOption = 0
) -> None:
    """Print what an instance has written."""
    from cluster.v1.manager_pb2 import StreamLogsRequest
    from clusterctl.client import connected
    from clusterctl.names import find_instance

    with connected(manager) as peer:
        request = StreamLogsRequest(key=find_instance(peer, name), is_following=follow, tail_lines=tail)
        for response in peer.stream(peer.api.StreamLogs, request):
            sys.stdout.buffer.write(response.data)
            sys.stdout.buffer.flush()


def explain(name: InstanceArgument, manager: ManagerOption = ADDRESS, output: OutputOption = Output.TABLE) -> None:
    """Say why an instance is where it is, or why it is pending and what would help."""
    from clusterctl.client import connected
    from clusterctl.explaining import explanation, show_explanation
    from clusterctl.output import write_data

    with connected(manager) as peer:
        record = explanation(peer, name)
    if output is Output.TABLE:
        show_explanation(record)
    else:
        write_data(record, output)
