"""The documented contracts as cases. Each case uses names and ids of its own, so that all can run on one cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contract.steps import Case, Kept, Matches, Step

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "roots"
OK = {"status": "ok"}
HEX_ID = Matches("[0-9a-f]{24}")
JOB: dict[str, Any] = {"name": "web", "image": "demo/web:1.0", "technology": "docker"}
POST_ROUTES = (
    "/api/node/register",
    "/api/schedule",
    "/api/deploy/bad-body/0",
    "/api/service/bad-body/0",
    "/api/move/",
    "/api/replicate/",
)
MEBIBYTE = 1024 * 1024


def problem(status: int, field: str, **members: Any) -> dict[str, Any]:
    """What a problem that names a field contains."""
    return {"status": status, "field": field, "detail": str, "title": str, **members}


def without(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The document less some keys."""
    return {key: value for key, value in document.items() if key not in keys}


def _registered(body: dict[str, Any]) -> Step:
    answer = {"id": HEX_ID, "MQTT_BROKER_PORT": Matches("[0-9]+"), "cluster_id": str}
    return Step(method="POST", path="/api/node/register", body=body, answer=answer, exact=True, keep="id")


def _again(body: dict[str, Any]) -> Step:
    return Step(method="POST", path="/api/node/register", body=body, answer={"id": Kept("id")})


def _node(name: str, /, **changes: Any) -> dict[str, Any]:
    return {"id": "", "name": name, "ip": "192.168.7.20", "port": "3000", **changes}


ENGINE_A: dict[str, Any] = {
    "id": "",
    "host": "engine-a",
    "ip": "192.168.7.31",
    "port": "3000",
    "system_info": {"architecture": "x86_64"},
    "cpu": 0.4,
    "free_cores": 4,
    "memory": 41.5,
    "memory_free_in_MB": 5000,
    "disk_info": {"/": "20"},
    "network_info": None,
    "gpu_info": None,
    "technology": ["docker"],
    "Overlay": False,
    "NetManagerPort": 6000,
}
ENGINE_C: dict[str, Any] = {
    "id": "",
    "host": "engine-c",
    "ip": "192.168.7.32",
    "port": "3000",
    "cpu_percent": 3.5,
    "vcpus": 8,
    "architecture": "arm64",
    "memory_percent": 20.1,
    "memory": 12000,
    "vgpus": 1,
    "virtualization": ["docker", "unikernel"],
    "supported_addons": [],
    "csi_drivers": [{"csi_driver_name": "csi.example", "csi_driver_endpoint": "unix:///x"}],
}

REGISTRATIONS = (
    Case("the seed's body with strings registers", (_registered(_node("seed-strings", id="1")),)),
    Case("the seed's body with integers registers", (_registered(_node("seed-integers", id=2, port=3000)),)),
    Case("a body without id registers", (_registered(without(_node("seed-no-id"), "id")),)),
    Case("an IPv6 address is an address", (_registered(_node("seed-v6", ip="fd00::1")),)),
    Case("a known name re-registers the same node", (_registered(_node("twice")), _again(_node("twice")))),
    Case("an engine of 2023 registers", (_registered(ENGINE_A), _again(ENGINE_A))),
    Case("an engine of 2026 registers", (_registered(ENGINE_C), _again(ENGINE_C))),
    Case(
        "a registered node is listed and read",
        (
            _registered(_node("listed")),
            Step(
                method="GET",
                path="/api/nodes?name=listed",
                answer={"nodes": [{"id": Kept("id"), "name": "listed", "state": str}], "next_page_token": ""},
                exact=True,
            ),
            Step(
                method="GET",
                path="/api/nodes/{id}",
                answer={"name": "listed", "port": 3000, "events": list, "orphans": []},
            ),
        ),
    ),
)

_BAD_NODES = (
    (_node(""), "name"),
    (_node("-x"), "name"),
    (_node("x" * 254), "name"),
    (_node("two words"), "name"),
    (_node("n", name=["n"]), "name"),
    (_node("n", name=True), "name"),
    (without(_node("n"), "name"), "name"),
    (without(_node("n"), "ip"), "ip"),
    (_node("n", ip="edge.example"), "ip"),
    (_node("n", ip="300.1.1.1"), "ip"),
    (_node("n", ip=None), "ip"),
    (without(_node("n"), "port"), "port"),
    (_node("n", port="0"), "port"),
    (_node("n", port=65536), "port"),
    (_node("n", port=-1), "port"),
    (_node("n", port=30.5), "port"),
    (_node("n", port="3000x"), "port"),
    (_node("n", port="٣٠٠٠"), "port"),
    (_node("n", port=2**63), "port"),
    (_node("n", port=2**80), "port"),
    (_node("n", port=" 80"), "port"),
    (_node("n", port=True), "port"),
    (_node("n", ip=" 10.0.0.1"), "ip"),
    (_node("n", ip=3232235521), "ip"),
    (_node("n", id=2**80), "id"),
    (_node("n", id=-5), "id"),
    (_node("n", id=1.0), "id"),
    (_node("käse"), "name"),
    (_node("n", id={"$oid": "1"}), "id"),
    (_node("n", id="a/b"), "id"),
    (_node("n", id="x" * 129), "id"),
    (_node("n", technology="docker"), "technology"),
    ({**ENGINE_A, "host": ""}, "host"),
    ({**ENGINE_A, "free_cores": "4"}, "free_cores"),
    ({**ENGINE_A, "free_cores": -4}, "free_cores"),
    ({**ENGINE_C, "csi_drivers": "x"}, "csi_drivers"),
)
_BAD_JOBS = (
    (without(JOB, "name"), "name"),
    ({**JOB, "name": ""}, "name"),
    ({**JOB, "name": 7}, "name"),
    ({**JOB, "name": "a b"}, "name"),
    ({**JOB, "name": "a/b"}, "name"),
    ({**JOB, "name": "x" * 254}, "name"),
    (without(JOB, "image"), "image"),
    ({**JOB, "image": "  "}, "image"),
    ({**JOB, "image": {"url": "x"}}, "image"),
    (without(JOB, "technology"), "technology"),
    ({**JOB, "technology": "jvm"}, "technology"),
    ({**JOB, "technology": ["docker"]}, "technology"),
    ({**without(JOB, "technology"), "virtualization": "jvm"}, "virtualization"),
    ({**JOB, "memory": -1}, "memory"),
    ({**JOB, "memory": "100"}, "memory"),
    ({**JOB, "memory": True}, "memory"),
    ({**JOB, "memory": 1e300}, "memory"),
    ({**JOB, "vcpus": -0.5}, "vcpus"),
    ({**JOB, "vgpus": 1.5}, "vgpus"),
    ({**JOB, "port": 8080}, "port"),
    ({**JOB, "port": "eighty"}, "port"),
    ({**JOB, "port": "65536:80"}, "port"),
    ({**JOB, "port": "80:99999/tcp"}, "port"),
    ({**JOB, "memory": 2**80}, "memory"),
    ({**JOB, "_id": {"$oid": "5"}}, "_id"),
    ({**JOB, "constraints": {}}, "constraints"),
    ({**JOB, "replicas": 1.0}, "replicas"),
    ({**JOB, "replicas": 2**80}, "replicas"),
    ({**JOB, "cmd": "sleep 1"}, "cmd"),
    ({**JOB, "cmd": ["sleep", 1]}, "cmd.1"),
    ({**JOB, "environment": {"A": "1"}}, "environment"),
    ({**JOB, "one_shot": "yes"}, "one_shot"),
    ({**JOB, "constraints": [{"node": "n"}]}, "constraints.0.type"),
    ({**JOB, "volumes": "v"}, "volumes"),
    ({**JOB, "replicas": -1}, "replicas"),
    ({**JOB, "replicas": "2"}, "replicas"),
    ({**JOB, "replicas": 10_001}, "replicas"),
    ({**JOB, "restart_policy": "sometimes"}, "restart_policy"),
    ({**JOB, "liveness": {"interval_s": 1.0}}, "liveness"),
    ({**JOB, "liveness": {"tcp": {"port": 0}}}, "liveness.tcp.port"),
)
_BAD_MOVES = (
    ({"node_from": "a", "node_to": "b"}, "job"),
    ({"job": None, "node_from": "a"}, "job"),
    ({"job": "", "node_from": "a"}, "job"),
    ({"job": -1, "node_from": "a"}, "job"),
    ({"job": True, "node_from": "a"}, "job"),
    ({"job": ["x"], "node_from": "a"}, "job"),
    ({"job": {"name": "no id"}, "node_from": "a"}, "job._id"),
    ({"job": "x"}, "node_from"),
    ({"job": "x", "node_from": ""}, "node_from"),
    ({"job": "x", "node_from": ["a"]}, "node_from"),
    ({"job": "x", "node_from": "a", "node_to": {}}, "node_to"),
    ({"job": "x", "node_from": "a", "instance_number": -1}, "instance_number"),
    ({"job": "x", "node_from": "a", "instance_number": "0"}, "instance_number"),
    ({"job": "x", "node_from": "a", "instance_number": 2**31}, "instance_number"),
)
_BAD_REPLICATIONS = (
    ({"int_replicas": 1}, "job"),
    ({"job": "x"}, "int_replicas"),
    ({"job": "x", "int_replicas": -1}, "int_replicas"),
    ({"job": "x", "int_replicas": "1"}, "int_replicas"),
    ({"job": "x", "int_replicas": 1.0}, "int_replicas"),
    ({"job": "x", "int_replicas": True}, "int_replicas"),
    ({"job": "x", "int_replicas": 10_001}, "int_replicas"),
)
_BAD_BODIES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("an empty body", {"raw": b""}, 400),
    ("a cut body", {"raw": b'{"name": "x"'}, 400),
    ("a text", {"raw": b"name=x"}, 400),
    ("a body that is not UTF-8", {"raw": b'{"name": "\xff\xfe"}'}, 400),
    ("a lone surrogate", {"raw": b'{"name": "\\ud800"}'}, 400),
    ("NaN", {"raw": b'{"name": "x", "memory": NaN}'}, 400),
    ("a number beyond all floats", {"raw": b'{"name": "x", "memory": 1e400}'}, 400),
    ("UTF-16", {"raw": '{"name": "x"}'.encode("utf-16")}, 400),
    ("two documents", {"raw": b"{}{}"}, 400),
    ("a number", {"raw": b"5"}, 400),
    ("Infinity", {"raw": b'{"name": "x", "memory": -Infinity}'}, 400),
    ("null", {"raw": b"null"}, 400),
    ("an array", {"raw": b"[]"}, 400),
    ("a string", {"raw": b'"x"'}, 400),
    ("nesting of 65 levels", {"raw": b'{"a":' * 65 + b"1" + b"}" * 65}, 413),
    ("nesting of 100,000 levels", {"raw": b"[" * 100_000}, 413),
    ("10 MB", {"raw": b'{"a":"' + b"x" * (10 * MEBIBYTE) + b'"}'}, 413),
    ("10 MB in chunks", {"raw": b'{"a":"' + b"x" * (10 * MEBIBYTE) + b'"}', "is_chunked": True}, 413),
)


def _bad(path: str, bodies: tuple[tuple[Any, str], ...]) -> list[Case]:
    return [
        Case(
            f"POST {path} refuses {json.dumps(body)[:70]} and names {field}",
            (Step(method="POST", path=path, body=body, status=400, answer=problem(400, field)),),
        )
        for body, field in bodies
    ]


BAD_INPUT = (
    *_bad("/api/node/register", _BAD_NODES),
    *_bad("/api/service/bad-job/0", _BAD_JOBS),
    *_bad("/api/deploy/bad-job/0", _BAD_JOBS[:1]),
    *_bad("/api/schedule", _BAD_JOBS),
    *_bad("/api/move/", _BAD_MOVES),
    *_bad("/api/replicate/", _BAD_REPLICATIONS),
    *(
        Case(
            f"POST {path} answers {what} with {status}",
            (Step(method="POST", path=path, status=status, answer=problem(status, "body"), **body),),
        )
        for path in POST_ROUTES
        for what, body, status in _BAD_BODIES
    ),
    *(
        Case(
            f"{method} {path} is refused and names {field}",
            (Step(method=method, path=path, body=body, status=400, answer=problem(400, field)),),
        )
        for method, path, body, field in (
            ("POST", "/api/service/job/-1", JOB, "instance_number"),
            ("POST", "/api/service/job/one", JOB, "instance_number"),
            ("POST", "/api/service/job/1.0", JOB, "instance_number"),
            ("POST", "/api/deploy/job/2147483648", JOB, "instance_number"),
            ("POST", "/api/deploy/job/99999999999999999999", JOB, "instance_number"),
            ("POST", "/api/service/job/%D9%A1", JOB, "instance_number"),
            ("POST", "/api/service/a%20b/0", JOB, "job_id"),
            ("POST", "/api/service/-x/0", JOB, "job_id"),
            ("POST", f"/api/service/{'x' * 129}/0", JOB, "job_id"),
            ("DELETE", "/api/service/job/-2", None, "instance_number"),
            ("DELETE", "/api/service/job/-01", None, "instance_number"),
            ("DELETE", "/api/service/job/1.5", None, "instance_number"),
            ("GET", "/api/delete/job/+1", None, "instance_number"),
            ("DELETE", "/api/service/%00/0", None, "job_id"),
            ("GET", "/api/delete/%ff/0", None, "job_id"),
            ("GET", "/api/delete/job/x", None, "instance_number"),
            ("GET", "/api/instances/job/-1", None, "instance_number"),
            ("GET", "/api/instances/a%20b/0", None, "job_id"),
            ("GET", "/api/instances/job/x/explain", None, "instance_number"),
            ("GET", "/api/instances/job/0/logs?follow=perhaps", None, "follow"),
            ("GET", "/api/instances/job/0/logs?tail_lines=-1", None, "tail_lines"),
            ("GET", "/api/nodes?state=ASLEEP", None, "state"),
            ("GET", "/api/nodes?page_size=1001", None, "page_size"),
            ("GET", "/api/nodes?page_size=-1", None, "page_size"),
            ("GET", "/api/jobs?page_size=many", None, "page_size"),
            ("GET", "/api/instances?state=RUNNING,ASLEEP", None, "state"),
            ("GET", "/api/instances?job_id=a%20b", None, "job_id"),
            ("GET", "/api/events?instance_number=-1", None, "instance_number"),
        )
    ),
)

ROUTING = (
    *(
        Case(f"{method} {path} is an unknown route", (Step(method=method, path=path, status=404),))
        for method, path in (
            ("GET", "/nowhere"),
            ("POST", "/api/service//0"),
            ("DELETE", "/api/service//-1"),
            ("GET", "/api/delete//-1"),
            ("GET", "/docs"),
        )
    ),
    *(
        Case(
            f"{method} {path} is a method that is not taken",
            (Step(method=method, path=path, status=405, answer={"reason": "method_not_allowed"}),),
        )
        for method, path in (
            ("GET", "/api/node/register"),
            ("PUT", "/api/service/job/0"),
            ("DELETE", "/api/nodes"),
            ("POST", "/status"),
        )
    ),
    Case("the description lists every route", (Step(method="GET", path="/openapi.json", answer={"paths": dict}),)),
    Case(
        "the cluster's standing has the words that roots know",
        (
            Step(
                method="GET",
                path="/api/cluster/status",
                answer={"cluster_name": str, "cluster_id": str, "connected_to_root": bool},
            ),
        ),
    ),
)


def _deploy_and_delete(deploy: str, delete_method: str, delete: str, job_id: str) -> Case:
    return Case(
        f"POST {deploy}… and {delete_method} {delete}… may each be repeated",
        (
            Step(method="POST", path=f"{deploy}/{job_id}/0", body=JOB, answer=OK, exact=True),
            Step(method="POST", path=f"{deploy}/{job_id}/0", body=JOB, answer=OK, exact=True),
            Step(
                method="GET",
                path=f"/api/instances/{job_id}/0",
                answer={"id": f"{job_id}/0", "job_id": job_id, "job_name": "web", "instance_number": 0, "state": str},
            ),
            Step(method=delete_method, path=f"{delete}/{job_id}/0", answer=OK, exact=True),
            Step(method=delete_method, path=f"{delete}/{job_id}/0", answer=OK, exact=True),
        ),
    )


COMMANDS = (
    _deploy_and_delete("/api/deploy", "GET", "/api/delete", "case-r1"),
    _deploy_and_delete("/api/service", "DELETE", "/api/service", "case-r3"),
    Case(
        "a body without content type, with another id and behind a trailing slash is deployed under the path's id",
        (
            Step(method="POST", path="/api/service/case-path/7/", raw=json.dumps({**JOB, "_id": "other"}).encode()),
            Step(method="GET", path="/api/instances/case-path/7", answer={"job_id": "case-path", "instance_number": 7}),
            Step(method="DELETE", path="/api/service/case-path/-1", answer=OK),
        ),
    ),
    Case(
        "-1 deletes every instance of the job and none of another",
        (
            Step(method="POST", path="/api/service/case-all/0", body=JOB),
            Step(method="POST", path="/api/service/case-all/1", body=JOB),
            Step(method="POST", path="/api/service/case-other/0", body=JOB),
            Step(method="DELETE", path="/api/service/case-all/-1", answer=OK, exact=True),
            Step(method="DELETE", path="/api/service/None/-1", answer=OK, exact=True),
            Step(method="GET", path="/api/delete/None/-1", answer=OK, exact=True),
            Step(method="DELETE", path="/api/service//-1", status=404),
            Step(method="GET", path="/api/instances/case-other/0", answer={"is_desired": True}),
            Step(method="GET", path="/api/delete/case-other/0", answer=OK),
        ),
    ),
    Case(
        "jobs, instances and events are listed, filtered and paged",
        (
            Step(method="POST", path="/api/service/case-list/0", body={**JOB, "name": "listed-job", "x-key": 1}),
            Step(method="POST", path="/api/service/case-list/1", body={**JOB, "name": "listed-job", "x-key": 1}),
            Step(
                method="GET",
                path="/api/jobs?name=listed-job",
                answer={"jobs": [{"id": "case-list", "name": "listed-job"}], "next_page_token": ""},
                exact=True,
            ),
            Step(
                method="GET",
                path="/api/jobs/case-list",
                answer={"id": "case-list", "spec": {"x-key": 1}, "instances": [{"state": str}, {"state": str}]},
            ),
            Step(
                method="GET",
                path="/api/instances?job_id=case-list&page_size=1",
                answer={"instances": [{"id": "case-list/0"}], "next_page_token": Matches(".+")},
                keep="next_page_token",
            ),
            Step(
                method="GET",
                path="/api/instances?job_id=case-list&page_size=1&page_token={next_page_token}",
                answer={"instances": [{"id": "case-list/1"}], "next_page_token": ""},
            ),
            Step(
                method="GET",
                path="/api/instances?job_id=case-list&state=running",
                answer={"instances": list, "next_page_token": ""},
            ),
            Step(
                method="GET",
                path="/api/events?job_id=case-list&page_size=1",
                answer={"events": [{"id": int, "at": Matches(r"\d{4}-\d\d-\d\dT.*Z"), "job_id": "case-list"}]},
            ),
            Step(
                method="GET",
                path="/api/instances/case-list/0/explain",
                answer={"summary": Matches(".+"), "instance": {"id": "case-list/0", "events": list}},
            ),
            Step(method="DELETE", path="/api/service/case-list/-1"),
        ),
    ),
    Case(
        "reads, moves and replications of what is unknown are not found",
        tuple(
            Step(method=method, path=path, body=body, status=404, answer={"reason": "not_found"})
            for method, path, body in (
                ("GET", "/api/nodes/nobody", None),
                ("GET", "/api/jobs/nothing", None),
                ("GET", "/api/instances/nothing/0", None),
                ("GET", "/api/instances/nothing/0/explain", None),
                ("GET", "/api/instances/nothing/0/logs", None),
                ("POST", "/api/move/", {"job": "nothing", "node_from": "nobody"}),
                ("POST", "/api/move", {"job": {"_id": "nothing"}, "node_from": 1, "node_to": 2}),
                ("POST", "/api/replicate/", {"job": "nothing", "int_replicas": 1}),
                ("POST", "/api/replicate", {"job": 12345, "int_replicas": 0}),
            )
        ),
    ),
    Case(
        "asking where a job would run answers as documented and changes nothing",
        (
            Step(
                method="POST",
                path="/api/schedule",
                body={**JOB, "name": "asked"},
                answer={"workers": list, "job": {"image": "demo/web:1.0"}},
            ),
            Step(
                method="POST",
                path="/api/schedule/",
                body={**JOB, "name": "asked", "replicas": 0},
                answer={"workers": [], "job": {"image": "demo/web:1.0"}},
                exact=True,
            ),
            Step(method="GET", path="/api/jobs?name=asked", answer={"jobs": []}),
        ),
    ),
)


def recorded(generation: str) -> list[tuple[str, Step]]:
    """Each deploy and delete that a real root sent, by the name of its recording; `raw` is the exact body."""
    steps = []
    for path in sorted((VECTORS / generation).glob("*.json")):
        call = json.loads(path.read_text())
        raw = call["raw"].encode() if call.get("raw") else None
        step = Step(method=call["method"], path=call["path"], raw=raw, headers=call["headers"], answer=OK, exact=True)
        steps.append((f"{generation} {path.stem}", step))
    return steps


RECORDED = tuple(
    Case(f"the root's recorded call {name} succeeds", (step,)) for name, step in [*recorded("R1"), *recorded("R3")]
)
# What only a real manager knows.
WHOLE = (
    *(
        Case(
            f"GET {path[:60]} is refused and names page_token",
            (Step(method="GET", path=path, status=400, answer=problem(400, "page_token")),),
        )
        for path in (
            "/api/events?page_token=%C2%B2",
            "/api/events?page_token=" + "9" * 5000,
            "/api/events?page_token=-1",
            "/api/instances?page_token=a",
            "/api/instances?page_token=a/%C2%B2",
            "/api/instances?page_token=a/" + "9" * 5000,
        )
    ),
    Case(
        "what is unknown is named",
        (
            Step(method="POST", path="/api/service/case-named/0", body=JOB),
            Step(method="GET", path="/api/instances/case-named/1", status=404, answer=problem(404, "instance_number")),
            Step(method="GET", path="/api/instances/case-nameless/0", status=404, answer=problem(404, "job_id")),
            Step(method="GET", path="/api/instances?node=nobody", status=404, answer=problem(404, "node")),
            Step(
                method="POST",
                path="/api/move/",
                body={"job": "case-named", "node_from": "nobody"},
                status=404,
                answer=problem(404, "node_from"),
            ),
            Step(method="DELETE", path="/api/service/case-named/-1"),
        ),
    ),
    Case(
        "an id that is alive belongs to its node",
        (
            _registered(_node("owner", id="4711")),
            Step(
                method="POST",
                path="/api/node/register",
                body=_node("thief", id=4711),
                status=409,
                answer=problem(409, "id", reason="already_exists"),
            ),
            _again(_node("owner", id=4711, ip="10.9.9.9", port=4000)),
            Step(method="GET", path="/api/nodes/4711", answer={"name": "owner", "ip": "10.9.9.9", "port": 4000}),
        ),
    ),
)
ALL = (*REGISTRATIONS, *BAD_INPUT, *ROUTING, *COMMANDS, *RECORDED)
