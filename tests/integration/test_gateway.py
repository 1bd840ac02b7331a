"""The gateway process between real HTTP clients and a real gRPC manager and scheduler that misbehave on demand."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from contract.cases import ENGINE_C, JOB, recorded
from contract.rig import Rig, gateway, rig
from contract.steps import Step, check_form, send

from cluster import errors
from cluster.v1 import manager_pb2, node_pb2
from gateway.protocol import MAX_HEAD_BYTES
from testbed.ports import free_port
from testbed.waiting import wait_until

MEBIBYTE = 1024 * 1024
RECORDED = [*recorded("R1"), *recorded("R3")]


@pytest.fixture(scope="module", name="parts")
def _parts() -> Iterator[Rig]:
    with rig(CALL_TIMEOUT_S="1", COMMAND_WAIT_S="5", READ_WAIT_S="0.5", BODY_TIMEOUT_S="0.5") as running:
        yield running


@pytest.fixture(name="running")
def _running(parts: Rig) -> Rig:
    parts.manager.requests.clear()
    parts.manager.failures.clear()
    parts.manager.delays_s.clear()
    parts.manager.unready_parts.clear()
    parts.manager.refused_jobs.clear()
    parts.scheduler.requests.clear()
    parts.scheduler.node_ids = ["a" * 24]
    return parts


def _post(running: Rig, path: str, body: object) -> httpx.Response:
    return running.client.post(path, json=body)


def _raw(port: int, *pieces: bytes) -> bytes:
    """Send bytes as they stand and read until the gateway closes or 3 s are over."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while chunk := connection.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionError):
            pass
        return received


@pytest.mark.parametrize(("name", "step"), RECORDED, ids=[name for name, _ in RECORDED])
def test_recorded_root_call_reaches_the_manager_typed(running: Rig, name: str, step: Step) -> None:
    """What a real root sent becomes one typed request with the path's job and instance, and the whole document."""
    assert send(running.client, step, {}).json() == {"status": "ok"}
    (request,) = running.manager.requests
    job_id, number = step.path.split("/")[-2:]
    assert request.actor == "root"
    assert request.request_id
    if isinstance(request, manager_pb2.DeleteInstancesRequest):
        assert [(key.job_id, key.number) for key in request.keys] == [(job_id, int(number))]
        return
    assert step.raw is not None
    document = json.loads(step.raw)
    (deployment,), (spec,) = request.deployments, request.specs
    assert (deployment.key.job_id, deployment.key.number) == (job_id, int(number))
    assert (spec.name, spec.image) == (document["job_name"], document["image"])
    assert spec.technology == document["virtualization"]
    assert list(spec.command) == document.get("cmd", [])
    assert spec.demand.HasField("memory_bytes") == ("memory" in document)
    assert spec.demand.memory_bytes == document.get("memory", 0) * MEBIBYTE
    assert spec.demand.cpu_millicores == document.get("vcpus", 0) * 1000
    assert json.loads(spec.document_json) == document


def test_registration_reaches_the_manager_typed(running: Rig) -> None:
    """An engine's body becomes a typed registration with its capacity; the seed's keeps its integer id as text."""
    _post(running, "/api/node/register", ENGINE_C).raise_for_status()
    _post(running, "/api/node/register", {"id": 7, "name": "n", "ip": "10.0.0.1", "port": 80}).raise_for_status()
    engine, seed = (request.registration for request in running.manager.requests)
    assert (engine.dialect, engine.capacity.cpu_millicores) == (node_pb2.NODE_DIALECT_ENGINE_C, 8000)
    assert (seed.dialect, seed.given_id, seed.port) == (node_pb2.NODE_DIALECT_SEED, "7", 80)


def test_schedule_asks_for_one_plan_that_changes_nothing(running: Rig) -> None:
    """Each replica is an item of one dry run; workers that were found come with reasons for those that were not."""
    running.scheduler.node_ids = ["a" * 24, "b" * 24]
    answer = _post(running, "/api/schedule", {**JOB, "replicas": 3}).json()
    assert answer == {
        "workers": ["a" * 24, "b" * 24],
        "job": {"image": JOB["image"]},
        "reasons": {"memory": {"count": 2, "detail": "too little memory"}},
    }
    (request,) = running.scheduler.requests
    assert request.is_dry_run
    assert len(request.items) == 3
    assert running.manager.requests == []


def test_no_capacity_is_an_answer(running: Rig) -> None:
    """Without a fitting node the workers are an empty list and the reasons are told."""
    running.scheduler.node_ids = []
    answer = _post(running, "/api/schedule", JOB).json()
    assert answer["workers"] == []
    assert answer["reasons"]["memory"]["detail"]


def test_move_and_replicate_reach_the_manager_typed(running: Rig) -> None:
    """Both forms of `job` name the job; what is left out stays absent."""
    _post(running, "/api/service/17/3", JOB).raise_for_status()
    moved = _post(running, "/api/move/", {"job": 17, "node_from": 1, "instance_number": 3})
    replicated = _post(running, "/api/replicate", {"job": {"_id": "17"}, "int_replicas": 2})
    assert moved.json()["instance"]["id"] == "17/3"
    assert [instance["id"] for instance in replicated.json()["instances"]] == ["17/3"]
    _, move, replicate = running.manager.requests
    assert (move.job_id, move.source_node, move.target_node, move.instance_number) == ("17", "1", "", 3)
    assert (replicate.job_id, replicate.instance_count, replicate.actor) == ("17", 2, "root")


@pytest.mark.parametrize("kind", errors.KINDS.values(), ids=lambda kind: kind.error.reason)
def test_an_error_of_the_manager_keeps_its_reason(running: Rig, kind: errors.ErrorKind) -> None:
    """Reason, field and words of an error arrive as they were raised, under the status of the one table."""
    running.manager.failures["DeployInstances"] = kind.error("because", field="image", reason="some_reason")
    response = _post(running, "/api/service/job/0", JOB)
    assert response.status_code == kind.http_status
    problem = response.json()
    assert (problem["reason"], problem["field"], problem["detail"]) == ("some_reason", "image", "because")
    check_form(response)


def test_request_id_reaches_the_manager_and_the_answer(running: Rig) -> None:
    """A usable id is taken over; an unusable one is replaced."""
    sent = {"x-request-id": "trace-1"}
    assert running.client.delete("/api/service/job/0", headers=sent).headers["x-request-id"] == "trace-1"
    made = running.client.delete("/api/service/job/0", headers={"x-request-id": "two words"}).headers["x-request-id"]
    assert [request.request_id for request in running.manager.requests] == ["trace-1", made]
    assert made not in ("", "two words")


def test_a_slow_manager_is_a_timeout(running: Rig) -> None:
    """A call that takes longer than its bound is answered 504 in time."""
    running.manager.delays_s["DeployInstances"] = 3.0
    response = _post(running, "/api/service/job/0", JOB)
    assert response.status_code == 504
    assert "repeat" in response.json()["detail"]
    check_form(response)


def test_deploys_that_come_together_share_calls_and_keep_their_own_answers(running: Rig) -> None:
    """Forty deploys at once take few calls; the one that is refused is refused alone, and all others are saved."""
    running.manager.delays_s["DeployInstances"] = 0.1
    running.manager.refused_jobs.add("together-13")
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda number: _post(running, f"/api/service/together-{number}/0", JOB), range(40)))
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * 13 + [409] + [200] * 26
    assert answers[13].json()["detail"] == "job together-13 is refused"
    saved = {job_id for job_id, _ in running.manager.instances}
    assert {f"together-{number}" for number in range(40) if number != 13} <= saved
    assert max(len(request.deployments) for request in running.manager.requests) > 1


def test_one_instance_ordered_many_times_at_once_is_never_twice_in_a_call(running: Rig) -> None:
    """The same job and instance ordered twenty times at once succeeds each time."""
    running.manager.delays_s["DeployInstances"] = 0.05
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: _post(running, "/api/service/same/0", JOB).status_code, range(20)))
    assert answers == [200] * 20
    assert all(len(request.deployments) == 1 for request in running.manager.requests)


def test_status_names_what_is_missing(running: Rig) -> None:
    """/status is 200 only while every part is ready; the root link is not one of them."""
    running.manager.unready_parts.add("root")
    assert running.client.get("/status").status_code == 200
    running.manager.unready_parts.update({"broker", "scheduler"})
    response = running.client.get("/status")
    assert response.status_code == 503
    assert response.json()["missing"] == ["broker", "scheduler"]
    assert "broker: it sleeps" in response.json()["detail"]
    check_form(response)


def test_logs_are_passed_on_byte_for_byte(running: Rig) -> None:
    """The output of an instance arrives as it was written."""
    _post(running, "/api/service/logs/0", JOB).raise_for_status()
    response = running.client.get("/api/instances/logs/0/logs?tail_lines=2")
    assert response.content == b"hello\n\xff\xfe\n"
    assert response.headers["content-type"].startswith("text/plain")
    assert running.manager.requests[-1].tail_lines == 2


def test_followed_logs_end_with_the_client(running: Rig) -> None:
    """Output comes before the stream ends, and a client that leaves ends the call at the manager."""
    _post(running, "/api/service/logs/0", JOB).raise_for_status()
    running.manager.delays_s["StreamLogs"] = 60.0
    with running.client.stream("GET", "/api/instances/logs/0/logs?follow=true") as response:
        assert next(response.iter_bytes()).startswith(b"hello")
    assert running.client.get("/healthz").status_code == 200


def test_a_manager_that_is_away_costs_a_bounded_wait(running: Rig) -> None:
    """Without a manager a read is answered 503 with where it was looked for, /status at once; healthz goes on."""
    before = running.gateway.output()
    running.manager_server.stop()
    try:
        began = time.monotonic()
        response = running.client.get("/api/nodes")
        assert 0.3 < time.monotonic() - began < 5
        assert response.status_code == 503
        assert f"is the manager running at 127.0.0.1:{running.manager_server.port}?" in response.json()["detail"]
        check_form(response)
        assert running.client.get("/status").status_code == 503
        assert running.client.get("/healthz").status_code == 200
    finally:
        running.manager_server.start()
    wait_until(lambda: running.client.get("/status").status_code == 200, timeout=10)
    said = running.gateway.output().removeprefix(before)
    assert said.count("peer does not answer") == 1
    assert said.count("peer answers again") == 1


def test_a_restarting_manager_costs_a_pause_only(running: Rig) -> None:
    """Commands sent while the manager restarts succeed once it is back."""
    running.manager_server.stop()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(_post, running, f"/api/service/pause/{number}", JOB) for number in range(8)]
        time.sleep(0.7)
        running.manager_server.start()
        assert [answer.result().status_code for answer in answers] == [200] * 8
    numbers = {request.deployments[0].key.number for request in running.manager.requests}
    assert numbers == set(range(8))


def test_a_scheduler_that_is_away_is_a_problem(running: Rig) -> None:
    """Scheduling without a scheduler is 503; everything else goes on."""
    running.scheduler_server.stop()
    try:
        response = _post(running, "/api/schedule", JOB)
        assert response.status_code == 503
        assert "scheduler" in response.json()["detail"]
        assert _post(running, "/api/service/job/0", JOB).status_code == 200
    finally:
        running.scheduler_server.start()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NOT HTTP AT ALL\r\n\r\n",
        b"GET /api/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/schedule HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
        b"POST /api/schedule HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    ],
)
def test_malformed_http_is_a_problem(running: Rig, request_bytes: bytes) -> None:
    """Even what cannot be parsed as HTTP is answered with a problem, and the next client is served."""
    answer = _raw(running.port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b"application/problem+json" in answer
    assert running.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_offer_to_upgrade_is_passed_over(running: Rig, protocol: str) -> None:
    """A client that offers another protocol, as Java's does, is served over HTTP/1.1 with its body."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABkAAQ"}
    body = {**JOB, "environment": ["A=\r\n\r\nUpgrade: kept"]}
    response = running.client.post("/api/service/upgrade/0", json=body, headers=headers)
    assert response.json() == {"status": "ok"}
    assert list(running.manager.requests[0].specs[0].environment) == body["environment"]
    assert "Unsupported upgrade" not in running.gateway.output()


def test_an_endless_head_is_refused(running: Rig) -> None:
    """Headers that do not end are answered 431 instead of being collected."""
    head = b"GET / HTTP/1.1\r\nx-long: "
    answer = _raw(running.port, head.ljust(MAX_HEAD_BYTES + 1, b"x"))
    assert answer.startswith(b"HTTP/1.1 431"), answer
    assert b"application/problem+json" in answer


def test_a_body_shorter_than_announced_is_timed_out(running: Rig) -> None:
    """A client that announces more than it sends is answered 408."""
    head = b"POST /api/service/short/0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    answer = _raw(running.port, head + b'{"name":')
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b"application/problem+json" in answer
    assert running.manager.requests == []


def test_what_follows_the_announced_length_is_no_part_of_the_body(running: Rig) -> None:
    """A client that sends more than it announces is told so, and the next client is served."""
    body = json.dumps(JOB).encode()
    head = f"POST /api/schedule HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    answer = _raw(running.port, head + body + b"garbage garbage\r\n\r\n")
    assert b"HTTP/1.1 400" in answer
    assert b"malformed_request" in answer
    assert running.client.get("/healthz").status_code == 200


def test_a_client_that_leaves_mid_body_does_no_harm(running: Rig) -> None:
    """A connection that breaks before the body has come changes nothing and is no failure."""
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(b"POST /api/service/gone/0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    wait_until(lambda: "client went away" in running.gateway.output(), timeout=10)
    assert running.manager.requests == []
    assert "request failed" not in running.gateway.output()


def test_an_endless_body_is_refused_while_it_comes(running: Rig) -> None:
    """The answer is there long before an endless upload ends, and the connection is closed."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(b"POST /api/schedule HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sender = threading.Thread(target=_send_until_refused, args=(connection, chunk))
        sender.start()
        answer = connection.recv(65536)
        sender.join(30)
    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert not sender.is_alive()


def _send_until_refused(connection: socket.socket, chunk: bytes) -> None:
    try:
        for _ in range(10_000):
            connection.sendall(chunk)
    except OSError:
        return


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as status:  # noqa: PTH123 - a line of /proc
        return int(status.read().split()[1]) * 4096


@pytest.mark.real("procfs")
def test_large_bodies_are_not_kept(running: Rig) -> None:
    """Twenty bodies of 10 MB at once cost a bounded amount of memory."""
    before = _resident_bytes(running.gateway.pid)
    body = b"[" * (10 * MEBIBYTE)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: running.client.post("/api/schedule", content=body).status_code, range(20)))
    assert answers == [413] * 20
    assert _resident_bytes(running.gateway.pid) - before < 100 * MEBIBYTE


def test_sigterm_lets_running_requests_end() -> None:
    """A deploy that is under way when SIGTERM comes is answered; new connections are refused; the exit is clean."""
    with rig() as running:
        running.manager.delays_s["DeployInstances"] = 1.0
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(_post, running, "/api/service/job/0", JOB)
            wait_until(lambda: running.manager.requests)
            running.gateway.signal(signal.SIGTERM)
            assert answer.result().status_code == 200
        assert running.gateway.wait(10) == 0
        with pytest.raises(httpx.ConnectError):
            running.client.get("/healthz")


def test_it_serves_before_the_manager_is_there() -> None:
    """The gateway starts without a manager and answers 503 until it comes."""
    with gateway(free_port(), free_port(), READ_WAIT_S="0.1") as (_, port):
        base = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{base}/healthz", trust_env=False).status_code == 200
        assert httpx.get(f"{base}/api/jobs", trust_env=False).status_code == 503


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_help_names_every_setting() -> None:
    """`--help` tells the options and the environment."""
    answer = _run("--help")
    assert answer.returncode == 0
    for word in ("--bind", "GATEWAY_PORT", "MANAGER_ADDRESS", "SCHEDULER_ADDRESS", "LOG_LEVEL"):
        assert word in answer.stdout


def test_a_wrong_setting_is_named() -> None:
    """A setting out of range ends the start with its name, not with a traceback."""
    answer = _run(GATEWAY_PORT="70000")
    assert answer.returncode == 2
    assert "GATEWAY_PORT" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_taken_port_is_named(running: Rig) -> None:
    """Where something listens already the start ends with the address, not with a traceback."""
    answer = _run("--port", str(running.port))
    assert answer.returncode == 1
    assert f"127.0.0.1:{running.port}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_exposed_bind_is_warned_of() -> None:
    """Binding to all interfaces works and says at the start that peers are admitted without authentication."""
    with gateway(free_port(), free_port(), BIND="0.0.0.0") as (process, _):
        assert "without authentication" in process.output()


def test_another_run_is_a_call_of_its_own_with_the_callers_id(running: Rig) -> None:
    """`?rerun=true` hands the wish and `X-Request-Id` to the manager; a plain deploy hands on no wish."""
    for query, is_rerun in (("?rerun=true", True), ("?rerun=false", False), ("", False)):
        running.manager.requests.clear()
        answer = running.client.post(f"/api/deploy/again/0{query}", json=JOB, headers={"X-Request-Id": "run-2"})
        assert answer.json() == {"status": "ok"}
        (request,) = running.manager.requests
        assert (request.is_rerun, request.request_id, request.actor) == (is_rerun, "run-2", "root")
        assert [(item.key.job_id, item.key.number) for item in request.deployments] == [("again", 0)]


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [("true", {}, "X-Request-Id"), ("true", {"X-Request-Id": "x" * 129}, "X-Request-Id"), ("perhaps", {}, "rerun")],
)
def test_another_run_without_an_id_of_the_callers_is_refused(
    running: Rig, query: str, headers: dict[str, str], field: str
) -> None:
    """Repeated, it could not be told from a new wish: nothing reaches the manager."""
    answer = running.client.post(f"/api/service/again/0?rerun={query}", json=JOB, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert not running.manager.requests
