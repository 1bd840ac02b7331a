"""Rolling updates: batch by batch behind a health gate, paused and resumed, rolled back, never of one-shots."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.v1 import manager_pb2
from testbed.cluster import Cluster, cluster
from testbed.operating import (
    clusterctl,
    delete,
    deploy,
    manager_api,
    manager_channel,
    running_count,
    wait_for_state,
)
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

OLD, NEW = "local/web:1", "local/web:2"
COUNT = 6


class GatedNode(WorkerNode):
    """Starts every image at once, save those that it holds back (STARTING) or that break (FAILED)."""

    def __init__(self, made: Cluster, name: str) -> None:
        super().__init__(made, name)
        self.held_back: set[str] = set()
        self.broken: set[str] = set()
        self.waiting: list[tuple[tuple[str, int], dict[str, Any], int]] = []

    def _state(self, key: tuple[str, int], job: dict[str, Any], generation: int, status: str) -> None:
        image = job["image"]
        if status == "RUNNING" and image in self.broken:
            self.running.pop(key, None)
            self.jobs.pop(key, None)
            status = "FAILED"
        elif status == "RUNNING" and image in self.held_back:
            self.waiting.append((key, job, generation))
            status = "STARTING"
        super()._state(key, job, generation, status)

    def _entry(self, key: tuple[str, int], generation: int) -> dict[str, Any]:
        is_waiting = any((item[0], item[2]) == (key, generation) for item in self.waiting)
        return {**super()._entry(key, generation), "status": "STARTING" if is_waiting else "RUNNING"}

    def let_go(self) -> None:
        """Those that were held back run now."""
        with self.lock:
            waiting, self.waiting = self.waiting, []
            for key, job, generation in waiting:
                super()._state(key, job, generation, "RUNNING")


@pytest.fixture(scope="module")
def scene() -> Iterator[tuple[Cluster, GatedNode]]:
    """A cluster with one scripted node."""
    with cluster() as made:
        node = GatedNode(made, "edge")
        with nodes(node):
            yield made, node


@pytest.fixture
def web(scene: tuple[Cluster, GatedNode], request: pytest.FixtureRequest) -> Iterator[str]:
    """A job with six running instances of the old image."""
    made, node = scene
    job_id = request.node.name.replace("_", "-").removeprefix("test-")[:60]
    node.held_back, node.broken = set(), set()
    for number in range(COUNT):
        deploy(made, job_id, number, technology="docker", image=OLD)
    for number in range(COUNT):
        wait_for_state(made, job_id, number=number)
    yield job_id
    node.held_back, node.broken = set(), set()
    node.let_go()
    delete(made, job_id)
    wait_until(lambda: not running_images(node, job_id) and not running_count(made, job_id), what="the job is gone")


def running_images(node: GatedNode, job_id: str) -> list[str]:
    """The images of the instances that the node has, by number."""
    with node.lock:
        return [job["image"] for key, job in sorted(node.jobs.items()) if key[0] == job_id]


def update_of(made: Cluster, job_id: str) -> dict[str, Any]:
    """How far the update is; {} without one."""
    found = next(job for job in made.http.get("/api/jobs?page_size=1000")["jobs"] if job["id"] == job_id)
    return found["update"] or {}


def begin(made: Cluster, job_id: str, *options: str) -> None:
    said = clusterctl(made, "update", job_id, "--image", NEW, *options)
    assert said.status == 0, said


def wait_until_updated(made: Cluster, node: GatedNode, job_id: str, image: str) -> None:
    wait_until(lambda: running_images(node, job_id) == [image] * COUNT, 60.0, what=f"all run {image}")
    for number in range(COUNT):
        wait_for_state(made, job_id, number=number)


def test_a_batch_waits_for_the_health_of_the_one_before(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """With a batch size of two, two instances change and no third one until these run."""
    made, node = scene
    node.held_back = {NEW}
    begin(made, web, "--batch-size", "2")
    for done in (2, 4, 6):
        wait_until(lambda done=done: running_images(node, web).count(NEW) == done, what=f"{done} are changed")
        wait_until(lambda: len(node.waiting) == 2, what="two wait for their health")
        update = update_of(made, web)
        assert (update["state"], update["total_count"]) == ("rolling", COUNT)
        assert running_images(node, web).count(NEW) == done
        node.let_go()
    wait_until(lambda: update_of(made, web) == {}, what="the update is over")
    wait_until_updated(made, node, web, NEW)


def test_a_failing_image_is_rolled_back(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """An instance that fails on the new image takes the whole job back; the others never left the old one."""
    made, node = scene
    node.broken = {NEW}
    before = dict(node.running)
    begin(made, web)
    wait_until(lambda: update_of(made, web).get("state") == "failed", 60.0, what="the update has failed")
    assert "did not become healthy" in update_of(made, web)["detail"]
    wait_until_updated(made, node, web, OLD)
    unchanged = [key for key, generation in node.running.items() if before.get(key) == generation and key[0] == web]
    assert len(unchanged) == COUNT - 1


def test_without_rollback_a_failure_stops_the_update(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """With --no-rollback the update stops where it failed, and the rest keeps the old image."""
    made, node = scene
    node.broken = {NEW}
    begin(made, web, "--no-rollback")
    wait_until(lambda: update_of(made, web).get("state") == "failed", 60.0, what="the update has failed")
    node.broken = set()
    assert running_images(node, web).count(OLD) >= COUNT - 1


def fail(made: Cluster, node: GatedNode, job_id: str) -> None:
    """An update that failed at its first instance and was not rolled back; what broke it is mended since."""
    node.broken = {NEW}
    begin(made, job_id, "--no-rollback")
    wait_until(lambda: update_of(made, job_id).get("state") == "failed", 60.0, what="the update has failed")
    assert "update it again, resume the update or roll it back" in update_of(made, job_id)["detail"]
    node.broken = set()


def test_a_failed_update_is_repeated(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """The same command again changes all of them, the one that had failed included."""
    made, node = scene
    fail(made, node, web)
    begin(made, web)
    wait_until_updated(made, node, web, NEW)
    wait_until(lambda: update_of(made, web) == {}, what="the update is over")
    said = clusterctl(made, "update", web, "--image", NEW)
    assert (said.status, "nothing to do" in said.output) == (0, True)


def test_a_failed_update_is_resumed(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """--resume tries what had failed again and goes on."""
    made, node = scene
    fail(made, node, web)
    assert clusterctl(made, "update", web, "--resume").status == 0
    wait_until_updated(made, node, web, NEW)
    wait_until(lambda: update_of(made, web) == {}, what="the update is over")


def test_a_failed_update_is_rolled_back(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """--rollback takes the old image back; then there is nothing to resume, and the refusal says so."""
    made, node = scene
    fail(made, node, web)
    assert clusterctl(made, "update", web, "--rollback").status == 0
    wait_until_updated(made, node, web, OLD)
    wait_until(lambda: update_of(made, web)["detail"].startswith("rolled back"), what="it is rolled back")
    said = clusterctl(made, "update", web, "--resume")
    assert said.status == 1
    assert "was rolled back" in said.output
    assert "update it again" in said.output


def test_an_instance_deployed_with_the_newer_image_does_not_make_the_update_a_no_op(
    scene: tuple[Cluster, GatedNode], web: str
) -> None:
    """The other instances get it as well."""
    made, node = scene
    deploy(made, web, 3, technology="docker", image=NEW)
    wait_until(lambda: running_images(node, web).count(NEW) == 1, what="one has the new image")
    begin(made, web)
    wait_until_updated(made, node, web, NEW)


def test_pause_resume_and_rollback_by_hand(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """A paused update starts no further batch, a resumed one goes on, and a rolled back one restores the old image."""
    made, node = scene
    node.held_back = {NEW}
    begin(made, web)
    wait_until(lambda: len(node.waiting) == 1, what="the first waits for its health")
    assert "paused" in clusterctl(made, "update", web, "--pause").output
    node.let_go()
    wait_until(lambda: wait_for_state(made, web)["state"] == "RUNNING", what="the first runs")
    assert running_images(node, web).count(NEW) == 1
    node.held_back = set()
    assert clusterctl(made, "update", web, "--resume").status == 0
    wait_until_updated(made, node, web, NEW)
    wait_until(lambda: update_of(made, web) == {}, what="the update is over")
    node.held_back = {"local/web:3"}
    assert clusterctl(made, "update", web, "--image", "local/web:3").status == 0
    wait_until(lambda: len(node.waiting) == 1, what="the first waits for its health")
    assert clusterctl(made, "update", web, "--rollback").status == 0
    wait_until_updated(made, node, web, NEW)


def test_a_one_shot_is_exempt(scene: tuple[Cluster, GatedNode]) -> None:
    """One-shot jobs are not updated; the refusal says so and nothing is changed."""
    made, _ = scene
    deploy(made, "once", technology="docker", image=OLD, one_shot=True)
    wait_for_state(made, "once")
    said = clusterctl(made, "update", "once", "--image", NEW)
    assert said.status == 1
    assert "one-shot jobs are not updated" in said.output


def test_the_same_update_again_changes_nothing(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """Over gRPC the present specification is answered without an update."""
    made, node = scene
    before = dict(node.running)
    with manager_channel(made) as channel:
        api = manager_api(channel)
        job = api.GetJob(manager_pb2.GetJobRequest(job=web), timeout=20.0).job
        answer = api.UpdateJob(manager_pb2.UpdateJobRequest(job_id=web, spec=job.spec), timeout=20.0)
    assert not answer.job.HasField("update")
    assert node.running == before


def test_an_update_survives_the_manager(scene: tuple[Cluster, GatedNode], web: str) -> None:
    """kill -9 of the manager in the middle of an update: it goes on where it was."""
    made, node = scene
    node.held_back = {NEW}
    begin(made, web, "--batch-size", "3")
    wait_until(lambda: len(node.waiting) == 3, what="the first batch waits for its health")
    made.kill("manager")
    node.held_back = set()
    node.let_go()
    made.start_part("manager")
    made.wait_until_ready()
    wait_until_updated(made, node, web, NEW)
    wait_until(lambda: update_of(made, web) == {}, what="the update is over")
