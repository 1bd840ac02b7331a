"""`docker-compose up` with images made from this machine's own files: jobs run, whichever container restarts."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from standins.roots.data import Service, object_id
from standins.roots.r1 import R1
from standins.roots.r3 import R3
from standins.roots.root import Root
from testbed.compose import NAME, SERVICES, Compose, compose
from testbed.docker_engine import BUSYBOX, DockerEngine
from testbed.waiting import wait_until

JOB = "c" * 24
HELLO = {"image": "builtin:hello", "technology": "wasm"}
pytestmark = [pytest.mark.real("compose", "mosquitto", "mongo"), pytest.mark.timeout(600)]


class Stack:
    """All services up below a root on the same machine, and a container that runs from the first test to the last."""

    def __init__(self, project: Compose, root: Root) -> None:
        self.compose = project
        self.root = root
        self.resident = object_id()
        self.life: dict[str, Any] = {}

    def start(self) -> "Stack":
        """Bring all up, and have the operator deploy the container, of which no root hears."""
        self.compose("up", "--detach")
        self.wait_until_attached()
        flags = ("--id", self.resident, "--name", "resident", "--technology", "docker", "--command", "sleep 3600")
        self.compose.clusterctl("deploy", *flags, "--image", BUSYBOX, "--wait")
        self.life = self.residents_life()
        return self

    def attach_to(self, root: Root, **settings: str) -> None:
        """Make the manager's container anew with the settings of another root."""
        self.root = root
        self.compose.environment |= {"SYSTEM_MANAGER_GRPC_PORT": "", **root.settings, **settings}
        self.compose("up", "--detach", "--no-deps", "manager")
        self.wait_until_attached()

    def wait_until_attached(self) -> None:
        """Wait until the cluster is ready, and the root would call the address that the manager has now."""
        self.compose.wait_until_ready()
        address = self.compose.address("manager")
        wait_until(lambda: self._calls(address), 60, what=f"the root calls the manager at {address}")

    def residents_life(self) -> dict[str, Any]:
        """What changes when the resident's container is made anew or restarted, or placed anew."""
        (instance,) = self.compose.instances(self.resident)
        (container,) = self.compose.containers(BUSYBOX)
        state = {key: container.attrs["State"][key] for key in ("Pid", "StartedAt", "Running")}
        return {**state, "container": container.id, "attempts": instance["attempts"], "state": instance["state"]}

    def run_a_job(self) -> None:
        """What the root orders is deployed, runs, and is deleted; an order that is refused is given again."""
        root, service = self.root, self.root.data.add_service("ordered", "builtin:hello", "wasm")
        (number,) = wait_until(lambda: self._ordered(service), 60, what="an order to deploy is taken")
        root.wait_for_status(service, "RUNNING", number, timeout=60)
        wait_until(lambda: root.undeploy(service, number) == 200, 60, what="an order to delete is taken")
        wait_until(lambda: self.compose.states(service.id) == ["STOPPED"], 60, what="the job is deleted")
        assert root.data.faults == []

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Whatever the block does: afterwards the cluster gets ready, a job runs, and the resident never stopped."""
        with logs_on_failure(self.compose):
            yield
            self.wait_until_attached()
            self.run_a_job()
            assert self.residents_life() == self.life

    def _calls(self, address: str) -> bool:
        known = self.root.registered(NAME)
        return bool(known and known.numbers and known.ip == address)

    def _ordered(self, service: Service) -> tuple[int, ...]:
        with contextlib.suppress(AssertionError):
            return (self.root.deploy(service),)
        return ()


@pytest.fixture(name="compose", scope="module")
def _compose(docker_engine: DockerEngine) -> Iterator[Compose]:
    with compose(docker_engine) as project:
        yield project


@pytest.fixture(name="stack", scope="module")
def _stack(compose: Compose) -> Iterator[Stack]:
    compose("up", "--no-start")
    with serving(R3(), compose) as root, logs_on_failure(compose):
        compose.environment |= root.settings
        yield Stack(compose, root).start()


@contextlib.contextmanager
def serving(root: Root, project: Compose) -> Iterator[Root]:
    """A root on this machine, where the containers reach it; of them it sees their own addresses."""
    root.host = project.host_ip
    root.start()
    try:
        yield root
    finally:
        root.stop()


@contextlib.contextmanager
def logs_on_failure(project: Compose) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(project("ps"), project("logs", "--no-color", "--tail", "40"))
        raise


def _services(listing: str) -> set[str]:
    return set(re.findall(r"^composed\d+_(\w+)_1 ", listing, re.MULTILINE))


def test_a_job_runs_through_the_compose_file(compose: Compose) -> None:
    """The default profile is broker, database and orchestrator; with a worker a job runs, and is kept over restarts."""
    compose("up", "--detach", COMPOSE_PROFILES="")
    with logs_on_failure(compose):
        compose.wait_until_ready()
        assert _services(compose("ps")) == {*SERVICES} - {"worker"}
        compose("up", "--detach", "--no-deps", "worker")
        assert compose.deploy(JOB, {"_id": JOB, "job_name": "hello", **HELLO}) == 200
        wait_until(lambda: compose.states(JOB) == ["RUNNING"], timeout=60)
        wait_until(lambda: b"hello from wasm" in compose.ask("GET", f"/api/instances/{JOB}/0/logs")[1])
        compose("restart", "--timeout", "5", "mongo", "manager")
        compose.wait_until_ready()
        assert compose.states(JOB) == ["RUNNING"]
        assert compose.ask("GET", f"/api/delete/{JOB}/0")[0] == 200
        wait_until(lambda: compose.states(JOB) == ["STOPPED"], timeout=60)


def test_the_four_processes_are_not_root(compose: Compose) -> None:
    """The image's user is an ordinary one."""
    assert compose("run", "--rm", "--no-deps", "--entrypoint", "id", "scheduler", "-u").strip() == "10001"


@pytest.mark.parametrize("service", SERVICES)
def test_1_each_container_may_crash_alone(stack: Stack, service: str) -> None:
    """Its restart policy brings it back; the cluster gets ready, what ran runs on, and what is ordered is done."""
    with stack.undisturbed():
        stack.compose.crash(service)


@pytest.mark.parametrize("service", SERVICES)
def test_1_each_container_may_return_at_another_address(stack: Stack, service: str) -> None:
    """One that is stopped and made anew, somebody else having its address by then, is found by its name."""
    with stack.undisturbed():
        stack.compose.replace(service)


def test_1_containers_may_start_in_any_order(stack: Stack) -> None:
    """All are killed and start in the order that suits least: the broker last, without whom nothing happens."""
    with stack.undisturbed():
        for service in SERVICES:
            stack.compose.kill(service)
        for service in reversed(SERVICES):
            stack.compose.start(service)


def test_1_a_root_finds_the_gateway_wherever_it_stands(stack: Stack) -> None:
    """Roots on this machine and in the same network call the manager's address, those elsewhere the published port."""
    address = stack.compose.address("manager")
    assert address != stack.compose.address("gateway")
    here = json.loads(stack.compose.ask("GET", "/status", host=address)[1])
    asking = f"import urllib.request as u; print(u.urlopen('http://{address}:10100/status').read().decode())"
    beside = json.loads(stack.compose("exec", "-T", "scheduler", "python3", "-c", asking))
    elsewhere = json.loads(stack.compose.ask("GET", "/status")[1])
    assert here == beside == elsewhere
    assert here["cluster_name"] == NAME


def test_1_orders_of_an_older_root_arrive_over_restarts(stack: Stack) -> None:
    """A root R1 on this machine is heard at first, after the gateway's restart, and after the manager's."""
    root = R1()
    with serving(root, stack.compose), stack.undisturbed():
        stack.attach_to(root, USER_NAME="Admin", CLUSTER_PAIRING_KEY=root.add_cluster(NAME))
        for service in ("gateway", "manager"):
            stack.run_a_job()
            stack.compose.crash(service)
            stack.wait_until_attached()


def test_1_each_container_says_that_it_is_well(stack: Stack) -> None:
    """The health checks of the compose file hold for what runs; of all that befell it nothing shows later either."""
    wait_until(lambda: stack.compose.healths() == dict.fromkeys(SERVICES, "healthy"), 60, what="all are healthy")
    assert stack.residents_life() == stack.life
