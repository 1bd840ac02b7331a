"""The project's compose file as a project of its own on a private engine, and what may befall its containers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

import docker

from testbed.commands import find
from testbed.compose_images import IMAGES, load_images
from testbed.docker_engine import BUSYBOX, DockerEngine
from testbed.ports import free_port
from testbed.processes import REPOSITORY
from testbed.waiting import wait_until

LOCAL: Final = "127.0.7.1"
NAME: Final = "composed"
SERVICES: Final = ("mosquitto", "mongo", "gateway", "manager", "scheduler", "worker")


class Compose:
    """Runs docker-compose; its services are found by their names. `environment` is what the compose file reads."""

    def __init__(self, engine: DockerEngine, client: docker.DockerClient) -> None:
        self._client = client
        number = os.getpid() % 250
        self.project = f"{NAME}{os.getpid()}"
        self.host_ip = f"10.232.{number}.1"
        self.environment = {
            **os.environ,
            **IMAGES,
            "COLUMNS": "200",  # of a narrow listing the names are wrapped
            "DOCKER_HOST": engine.url,
            "DOCKER_SOCKET": str(engine.socket),
            "CLUSTER_IMAGE": "local/cluster:1",
            "CLUSTER_NAME": NAME,
            "PUBLISH": LOCAL,
            "PUBLISH_LOCAL": LOCAL,
            "CLUSTER_SUBNET": f"10.232.{number}.0/24",
            "CLUSTER_GATEWAY_IP": self.host_ip,
            "WORKER_IP": self.host_ip,
            "WORKER_PORT": str(free_port()),
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROFILES": "worker",
        }

    def __call__(self, *arguments: str, **environment: str) -> str:
        """Run docker-compose; fails with what it printed."""
        done = subprocess.run(
            [find("docker-compose") or "docker-compose", *arguments],
            cwd=REPOSITORY,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-5000:]}"
        return done.stdout

    def clusterctl(self, *arguments: str) -> None:
        """Run a command of the operator against the published manager; fails with what it printed."""
        command = [sys.executable, "-P", "-m", "clusterctl", *arguments]
        environment = {**os.environ, "CLUSTERCTL_MANAGER": f"{LOCAL}:10101"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"

    def close(self) -> None:
        """Take everything down that was brought up, whatever it is called by now."""
        for container in self._client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True, v=True)
        self("down", "--volumes", "--remove-orphans")

    # One container

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of the service's container."""
        return self._container(service).attrs

    def address(self, service: str) -> str:
        """Its address on the compose network; "" where it has none."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return str(networks.get(f"{self.project}_default", {}).get("IPAddress", ""))

    def crash(self, service: str) -> None:
        """`kill -9` of its first process, and with it of all; its restart policy starts it again."""
        before = self.inspect(service)["State"]
        os.kill(before["Pid"], signal.SIGKILL)
        wait_until(lambda: self._is_started_anew(service, before["StartedAt"]), what=f"{service} is started again")

    def kill(self, service: str) -> None:
        """`docker kill`; no restart policy undoes that."""
        self._container(service).kill()
        wait_until(lambda: not self.inspect(service)["State"]["Running"], what=f"{service} has ended")

    def start(self, service: str) -> None:
        """`docker start`."""
        self._container(service).start()

    def replace(self, service: str) -> None:
        """Stop and remove its container and bring a new one up alone, while somebody else has its address."""
        address = self.address(service)
        self._container(service).stop()
        self._container(service).remove()
        squatter = self._squat(address) if address else None
        try:
            self("up", "--detach", "--no-deps", service)
        finally:
            if squatter:
                squatter.remove(force=True)
        assert not address or self.address(service) != address

    def healths(self) -> dict[str, str]:
        """What the health check of each service says."""
        return {service: self.inspect(service)["State"]["Health"]["Status"] for service in SERVICES}

    def containers(self, image: str) -> list[Any]:
        """The containers that were made of an image, by whomever."""
        return list(self._client.containers.list(all=True, filters={"ancestor": image}))

    def _container(self, service: str) -> Any:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (found,) = self._client.containers.list(all=True, filters={"label": labels})
        return found

    def _is_started_anew(self, service: str, started_at: str) -> bool:
        state = self.inspect(service)["State"]
        return bool(state["Running"] and state["StartedAt"] != started_at)

    def _squat(self, address: str) -> Any:
        network = f"{self.project}_default"
        endpoint = self._client.api.create_endpoint_config(ipv4_address=address)
        return self._client.containers.run(
            BUSYBOX, ["sleep", "600"], detach=True, network=network, networking_config={network: endpoint}
        )

    # The gateway

    def ask(self, method: str, path: str, body: object = None, host: str = LOCAL, port: int = 10100) -> Any:
        """Status and body of a request to the gateway; status 0 where it does not answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{host}:{port}{path}", data, headers, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError as error:
            return 0, str(error).encode()

    def wait_until_ready(self) -> None:
        """Wait until the cluster says that it is ready."""
        wait_until(lambda: self.ask("GET", "/status")[0] == 200, timeout=60, what="GET /status is 200")

    def deploy(self, job_id: str, document: dict[str, Any]) -> int:
        """The status of the order that the first instance of a job should run."""
        return int(self.ask("POST", f"/api/deploy/{job_id}/0", document)[0])

    def states(self, job_id: str) -> list[str]:
        """Where a job's instances stand."""
        return [str(instance["state"]) for instance in self.instances(job_id)]

    def instances(self, job_id: str) -> list[dict[str, Any]]:
        """A job's instances; none where the gateway does not answer."""
        status, body = self.ask("GET", f"/api/instances?job_id={job_id}")
        listed: list[dict[str, Any]] = json.loads(body)["instances"] if status == 200 else []
        return listed


@contextlib.contextmanager
def compose(engine: DockerEngine) -> Iterator[Compose]:
    """The compose file's project, nothing of it up yet, with its images made; nothing is left of it afterwards."""
    load_images(engine)
    with engine.client() as client:
        project = Compose(engine, client)
        project("build", "gateway")
        try:
            yield project
        finally:
            project.close()
