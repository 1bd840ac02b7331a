"""`deploy`, `delete`, `move`, `scale` and `update`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusterctl.exits import UsageError
from clusterctl.options import ADDRESS, InstanceArgument, ManagerOption, TimeoutOption, WaitOption

if TYPE_CHECKING:
    from cluster.v1.instance_pb2 import Instance, InstanceKey
    from cluster.v1.job_pb2 import Job
    from clusterctl.client import Manager

FileArgument = Annotated[
    str, typer.Argument(metavar="[FILE]", help='Job documents, JSON or YAML; "-" reads standard input.')
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or the name of a living one.")]
JobId = Annotated[str, typer.Option("--id", help="The job's id; without it the document's _id, or a new one.")]
Replicas = Annotated[int | None, typer.Option(min=0, max=10_000, help="How many instances. [default: 1]")]
EnvOption = Annotated[list[str], typer.Option("--env", "-e", metavar="KEY=VALUE", help="May be repeated.")]
PortOption = Annotated[
    list[str], typer.Option("--port", "-p", metavar="HOST:INSTANCE[/udp]", help="Published port; may be repeated.")
]
Image = Annotated[str, typer.Option("--image", "-i", help="Container image, unikernel or wasm module.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    for command in (deploy, delete, move, scale, update):
        app.command()(command)


def deploy(
    file: FileArgument = "",
    manager: ManagerOption = ADDRESS,
    job_id: JobId = "",
    name: Annotated[str, typer.Option(help="The job's name.")] = "",
    image: Image = "",
    technology: Annotated[str, typer.Option("--technology", "-t", help="docker, unikernel or wasm.")] = "",
    command: Annotated[str, typer.Option(help="Replaces the image's own, quoted as in a shell.")] = "",
    env: EnvOption = [],  # noqa: B006 - typer copies it
    port: PortOption = [],  # noqa: B006
    memory: Annotated[float | None, typer.Option(metavar="MB", help="Memory to reserve.")] = None,
    vcpus: Annotated[float | None, typer.Option(metavar="CORES", help="Cores to reserve.")] = None,
    storage: Annotated[float | None, typer.Option(metavar="MB", help="Disk to reserve.")] = None,
    one_shot: Annotated[bool | None, typer.Option("--one-shot/--no-one-shot", help="It ends by itself.")] = None,
    replicas: Replicas = None,
    node: Annotated[str, typer.Option(metavar="NODE[;NODE]", help="Run only on one of these nodes.")] = "",
    wait: WaitOption = False,
    timeout: TimeoutOption = 120,
    rerun: Annotated[bool, typer.Option("--rerun", help="Run again what has ended of a job that is there.")] = False,
    request: Annotated[
        str,
        typer.Option("--request-id", metavar="ID", help="With --rerun: repeated with the same ID it starts nothing."),
    ] = "",
) -> None:
    """Run jobs from a file, from flags, or both: flags go on top of each document.

    Repeated for the same job id it starts nothing that runs, nor what has done its work: that takes --rerun.
    """
    from clusterctl import changing, rerunning
    from clusterctl.client import connected, request_id
    from clusterctl.jobfile import merged, read_documents, wanted_jobs

    flags: dict[str, Any] = {
        "name": name, "image": image, "technology": technology, "cmd": _words(command), "environment": env,
        "port": ";".join(port), "memory": memory, "vcpus": vcpus, "storage": storage, "one_shot": one_shot,
        "constraints": [{"type": "direct", "node": node}] if node else [],
    }  # fmt: skip
    if request and not rerun:
        raise UsageError("--request-id belongs to --rerun: everything else may be repeated as it is")
    if rerun:
        with connected(manager) as peer:
            found = rerunning.rerun(
                peer, read_documents(file) if file else [], flags,
                job_id=job_id, replicas=replicas, request_id=request or request_id(),
            )  # fmt: skip
            for item in found:
                typer.echo(f"{item.key.job_id}/{item.key.number}  {item.job_name}  {_word(item)}")
            if wait:
                _wait_until_running(peer, found, timeout)
        return
    documents = read_documents(file) if file else [{}]
    jobs = wanted_jobs([merged(document, flags) for document in documents], job_id=job_id, replicas=replicas)
    with connected(manager) as peer:
        found = changing.deploy(peer, jobs)
        for job in jobs:
            typer.echo(f"{job.job_id}  {job.spec.name}  {job.replicas} {_plural(job.replicas)} requested")
        if wait:
            _wait_until_running(peer, found, timeout)


def delete(
    names: Annotated[list[str], typer.Argument(metavar="JOB[/NUMBER]...", help="Jobs, or single instances of them.")],
    manager: ManagerOption = ADDRESS,
    wait: WaitOption = False,
    timeout: TimeoutOption = 60,
) -> None:
    """Stop instances; JOB stops all of a job."""
    from clusterctl import changing, waiting
    from clusterctl.client import connected

    with connected(manager) as peer:
        found = changing.delete(peer, names)
        typer.echo(f"{len(found)} {_plural(len(found))} {'is' if len(found) == 1 else 'are'} being stopped")
        if wait:
            waiting.until_gone(peer, _keys(found), timeout)


def move(
    name: InstanceArgument,
    manager: ManagerOption = ADDRESS,
    source: Annotated[str, typer.Option("--from", metavar="NODE", help="Where it is now; for a check.")] = "",
    target: Annotated[str, typer.Option("--to", metavar="NODE", help="Without it the scheduler chooses.")] = "",
    wait: WaitOption = False,
    timeout: TimeoutOption = 120,
) -> None:
    """Start an instance on another node, then stop the old copy."""
    from clusterctl import changing, reading, waiting
    from clusterctl.client import connected
    from clusterctl.names import find_instance

    with connected(manager) as peer:
        key = find_instance(peer, name)
        found = changing.move(peer, key, source, target)
        before = found.node_id
        typer.echo(f"{name} is being moved")
        if wait:
            moved = waiting.until_moved(peer, key, before, timeout)[0]
            typer.echo(f"{name} runs on {reading.node_names(peer).get(moved.node_id, moved.node_id)}")


def scale(
    job: JobArgument,
    count: Annotated[int, typer.Argument(min=0, max=10_000, help="How many instances should run.")],
    manager: ManagerOption = ADDRESS,
    wait: WaitOption = False,
    timeout: TimeoutOption = 120,
) -> None:
    """Set the number of instances of a job."""
    from clusterctl import changing
    from clusterctl.client import connected

    with connected(manager) as peer:
        found = changing.scale(peer, job, count)
        typer.echo(f"{job} should have {len(found)} {_plural(len(found))}")
        if wait:
            _wait_until_running(peer, found, timeout)


def update(
    job: JobArgument,
    file: FileArgument = "",
    manager: ManagerOption = ADDRESS,
    image: Image = "",
    batch_size: Annotated[int, typer.Option(min=1, help="How many instances change at once.")] = 1,
    keep_on_failure: Annotated[
        bool, typer.Option("--no-rollback", help="Stop where it fails, do not go back.")
    ] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Start no further batch.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Take the old specification back.")] = False,
) -> None:
    """Change a job's image or settings in batches behind a health check; or steer a change under way."""
    from cluster.v1 import job_pb2, manager_pb2
    from clusterctl import changing
    from clusterctl.client import connected

    controls = {
        manager_pb2.UPDATE_CONTROL_PAUSE: pause,
        manager_pb2.UPDATE_CONTROL_RESUME: resume,
        manager_pb2.UPDATE_CONTROL_ROLL_BACK: rollback,
    }
    chosen = [control for control, is_chosen in controls.items() if is_chosen]
    if len(chosen) + bool(file or image) != 1:
        raise UsageError("give either a new document (FILE, --image) or one of --pause, --resume, --rollback")
    with connected(manager) as peer:
        if chosen:
            changed = changing.control_update(peer, job, chosen[0])
        else:
            strategy = job_pb2.UpdateStrategy(batch_size=batch_size, rollback_on_failure=not keep_on_failure)
            changed = changing.update(peer, job, _new_document(peer, job, file, image), strategy)
    typer.echo(_progress(changed))


def _new_document(manager: Manager, job: str, file: str, image: str) -> Any:
    from cluster.convert import spec_from_proto
    from cluster.documents import job_document
    from clusterctl.jobfile import merged, read_documents, wanted_jobs
    from clusterctl.names import find_job

    found = find_job(manager, job).job
    documents = read_documents(file) if file else [job_document(spec_from_proto(found.spec))]
    if len(documents) != 1:
        raise UsageError(f"{file} holds {len(documents)} documents; an update takes one")
    return wanted_jobs([merged(documents[0], {"image": image})], job_id=found.id)[0]


def _progress(job: Job) -> str:
    if not job.HasField("update"):
        return f"{job.spec.name}: nothing to do, every instance has this specification"
    update = job.update
    return (
        f"{job.spec.name}: {update.state}, {update.updated_count}/{update.total_count} updated {update.detail}".rstrip()
    )


def _wait_until_running(manager: Manager, found: list[Instance], timeout_s: float) -> None:
    from clusterctl import waiting

    waiting.until_running(manager, _keys(found), timeout_s)


def _keys(found: list[Instance]) -> list[InstanceKey]:
    return [item.key for item in found]


def _words(command: str) -> list[str]:
    import shlex

    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--command {command!r}: {error}") from None


def _word(item: Instance) -> str:
    from cluster.v1.instance_pb2 import InstanceState

    return InstanceState.Name(item.state).removeprefix("INSTANCE_STATE_")


def _plural(count: int) -> str:
    return "instance" if count == 1 else "instances"
