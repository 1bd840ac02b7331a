"""The documented messages on a whole cluster, byte for byte in key names, with nodes that speak no more than these."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import schemas
from testbed.cluster import Cluster, cluster
from testbed.operating import deploy, instance, move, replicate, wait_for_state
from testbed.scripted_node import ScriptedNode, SeedNode, nodes
from testbed.waiting import wait_until

JOB: dict[str, Any] = {"name": "web", "image": "demo/web:1.0", "technology": "docker"}
ROOT_ID = "507f1f77bcf86cd7994390"


@pytest.fixture(scope="module", name="made")
def _made() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


class NumberedNode(SeedNode):
    """A node that brings an id of its own and uses no other, as the documented sample does."""

    @property
    def id(self) -> str:
        return str(self.facts["id"])


class Loaded(SeedNode):
    """A node whose telemetry the test sets."""

    sent: Any = None
    telemetry_s = 0.1

    def telemetry(self) -> dict[str, Any]:
        return dict(self.sent or {"cpu": 1, "memory": 1})


def only(*names: str) -> dict[str, Any]:
    """A constraint that admits these nodes only."""
    return {"constraints": [{"type": "direct", "node": ";".join(names)}]}


def run_on(node: ScriptedNode, made: Cluster, job_id: str, *more: str, number: int = 0) -> dict[str, Any]:
    """Deploy a job that may use a node and `more`, and let the node say that it runs; answers the job it was told."""
    deploy(made, job_id, number, **{**JOB, "name": job_id}, **only(node.name, *more))
    job: dict[str, Any] = node.wait_for("deploy", job_id)["job"]
    node.say(job, "ACTIVE")
    wait_for_state(made, job_id, "RUNNING", number)
    return job


def workers(made: Cluster, **document: Any) -> list[str]:
    """Whom the documented scheduling question names."""
    answer = made.http.request("POST", "/api/schedule", {**JOB, **document})
    assert answer.status == 200
    assert answer.json["job"] == {"image": JOB["image"]}
    assert isinstance(answer.json.get("reasons", {}), dict)
    found: list[str] = answer.json["workers"]
    return found


def counter(made: Cluster, name: str) -> int:
    """One of the counters of the cluster's status."""
    count: int = made.http.get("/api/cluster/status")["counters"].get(name, 0)
    return count


def test_a_node_with_an_id_of_its_own_is_commanded_under_it(made: Cluster) -> None:
    """Id 17: telemetry on nodes/17/information, commands on nodes/17/controls with the documented keys."""
    node = NumberedNode(made, "edge-17", id=17)
    with nodes(node):
        found = made.http.get("/api/nodes/17")
        assert (found["name"], found["topic_id"], len(found["id"])) == ("edge-17", "17", 24)
        deploy(made, "own-id", **{**JOB, "extra": {"k": None}}, **only("17"))
        node.wait_for("deploy", "own-id")
        heard = node.heard[-1]
        assert heard.topic == "nodes/17/controls"
        body = json.loads(heard.payload)
        assert set(body) == {"command", "job", "cluster"}
        assert body["job"].items() >= {"id": "own-id", "instance_number": 0, "extra": {"k": None}, **JOB}.items()
        assert isinstance(body["job"]["generation"], int)
        assert made.http.request("GET", "/api/delete/own-id/0").status == 200
        assert node.wait_for("delete", "own-id")["job"].items() >= {"id": "own-id", **JOB}.items()


@pytest.mark.parametrize(
    ("telemetry", "is_chosen"),
    [
        ({"cpu": 94.9, "memory": 94.9}, True),
        ({"cpu": 95, "memory": 1}, False),
        ({"cpu": 1, "memory": 99.5}, False),
        ({"cpu": "96", "memory": "3"}, False),
        ({"cpu": "12", "memory": "3"}, True),
        ({"memory": 97}, False),
        ({"cpu": 7}, True),
    ],
)
def test_percentages_judge_a_node_of_unknown_capacity(
    made: Cluster, telemetry: dict[str, Any], is_chosen: bool
) -> None:
    """Such a node takes docker and unikernel jobs until it reports 95 percent or more, as number or string."""
    node = Loaded(made, "loaded")
    with nodes(node):
        node.sent = {"cpu": 50, "memory": 50}
        wait_until(lambda: workers(made, **only("loaded")) == [node.id], what="it is chosen at 50 percent")
        node.sent = telemetry
        expected = [node.id] if is_chosen else []
        usage = {f"{name}_percent": float(value) for name, value in telemetry.items()}
        wait_until(lambda: made.node("loaded")["usage"].items() >= usage.items(), what="its telemetry has arrived")
        wait_until(lambda: workers(made, **only("loaded")) == expected, what=f"the answer is {expected}")
        assert workers(made, **only("loaded"), technology="unikernel") == expected


def test_nodes_of_known_capacity_come_first(made: Cluster) -> None:
    """A node with four keys is asked last; wasm, which it did not announce, it never gets."""
    plain = SeedNode(made, "plain")
    known = SeedNode(made, "known", dialect="worker", technology=["docker", "wasm"], vcpus=4, memory_in_MB=1000)
    with nodes(plain, known):
        both = only("plain", "known")
        assert workers(made, **both) == [known.id]
        assert workers(made, **both, replicas=2, memory=600) == [known.id, plain.id]
        assert workers(made, **only("plain"), technology="wasm") == []
        assert workers(made, **both, replicas=0) == []


MALFORMED = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"5",
    b"x" * 2_000_000,
    b'{"a":' * 100_000,
    b'{"cpu": NaN}',
    b'{"cpu": 1e400}',
    b'{"cpu": true, "sname": "x", "status": "DEAD", "instance": -1, "services": [{}]}',
    b'{"sname": "x", "status": "NEVER-HEARD", "instance": 0, "services": 5}',
    b'{"sname": "x", "status": "DEAD", "instance": "0", "services": [5]}',
)
FOREIGN = ("nodes/a b/information", "nodes//information", "nodes/-x/job", "nodes/\u00e4/jobs/resources")


def test_malformed_and_foreign_messages_cost_nothing_else(made: Cluster) -> None:
    """Whatever arrives is counted; what runs, the node and the cluster stay as they are."""
    node = SeedNode(made, "noisy")
    with nodes(node):
        run_on(node, made, "bystander")
        before = {name: counter(made, name) for name in ("mqtt_malformed", "mqtt_foreign", "mqtt_unknown_node")}
        for count, payload in enumerate(MALFORMED, 1):  # one at a time: of what waits, newer telemetry supersedes older
            for channel in ("information", "job", "jobs/resources"):
                node.publish(channel, payload)
            wait_until(
                lambda: counter(made, "mqtt_malformed") - before["mqtt_malformed"] == 3 * count,  # noqa: B023 - within the turn
                what=f"{payload!r:.80} is counted",
            )
        assert node._client is not None
        for topic in (*FOREIGN, "nodes/nobody/job"):
            node._client.publish(topic, b'{"cpu": 1}', qos=1)
        wait_until(lambda: counter(made, "mqtt_foreign") - before["mqtt_foreign"] == len(FOREIGN), what="foreign ones")
        assert counter(made, "mqtt_unknown_node") - before["mqtt_unknown_node"] == 1
        assert made.http.request("GET", "/status").status == 200
        assert made.node("noisy")["state"] == "READY"
        assert instance(made, "bystander")["state"] == "RUNNING"


def test_states_of_others_and_of_the_past_change_nothing(made: Cluster) -> None:
    """Another node's word, an older generation, doubled and late states leave an instance as it is."""
    owner, other = SeedNode(made, "owner"), SeedNode(made, "other")
    with nodes(owner, other):
        job = run_on(owner, made, "fenced")
        before = instance(made, "fenced")
        other.say(job, "DEAD")
        other.say(job, "DEAD", job_id="fenced", generation=job["generation"])
        owner.say(job, "DEAD", job_id="fenced", generation=job["generation"] - 1)
        owner.say(job, "ACTIVE")
        owner.say(job, "CREATED")
        after = run_on(owner, made, "marker")  # its state came after all of these
        assert after["name"] == "marker"
        wait_until(lambda: counter(made, "reports_of_unknown_instances") > 0, what="the other node's word is counted")
        assert instance(made, "fenced")["version"] == before["version"]
        assert made.http.request("DELETE", "/api/service/fenced/0").status == 200
        owner.say(owner.wait_for("delete", "fenced")["job"], "UNDEPLOYED")
        wait_for_state(made, "fenced", "STOPPED")
        owner.say(job, "DEAD")
        owner.say(job, "ACTIVE")
        run_on(owner, made, "marker-2")
        assert instance(made, "fenced")["state"] == "STOPPED"


def test_a_move_makes_before_it_breaks(made: Cluster) -> None:
    """Deploy on the target, the advisory move on the source, delete there only after the target's ACTIVE."""
    job_id = ROOT_ID + "01"
    source, target = SeedNode(made, "source"), SeedNode(made, "target")
    with nodes(source, target):
        deploy(made, job_id, **JOB, **only("source"))
        job = source.wait_for("deploy", job_id)["job"]
        wait_for_state(made, job_id, "STARTING")
        refused = move(made, job_id, "source")
        assert (refused.status, refused.json["field"]) == (409, "node_from")
        source.say(job, "ACTIVE")
        wait_for_state(made, job_id)
        deploy(made, job_id, **JOB, **only("source", "target"))
        # another specification: the old copy retires and the new one is placed anew
        for node in (source, target):
            node.say({"name": "nothing", "instance_number": 9}, "DEAD")
        _settle(made, job_id, source, target)
        here, there = (source, target) if instance(made, job_id)["node_id"] == source.id else (target, source)
        at_first = [len(node.commands(job_id=job_id)) for node in (here, there)]
        answer = made.http.request(
            "POST", "/api/move/", {"job": {"_id": job_id, **JOB}, "node_from": here.id, "node_to": there.id}
        )
        assert answer.status == 200, answer
        advice = here.wait_for("move", job_id)
        assert set(advice) == {"command", "job", "cluster", "worker"}
        assert advice["worker"] == there.id
        command = wait_until(lambda: there.commands(job_id=job_id)[at_first[1] :], what="the target is commanded")[0]
        assert command["command"] == "deploy"
        assert [body["command"] for body in here.commands(job_id=job_id)[at_first[0] :]] == ["move"]
        there.say(command["job"], "ACTIVE")
        commands = wait_until(lambda: here.commands(job_id=job_id)[at_first[0] + 1 :], what="the source is commanded")
        assert commands[0]["command"] == "delete"
        here.say(commands[0]["job"], "UNDEPLOYED")
        found = wait_until(lambda: _alone(made, job_id), what="it runs in one place")
        assert found["node_id"] == there.id


def _alone(made: Cluster, job_id: str) -> dict[str, Any]:
    found = instance(made, job_id)
    return found if found["state"] == "RUNNING" and len(found["placements"]) == 1 else {}


def _settle(made: Cluster, job_id: str, *those: ScriptedNode) -> None:
    """Let the nodes do what they were last told, until the job runs in one place."""

    def step() -> bool:
        for node in those:
            commands = node.commands(job_id=job_id)
            if commands and commands[-1]["command"] in ("deploy", "delete"):
                node.say(commands[-1]["job"], "ACTIVE" if commands[-1]["command"] == "deploy" else "UNDEPLOYED")
        return bool(_alone(made, job_id))

    wait_until(step, 60.0, 0.2, what=f"{job_id} runs in one place")


def test_a_replication_numbers_its_own(made: Cluster) -> None:
    """A root's job gets instances from 1,000,000, one command each: `replicate` where the job runs already."""
    job_id = ROOT_ID + "02"
    node = SeedNode(made, "copier")
    with nodes(node):
        run_on(node, made, job_id)
        time.sleep(0.01)  # a placement in the millisecond of RUNNING would not count as after it
        answer = replicate(made, {"_id": job_id, "job_name": "web"}, 3)
        assert answer.status == 200
        assert [item["instance_number"] for item in answer.json["instances"]] == [0, 1_000_000, 1_000_001]
        node.wait_for("replicate", job_id, 2)
        for body in node.commands("replicate", job_id):
            assert set(body) == {"command", "job", "cluster"}
            node.say(body["job"], "ACTIVE")
        for number in (1_000_000, 1_000_001):
            wait_for_state(made, job_id, number=number)
        assert replicate(made, job_id, 3).status == 200
        assert replicate(made, job_id, 1).status == 200
        deleted = [node.wait_for("delete", job_id, count)["job"]["instance_number"] for count in (1, 2)]
        assert sorted(deleted) == [1_000_000, 1_000_001]
        assert [body["job"]["instance_number"] for body in node.commands("replicate", job_id)] == [1_000_000, 1_000_001]
        assert len(node.commands("deploy", job_id)) == 1


def test_explanations_count_and_name_the_nearest_miss(made: Cluster) -> None:
    """A pending instance: how many nodes each reason rules out, the nearest node, what would help; then why there."""
    small = SeedNode(made, "small", dialect="worker", technology=["docker"], vcpus=4, memory_in_MB=100)
    smaller = SeedNode(made, "smaller", dialect="worker", technology=["docker"], vcpus=4, memory_in_MB=50)
    with nodes(small, smaller):
        deploy(made, "greedy", **{**JOB, "memory": 120}, **only("small", "smaller"))
        wait_for_state(made, "greedy", "PENDING")
        found = made.http.get("/api/instances/greedy/0/explain")
        planning = found["planning"]
        reasons = {item["reason"]: (item["node_count"], item["detail"]) for item in planning["refusals"]}
        assert planning["fitting_count"] == 0
        assert reasons["memory"] == (2, "needs 120 MiB; small has 100 MiB free of 100 MiB")
        assert planning["nearest"]["node_id"] == small.id
        assert planning["smallest_change"] == "small would fit: lower the memory demand by 20 MiB"
        assert "2 nodes have too little memory free" in found["summary"]
        assert planning["smallest_change"] in found["summary"]
        deploy(made, "greedy", **{**JOB, "memory": 80}, **only("small", "smaller"))
        small.say(small.wait_for("deploy", "greedy")["job"], "ACTIVE")
        wait_for_state(made, "greedy")
        summary = made.http.get("/api/instances/greedy/0/explain")["summary"]
        assert "is RUNNING: its worker reports that it runs. It is on node small (the only one of" in summary


def test_long_lists_come_in_pages(made: Cluster) -> None:
    """250 instances come in pages, each once and in order; filters keep what fits."""
    for number in range(250):
        assert made.http.request("POST", f"/api/service/many/{number}", {**JOB, **only("nowhere")}).status == 200
    found, token, pages = [], "", 0
    while pages == 0 or token:
        page = made.http.get(f"/api/instances?job_id=many&page_token={token}")
        assert set(page) == {"instances", "next_page_token"}
        found += [item["instance_number"] for item in page["instances"]]
        token, pages = page["next_page_token"], pages + 1
    assert found == list(range(250))
    assert pages == 3
    assert made.http.get("/api/instances?job_id=many&state=RUNNING")["instances"] == []
    assert made.http.request("GET", "/api/instances?node=nobody").status == 404
    assert made.http.request("GET", "/api/instances?page_token=nonsense").json["field"] == "page_token"
    assert made.http.request("DELETE", "/api/service/many/-1").status == 200


def test_every_example_of_the_description_is_accepted(made: Cluster) -> None:
    """What the description shows can be sent; what it names besides is not there, never malformed."""
    paths = made.http.get("/openapi.json")["paths"]
    asked = 0
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["responses"]["200"]["content"]
            if "requestBody" in operation:
                example = operation["requestBody"]["content"]["application/json"]["example"]
                at = path.format(job_id="example", instance_number=0, node="nobody", job_name="example")
                answer = made.http.request("POST", at, example)
                assert answer.status in (200, 404), answer
                asked += 1
    assert asked >= 6
    assert made.http.request("DELETE", "/api/service/example/-1").status == 200


def test_real_answers_have_the_documented_keys(made: Cluster) -> None:
    """What operators read is what the description promises: all keys of the right types, and no others."""
    node = SeedNode(made, "described")
    paths = made.http.get("/openapi.json")["paths"]
    with nodes(node):
        run_on(node, made, "described-job")
        for path, operations in paths.items():
            content = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
            if "application/json" in content and "delete" not in path:
                model = getattr(schemas, content["application/json"]["schema"]["$ref"].rpartition("/")[2])
                at = path.format(job_id="described-job", instance_number=0, node="described", job="described-job")
                model.model_validate(made.http.get(at), strict=True)


def test_a_kept_message_is_no_sign_of_life(made: Cluster) -> None:
    """What the broker kept from a node does not make it READY when the manager connects."""
    talker, silent = SeedNode(made, "talker"), {"id": "", "name": "silent", "ip": "127.0.0.1", "port": 1}
    with nodes(talker):
        answer = made.http.request("POST", "/api/node/register", silent)
        topic = f"nodes/{answer.json['id']}/information"
        made.kill("manager")
        assert talker._client is not None
        for payload in (b'{"cpu": 1, "memory": 1}', b""):
            talker._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(10)
            if payload:
                made.start_part("manager")
                made.wait_until_ready()
                wait_until(lambda: counter(made, "mqtt_retained") > 0, what="the kept message is counted")
                assert made.node("silent")["state"] != "READY"


@pytest.mark.parametrize("part", ["broker", "scheduler", "manager"])
def test_the_status_names_what_is_missing(made: Cluster, part: str) -> None:
    """`/status` is 503 with the part that is away, and 200 again when it is back."""
    made.kill(part)
    try:
        wait_until(lambda: made.http.request("GET", "/status").status == 503, what=f"the {part} is missed")
        found = made.http.request("GET", "/status").json
        assert (found["field"], found["missing"], found["reason"]) == (part, [part], "unavailable")
        assert part in found["detail"]
        assert made.http.request("GET", "/healthz").status == 200
    finally:
        made.start_part(part)
        made.wait_until_ready()
