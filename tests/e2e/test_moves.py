"""Moves between two real workers: make before break over every way to ask, and old copies that nothing can hurt."""

from collections.abc import Iterator

import grpc
import pytest

from cluster.v1 import manager_pb2
from testbed.cluster import Cluster, cluster
from testbed.module_server import ModuleServer, module_server
from testbed.operating import (
    causes,
    clusterctl,
    copies_of,
    delete,
    deploy,
    instance,
    manager_api,
    manager_channel,
    move,
    wait_for_state,
    wait_until_settled,
)
from testbed.waiting import wait_until
from testbed.watching import Ending, history, homes_after_each, started_at_s, wire

HERE, THERE = "edge-a", "edge-b"


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """A cluster with two real workers on addresses of their own."""
    with cluster(SCHEDULE_DEADLINE_S="20") as made:
        for name in (HERE, THERE):
            made.add_worker(name)
        for name in (HERE, THERE):
            made.wait_until_node_is(name, "READY")
        yield made


@pytest.fixture
def modules() -> Iterator[ModuleServer]:
    """A server of the bundled service."""
    with module_server() as server:
        yield server


def only(*names: str) -> list[dict[str, str]]:
    """A constraint that allows these nodes only."""
    return [{"type": "direct", "node": ";".join(names)}]


def start_here(made: Cluster, job_id: str, **document: object) -> None:
    """A job that runs on the first worker and may run on both."""
    clusterctl(made, "node", "cordon", THERE)
    deploy(made, job_id, **document)
    wait_for_state(made, job_id)
    clusterctl(made, "node", "uncordon", THERE)
    assert [copy.worker for copy in copies_of(made, job_id)] == [HERE]


def wait_until_alone_on(made: Cluster, job_id: str, worker: str) -> None:
    """Wait until the cluster and the process table both show one copy, on `worker`."""
    found = wait_until_settled(made, job_id)
    assert found["node_id"] == made.node(worker)["id"]
    wait_until(lambda: [c.worker for c in copies_of(made, job_id)] == [worker], what=f"only {worker} runs {job_id}")


def ask_http(made: Cluster, job_id: str, target: str) -> None:
    answer = move(made, job_id, HERE, target)
    assert (answer.status, answer.json["status"]) == (200, "ok"), answer


def ask_grpc(made: Cluster, job_id: str, target: str) -> None:
    with manager_channel(made) as channel:
        request = manager_pb2.MoveInstanceRequest(job_id=job_id, source_node=HERE, target_node=target)
        manager_api(channel).MoveInstance(request, timeout=20.0)


def ask_clusterctl(made: Cluster, job_id: str, target: str) -> None:
    said = clusterctl(made, "move", job_id, *(["--to", target] if target else []), "--wait")
    assert said.status == 0, said
    assert f"runs on {THERE}" in said.output


@pytest.mark.parametrize("target", [THERE, ""], ids=["named", "chosen"])
@pytest.mark.parametrize("ask", [ask_http, ask_grpc, ask_clusterctl], ids=["http", "grpc", "clusterctl"])
def test_move_over_every_interface(pair: Cluster, ask, target: str) -> None:  # type: ignore[no-untyped-def]
    """A move over HTTP, gRPC and clusterctl, to a named node or one that the scheduler chooses, ends with one copy."""
    job_id = f"by-{ask.__name__[4:]}-{'named' if target else 'chosen'}"
    start_here(pair, job_id, stop_grace_s=1)
    ask(pair, job_id, target)
    wait_until_alone_on(pair, job_id, THERE)
    kinds = [event["kind"] for event in instance(pair, job_id)["events"]]
    assert kinds.index("move_started") < kinds.index("moved")
    delete(pair, job_id)


def test_the_old_copy_stops_only_after_the_new_one_runs(pair: Cluster) -> None:
    """At no moment of a move does the job run nowhere: not by what nodes say, nor by what is told, nor by processes."""
    start_here(pair, "gapless", stop_grace_s=1)
    [old] = copies_of(pair, "gapless")
    here, there = (pair.node(name)["id"] for name in (HERE, THERE))
    end = Ending(old.pid)
    with wire(pair) as said, history(pair, "gapless") as events:
        assert move(pair, "gapless", HERE, THERE).status == 200
        wait_until_alone_on(pair, "gapless", THERE)
        wait_until(lambda: homes_after_each(here, said.of("gapless"))[-1] == {there}, what="both nodes have said so")
        wait_until(lambda: "moved" in [event.kind for event in events], what="the move is told")
    assert set() not in homes_after_each(here, said.of("gapless"))
    steps = [(item.topic_id, item.body.get("command") or item.body["status"]) for item in said.of("gapless")]
    assert steps.index((there, "RUNNING")) < steps.index((here, "delete"))
    kinds = [event.kind for event in events]
    assert kinds.index("move_started") < kinds.index("moved")
    assert {event.state for event in events} == {"RUNNING"}
    [new] = copies_of(pair, "gapless")
    assert started_at_s(new.pid) <= wait_until(lambda: end.at_s, what="the old process has ended")
    delete(pair, "gapless")


def test_a_repeated_move_changes_nothing(pair: Cluster) -> None:
    """The same move again, during and after the first, answers 200 and starts nothing."""
    start_here(pair, "again", stop_grace_s=1)
    answers = [move(pair, "again", HERE, THERE).status for _ in range(3)]
    wait_until_alone_on(pair, "again", THERE)
    answers.append(move(pair, "again", HERE, THERE).status)
    assert answers == [200] * 4
    assert len(causes(pair, "again", kind="move_started")) == 1
    delete(pair, "again")


def test_several_instances_on_the_source_need_a_number(pair: Cluster) -> None:
    """With several instances on the source a move without `instance_number` is refused and names the numbers."""
    clusterctl(pair, "node", "cordon", THERE)
    for number in (0, 1):
        deploy(pair, "twins", number, stop_grace_s=1)
    for number in (0, 1):
        wait_for_state(pair, "twins", number=number)
    clusterctl(pair, "node", "uncordon", THERE)
    refused = move(pair, "twins", HERE, THERE)
    assert (refused.status, refused.json["field"]) == (400, "instance_number")
    assert "0, 1" in refused.json["detail"]
    assert move(pair, "twins", HERE, THERE, instance_number=1).status == 200
    wait_until_settled(pair, "twins", 1)
    assert {c.number: c.worker for c in copies_of(pair, "twins")}[0] == HERE
    delete(pair, "twins")


@pytest.mark.parametrize(
    ("job", "target", "status", "words"),
    [
        ({"constraints": only(HERE)}, THERE, 409, "no node can take"),
        ({"constraints": only(HERE)}, "", 409, "no node can take"),
        ({}, HERE, 409, "on that node already"),
        ({}, "nowhere", 404, "nowhere"),
    ],
    ids=["forbidden", "forbidden-to-choose", "same-node", "unknown-node"],
)
def test_a_refused_move_leaves_the_old_copy_untouched(
    pair: Cluster, request: pytest.FixtureRequest, job: dict[str, object], target: str, status: int, words: str
) -> None:
    """A target that the constraints forbid, the node itself and an unknown node are refused; the process goes on."""
    job_id = "refused-" + request.node.callspec.id
    start_here(pair, job_id, **job)
    before = copies_of(pair, job_id)
    answer = move(pair, job_id, HERE, target)
    assert answer.status == status, answer
    assert words in answer.json["detail"]
    assert copies_of(pair, job_id) == before
    assert len(instance(pair, job_id)["placements"]) == 1
    delete(pair, job_id)


def test_a_one_shot_is_not_moved(pair: Cluster) -> None:
    """A job that runs once is refused: a move would run it twice."""
    start_here(pair, "once", one_shot=True)
    before = copies_of(pair, "once")
    answer = move(pair, "once", HERE, THERE)
    assert answer.status == 409
    assert "run it twice" in answer.json["detail"]
    assert copies_of(pair, "once") == before
    delete(pair, "once")


def test_a_successor_that_cannot_start_leaves_the_old_copy(pair: Cluster, modules: ModuleServer) -> None:
    """Where the target cannot get the image, the successor is dropped, the old process goes on, and it says why."""
    start_here(pair, "imageless", image=f"{modules.url}/service.wat")
    before = copies_of(pair, "imageless")
    modules.is_serving = False
    assert move(pair, "imageless", HERE, THERE).status == 200
    [cause] = wait_until(lambda: causes(pair, "imageless", kind="move_failed"), 60.0, what="the move has failed")
    assert "cannot download" in cause
    assert "left untouched" in cause
    assert copies_of(pair, "imageless") == before
    assert wait_until_settled(pair, "imageless")["node_id"] == pair.node(HERE)["id"]
    delete(pair, "imageless")


def test_an_image_that_is_there_is_never_fetched_again(pair: Cluster, modules: ModuleServer) -> None:
    """Moved to and fro, a module is fetched once by each node."""
    path = "/to-and-fro.wat"
    start_here(pair, "to-and-fro", image=modules.url + path, stop_grace_s=1)
    for source, target in ((HERE, THERE), (THERE, HERE), (HERE, THERE)):
        assert move(pair, "to-and-fro", source, target).status == 200
        wait_until_alone_on(pair, "to-and-fro", target)
    assert modules.fetches[path] == 2
    delete(pair, "to-and-fro")


def test_the_manager_dies_during_a_move(pair: Cluster, modules: ModuleServer) -> None:
    """kill -9 of the manager right after a move was acknowledged: the move ends all the same, with one copy."""
    start_here(pair, "headless", stop_grace_s=1)
    assert move(pair, "headless", HERE, THERE).status == 200
    pair.kill("manager")
    assert len(copies_of(pair, "headless")) >= 1
    pair.start_part("manager")
    pair.wait_until_ready()
    wait_until_alone_on(pair, "headless", THERE)
    delete(pair, "headless")


def test_grpc_refuses_as_http_does(pair: Cluster) -> None:
    """Over gRPC a move of an unknown job is NOT_FOUND."""
    with manager_channel(pair) as channel, pytest.raises(grpc.RpcError) as caught:
        manager_api(channel).MoveInstance(manager_pb2.MoveInstanceRequest(job_id="nobody"), timeout=20.0)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
