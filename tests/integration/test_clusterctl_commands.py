"""The command line against a stand-in for the manager that speaks its real gRPC API."""

# ruff: noqa: N802 - the API says what its methods are called

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf.message import Message
from typer.testing import CliRunner, Result

from cluster.errors import ConflictError, NotFoundError, UnavailableError
from cluster.rpc import serving
from cluster.v1 import event_pb2, instance_pb2, job_pb2, manager_pb2, manager_pb2_grpc, node_pb2
from clusterctl import waiting
from clusterctl.app import app
from testbed.ports import free_port

JOB_ID = "a" * 24
RUNNING, STOPPED = instance_pb2.INSTANCE_STATE_RUNNING, instance_pb2.INSTANCE_STATE_STOPPED
FLAGS = ["--name", "web", "--image", "nginx:1", "--technology", "docker"]


class StandIn(manager_pb2_grpc.ManagerServiceServicer):
    """Answers from plain lists and keeps what it was asked; what is deployed runs at the second look."""

    def __init__(self) -> None:
        self.nodes: list[node_pb2.Node] = []
        self.instances: list[instance_pb2.Instance] = []
        self.events: list[event_pb2.Event] = []
        self.orphans: list[node_pb2.Orphan] = []
        self.requests: list[Message] = []
        self.fate = RUNNING
        self.error: Exception | None = None

    def add_instance(self, number: int, state: "instance_pb2.InstanceState.ValueType" = RUNNING) -> None:
        """An instance of the job `web` on the first node."""
        instance = instance_pb2.Instance(job_name="web", state=state, node_id="n0", is_desired=True)
        instance.key.job_id, instance.key.number = JOB_ID, number
        instance.placements.add(role=instance_pb2.PLACEMENT_ROLE_CURRENT, node_id="n0")
        self.instances.append(instance)

    def _seen(self, request: Message) -> None:
        self.requests.append(request)
        if self.error:
            raise self.error

    async def AdoptNode(self, request, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")

    async def ListNodes(self, request, context):
        self._seen(request)
        start = int(request.page_token or 0)
        page = self.nodes[start : start + 2]
        token = str(start + 2) if start + 2 < len(self.nodes) else ""
        return manager_pb2.ListNodesResponse(nodes=page, next_page_token=token)

    async def GetNode(self, request, context):
        for node in self.nodes:
            if request.node in (node.id, node.registration.name):
                return manager_pb2.GetNodeResponse(node=node, events=self.events, orphans=self.orphans)
        raise NotFoundError(f"no node {request.node!r}")

    async def GetJob(self, request, context):
        self._seen(request)
        if request.job not in ("web", JOB_ID):
            raise NotFoundError(f"no job {request.job!r}")
        spec = job_pb2.JobSpec(name="web", image="nginx:1", technology="docker", document_json='{"kept": 1}')
        job = job_pb2.Job(id=JOB_ID, spec=spec, instance_count=len(self.instances))
        return manager_pb2.GetJobResponse(job=job, instances=self.instances)

    async def ListInstances(self, request, context):
        self._seen(request)
        listed = manager_pb2.ListInstancesResponse(instances=self.instances)
        for item in self.instances:
            if item.state == instance_pb2.INSTANCE_STATE_REQUESTED:
                item.state = self.fate
            if item.state == instance_pb2.INSTANCE_STATE_STOPPING:
                item.state = STOPPED
                del item.placements[:]
        return listed

    async def GetInstance(self, request, context):
        found = next(item for item in self.instances if item.key == request.key)
        return manager_pb2.GetInstanceResponse(instance=found)

    async def DeployInstances(self, request, context):
        self._seen(request)
        for wanted in request.deployments:
            item = instance_pb2.Instance(key=wanted.key, state=instance_pb2.INSTANCE_STATE_REQUESTED, is_desired=True)
            item.job_name = request.specs[wanted.spec_index].name
            self.instances.append(item)
        return manager_pb2.DeployInstancesResponse(instances=self.instances)

    async def DeleteInstances(self, request, context):
        self._seen(request)
        for item in self.instances:
            item.state, item.is_desired = instance_pb2.INSTANCE_STATE_STOPPING, False
        return manager_pb2.DeleteInstancesResponse(instances=self.instances)

    async def UpdateJob(self, request, context):
        self._seen(request)
        job = job_pb2.Job(id=request.job_id, spec=request.spec)
        job.update.state, job.update.total_count = "rolling", 2
        return manager_pb2.UpdateJobResponse(job=job)

    async def ControlUpdate(self, request, context):
        self._seen(request)
        return manager_pb2.ControlUpdateResponse(job=job_pb2.Job(id=request.job_id, spec=job_pb2.JobSpec(name="web")))

    async def ReplicateJob(self, request, context):
        self._seen(request)
        return manager_pb2.ReplicateJobResponse(instances=self.instances[: request.instance_count])

    async def ExplainInstance(self, request, context):
        self._seen(request)
        instance = next(item for item in self.instances if item.key == request.key)
        answer = manager_pb2.ExplainInstanceResponse(instance=instance, summary="It waits for memory.")
        answer.planning.node_count = 2
        answer.planning.refusals.add(reason="memory", node_count=2, detail="512 MB too little")
        answer.planning.smallest_change = "ask for 512 MB less"
        answer.planning.verdicts.add(node_id="n0", reasons=["memory"], shortfall="512 MB")
        return answer

    async def ListEvents(self, request, context):
        self._seen(request)
        return manager_pb2.ListEventsResponse(events=reversed(self.events))

    async def WatchEvents(self, request, context) -> AsyncIterator[manager_pb2.WatchEventsResponse]:
        self._seen(request)
        yield manager_pb2.WatchEventsResponse(
            events=[event_pb2.Event(id=9, kind="placed", job_id=JOB_ID, node_id="n0")]
        )

    async def StreamLogs(self, request, context) -> AsyncIterator[manager_pb2.StreamLogsResponse]:
        self._seen(request)
        for piece in (b"caf\xc3", b"\xa9\n", b"\xff bytes\n"):
            yield manager_pb2.StreamLogsResponse(data=piece)

    async def DrainNode(self, request, context) -> AsyncIterator[manager_pb2.DrainNodeResponse]:
        self._seen(request)
        yield manager_pb2.DrainNodeResponse(total_count=2, moved_count=1)
        yield manager_pb2.DrainNodeResponse(total_count=2, moved_count=2, is_done=True)

    async def CordonNode(self, request, context):
        self._seen(request)
        return manager_pb2.CordonNodeResponse(node=self.nodes[0])

    async def GetStatus(self, request, context):
        self._seen(request)
        parts = [manager_pb2.PartStatus(name="store", is_ready=True), manager_pb2.PartStatus(name="root")]
        return manager_pb2.GetStatusResponse(cluster_name="edge", parts=parts)

    def asked(self, kind: type[Message]) -> list[Message]:
        """The requests of one kind."""
        return [request for request in self.requests if isinstance(request, kind)]


class Cli:
    """Runs commands against one address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, ["--manager", self.address, *arguments], input=stdin)


@pytest.fixture(name="manager")
def _manager() -> StandIn:
    stand_in = StandIn()
    for index in range(5):
        node = node_pb2.Node(id=f"n{index}", state=node_pb2.NODE_STATE_READY)
        node.registration.name = f"edge-{index}"
        stand_in.nodes.append(node)
    return stand_in


@pytest.fixture(name="cli")
def _cli(manager: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    monkeypatch.setenv("CLUSTERCTL_MANAGER", "")
    monkeypatch.setattr(waiting, "_POLL_S", 0.01)
    address, started, loop, stop = (
        f"127.0.0.1:{free_port()}",
        threading.Event(),
        asyncio.new_event_loop(),
        asyncio.Event(),
    )

    async def serve() -> None:
        name = "cluster.v1.ManagerService"
        services = {name: lambda server: manager_pb2_grpc.add_ManagerServiceServicer_to_server(manager, server)}
        async with serving(address, services, drain_s=0.1):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(20)
    yield Cli(address)
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()


def test_lists_fetch_every_page(cli: Cli) -> None:
    """Five nodes in pages of two are five nodes."""
    record = json.loads(cli("get", "nodes", "--output", "json").stdout)
    assert [node["name"] for node in record["nodes"]] == [f"edge-{index}" for index in range(5)]


def test_the_same_list_in_all_formats(cli: Cli) -> None:
    """YAML says what JSON says; the table has a line for each node and a title."""
    as_json = json.loads(cli("get", "nodes", "-o", "json").stdout)
    assert yaml.safe_load(cli("get", "nodes", "-o", "yaml").stdout) == as_json
    assert len(cli("get", "nodes").stdout.splitlines()) == 6


def test_orphans_are_listed_of_all_nodes_or_one(cli: Cli, manager: StandIn) -> None:
    """Each with its node; what the node did not tell is empty."""
    manager.orphans.append(node_pb2.Orphan(job_name="old", number=3, technology="docker", status="ACTIVE"))
    listed = json.loads(cli("get", "orphans", "-o", "json").stdout)["orphans"]
    assert [item["node"] for item in listed] == [f"edge-{index}" for index in range(5)]
    [shown] = json.loads(cli("get", "orphans", "--node", "edge-1", "-o", "json").stdout)["orphans"]
    assert (shown["job_name"], shown["number"], shown["job_id"], shown["generation"]) == ("old", 3, "", None)
    assert "old/3" in cli("get", "orphans", "--node", "edge-1").stdout


def test_stopped_instances_are_hidden(cli: Cli, manager: StandIn) -> None:
    """Unless --all asks for them."""
    manager.add_instance(0)
    manager.add_instance(1, STOPPED)
    assert [item["id"] for item in json.loads(cli("get", "instances", "-o", "json").stdout)["instances"]] == [
        f"{JOB_ID}/0"
    ]
    assert len(json.loads(cli("get", "instances", "--all", "-o", "json").stdout)["instances"]) == 2


def test_filters_reach_the_manager(cli: Cli, manager: StandIn) -> None:
    """A job's name becomes its id, a state its number."""
    assert cli("get", "instances", "--job", "web", "--node", "edge-1", "--state", "running").exit_code == 0
    (request,) = manager.asked(manager_pb2.ListInstancesRequest)
    assert (request.job_id, request.node, list(request.states)) == (JOB_ID, "edge-1", [RUNNING])


def test_an_unknown_state_is_a_usage_error(cli: Cli) -> None:
    """With the words that there are."""
    result = cli("get", "nodes", "--state", "fine")
    assert result.exit_code == 2
    assert "READY" in result.stderr


def test_nothing_listening_is_said(cli: Cli) -> None:
    """Exit status 4, the address, and what to do; no traceback."""
    result = cli("get", "nodes", "--manager", f"127.0.0.1:{free_port()}")
    assert result.exit_code == 4
    assert "nothing listens at 127.0.0.1:" in result.stderr
    assert "clusterctl up" in result.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [(NotFoundError("no such thing"), 3), (ConflictError("not now"), 1), (UnavailableError("the store is away"), 1)],
)
def test_errors_of_the_manager_become_exit_statuses(cli: Cli, manager: StandIn, error: Exception, status: int) -> None:
    """Its own words are shown; a manager that answers is not unreachable."""
    manager.error = error
    result = cli("get", "nodes")
    assert (result.exit_code, result.stderr) == (status, f"clusterctl: {error}\n")


def test_an_older_manager_is_told_apart(cli: Cli) -> None:
    """What it cannot do is said, without talk of bugs."""
    result = cli("node", "adopt", "127.0.0.1:10200")
    assert result.exit_code == 1
    assert "does not offer this yet" in result.stderr


def test_a_batch_is_one_call(cli: Cli, manager: StandIn, tmp_path: Path) -> None:
    """All instances of all documents go out together."""
    job = {"name": "web", "image": "nginx:1", "technology": "docker"}
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps([job | {"replicas": 300, "_id": "one"}, job | {"name": "db"}]))
    assert cli("deploy", str(path)).exit_code == 0
    (request,) = manager.asked(manager_pb2.DeployInstancesRequest)
    assert [spec.name for spec in request.specs] == ["web", "db"]
    assert len(request.deployments) == 301
    assert request.deployments[299].key == instance_pb2.InstanceKey(job_id="one", number=299)
    assert request.actor == "operator"


def test_flags_alone_make_a_job(cli: Cli, manager: StandIn) -> None:
    """Each flag reaches its field."""
    more = ["--command", "sh -c 'echo hi'", "--env", "A=1", "--env", "B=2", "--port", "80:80", "--port", "53:53/udp"]
    more += ["--memory", "64", "--vcpus", "0.5", "--one-shot", "--id", "x", "--node", "edge-1;edge-2"]
    assert cli("deploy", *FLAGS, *more).exit_code == 0
    (request,) = manager.asked(manager_pb2.DeployInstancesRequest)
    (spec,) = request.specs
    assert list(spec.command) == ["sh", "-c", "echo hi"]
    assert list(spec.environment) == ["A=1", "B=2"]
    assert spec.ports == "80:80;53:53/udp"
    assert (spec.demand.memory_bytes, spec.demand.cpu_millicores, spec.one_shot) == (64 << 20, 500, True)
    assert list(spec.constraints[0].nodes) == ["edge-1", "edge-2"]
    assert request.deployments[0].key.job_id == "x"


def test_another_run_is_of_the_job_that_has_the_name(cli: Cli, manager: StandIn) -> None:
    """With the job's own id, specification and numbers, and a request id of its own or the one given."""
    for more, numbers in (([], [0, 4]), (["--replicas", "2"], [0, 1]), (["--request-id", "run-7"], [0, 4])):
        manager.requests.clear()
        manager.instances.clear()
        manager.add_instance(0)
        manager.add_instance(4)
        assert cli("deploy", "--rerun", "--name", "web", *more).exit_code == 0
        (request,) = manager.asked(manager_pb2.DeployInstancesRequest)
        assert request.is_rerun
        assert [(item.key.job_id, item.key.number) for item in request.deployments] == [(JOB_ID, n) for n in numbers]
        assert (request.specs[0].name, request.specs[0].image) == ("web", "nginx:1")
        assert request.request_id == "run-7" if "run-7" in more else len(request.request_id) == 32


def test_another_run_of_nothing_is_refused(cli: Cli, manager: StandIn) -> None:
    """Without a job, of one that is not there, and with a request id that would mean nothing."""
    for command, status in (
        (["--rerun"], 2),
        (["--rerun", "--name", "other"], 3),
        ([*FLAGS, "--request-id", "x"], 2),
    ):
        assert cli("deploy", *command).exit_code == status
    assert not manager.asked(manager_pb2.DeployInstancesRequest)


def test_standard_input_is_a_file(cli: Cli, manager: StandIn) -> None:
    """`-` reads it."""
    assert cli("deploy", "-", stdin="name: web\nimage: i\ntechnology: wasm\n").exit_code == 0
    assert manager.asked(manager_pb2.DeployInstancesRequest)


def test_a_wrong_document_reaches_nobody(cli: Cli, manager: StandIn) -> None:
    """Exit status 2, and the field that is wrong."""
    result = cli("deploy", "--name", "web", "--image", "i", "--technology", "lxc")
    assert result.exit_code == 2
    assert "technology" in result.stderr
    assert manager.requests == []


def test_waiting_ends_when_all_run(cli: Cli) -> None:
    """Each change of state is told on the way."""
    result = cli("deploy", *FLAGS, "--wait")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == ["web/0: REQUESTED", "web/0: RUNNING"]


def test_waiting_ends_with_a_final_failure(cli: Cli, manager: StandIn) -> None:
    """Without waiting for the time to run out."""
    manager.fate = instance_pb2.INSTANCE_STATE_FAILED
    result = cli("deploy", *FLAGS, "--wait")
    assert result.exit_code == 1
    assert "web/0 failed" in result.stderr


def test_waiting_runs_out_of_time(cli: Cli, manager: StandIn) -> None:
    """Exit status 5, with the last that is known."""
    manager.fate = instance_pb2.INSTANCE_STATE_PENDING
    result = cli("deploy", *FLAGS, "--wait", "--timeout", "0.1")
    assert result.exit_code == 5
    assert "web/0: PENDING" in result.stderr


def test_deleting_a_job_deletes_all_of_it(cli: Cli, manager: StandIn) -> None:
    """Number -1 stands for all; --wait ends when nothing holds a place any more."""
    manager.add_instance(0)
    manager.add_instance(1)
    assert cli("delete", "web", "web/1", "--wait").exit_code == 0
    (request,) = manager.asked(manager_pb2.DeleteInstancesRequest)
    assert [key.number for key in request.keys] == [-1, 1]


def test_an_unknown_job_is_not_found(cli: Cli) -> None:
    """Exit status 3."""
    assert cli("delete", "nothing").exit_code == 3
    assert cli("describe", "node", "nowhere").exit_code == 3


def test_an_instance_without_number_is_the_only_one(cli: Cli, manager: StandIn) -> None:
    """With several the choices are named."""
    manager.add_instance(3)
    assert cli("logs", "web").exit_code == 0
    manager.add_instance(4)
    result = cli("logs", "web")
    assert result.exit_code == 2
    assert "web/3, web/4" in result.stderr


def test_logs_are_passed_on_byte_for_byte(cli: Cli, manager: StandIn) -> None:
    """A character may be cut anywhere, and not everything is text."""
    manager.add_instance(0)
    result = cli("logs", "web/0", "--tail", "5", "--follow")
    assert result.stdout_bytes == b"caf\xc3\xa9\n\xff bytes\n"
    (request,) = manager.asked(manager_pb2.StreamLogsRequest)
    assert (request.tail_lines, request.is_following) == (5, True)


def test_an_explanation_says_what_would_help(cli: Cli, manager: StandIn) -> None:
    """What waits is told by the manager's summary and each node's verdict; of what runs, where else it could be too."""
    manager.add_instance(0, instance_pb2.INSTANCE_STATE_PENDING)
    shown = cli("explain", "web/0").stdout
    assert "It waits for memory." in shown
    assert "edge-0" in shown
    assert "ruled out by memory" not in shown
    assert json.loads(cli("explain", "web", "-o", "json").stdout)["planning"]["verdicts"][0]["node_name"] == "edge-0"
    manager.add_instance(1, instance_pb2.INSTANCE_STATE_RUNNING)
    shown = cli("explain", "web/1").stdout
    assert "2 ruled out by memory: 512 MB too little" in shown
    assert "What would help: ask for 512 MB less" in shown


def test_an_instance_is_described_with_its_spec(cli: Cli, manager: StandIn) -> None:
    """As text and as data."""
    manager.add_instance(0)
    assert "state: RUNNING" in cli("describe", "instance", "web/0").stdout
    assert json.loads(cli("describe", "instance", "web/0", "-o", "json").stdout)["node_name"] == "edge-0"
    assert f"{JOB_ID}/0" in cli("describe", "node", "edge-0").stdout


def test_events_are_shown_oldest_first_and_followed(cli: Cli, manager: StandIn) -> None:
    """Those that are known, then those that come, each once."""
    manager.events = [event_pb2.Event(id=number, kind=f"kind-{number}") for number in (1, 2, 3)]
    lines = cli("get", "events", "--watch", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["kind-1", "kind-2", "kind-3", "placed"]
    (request,) = manager.asked(manager_pb2.WatchEventsRequest)
    assert request.after_id == 3
    assert len(json.loads(cli("get", "events", "--limit", "2", "-o", "json").stdout)["events"]) == 2


def test_an_update_changes_only_what_is_named(cli: Cli, manager: StandIn) -> None:
    """A new image keeps the rest of the job's document."""
    result = cli("update", "web", "--image", "nginx:2", "--batch-size", "3")
    assert result.exit_code == 0
    (request,) = manager.asked(manager_pb2.UpdateJobRequest)
    assert (request.job_id, request.spec.image, request.strategy.batch_size) == (JOB_ID, "nginx:2", 3)
    assert request.strategy.rollback_on_failure
    assert json.loads(request.spec.document_json)["kept"] == 1


def test_an_update_under_way_is_steered(cli: Cli, manager: StandIn) -> None:
    """By exactly one of the three options."""
    assert cli("update", "web", "--pause").exit_code == 0
    assert cli("update", "web", "--pause", "--resume").exit_code == 2
    assert cli("update", "web").exit_code == 2
    (request,) = manager.asked(manager_pb2.ControlUpdateRequest)
    assert request.control == manager_pb2.UPDATE_CONTROL_PAUSE


def test_scaling_names_the_wanted_number(cli: Cli, manager: StandIn) -> None:
    """0 is a number too."""
    assert cli("scale", "web", "0").exit_code == 0
    (request,) = manager.asked(manager_pb2.ReplicateJobRequest)
    assert (request.job_id, request.instance_count) == (JOB_ID, 0)


def test_draining_tells_how_far_it_is(cli: Cli, manager: StandIn) -> None:
    """A line for each message, and success only when the node is empty."""
    result = cli("node", "drain", "edge-0", "--deadline", "30")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["1/2 moved", "2/2 moved"]


def test_a_node_is_cordoned_and_uncordoned(cli: Cli, manager: StandIn) -> None:
    """One call each."""
    assert cli("node", "cordon", "edge-0").stdout == "cordoned edge-0 (n0)\n"
    assert cli("node", "uncordon", "edge-0").exit_code == 0
    assert [request.is_cordoned for request in manager.asked(manager_pb2.CordonNodeRequest)] == [True, False]


def test_status_tells_scripts_whether_all_parts_are_ready(cli: Cli) -> None:
    """A cluster without a root is complete."""
    result = cli("status")
    assert result.exit_code == 0
    assert "cluster_name: edge" in result.stdout
