"""Reports: the recorded form, true numbers, and whatever a root would refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from unit.root.recordings import load, names

from cluster.documents import MEBIBYTE
from cluster.jobs import Resources
from cluster.nodes import Dialect, Registration
from cluster.payloads import ResourceEntry, parse_information
from manager.domain.model import Instance, InstanceState, Node, NodeLive, NodeState, Placement
from manager.domain.roots import Era
from manager.root.report import ReportedInstance, ReportedJob, instance_document, report_body
from manager.root.totals import Totals, totals_of
from manager.root.web import find_cluster, known_location
from manager.root.words import job_word, status_word
from standins.roots.data import Cluster, Database, Service
from standins.roots.reports import take_r1, take_r3
from testbed.records import instance, spec

JOB_ID = "6b03249ed8ac74488c0dbc49"
CLUSTER_ID = {"R1": "6b0326dd79462142fca12521", "R3": "6b03249dd8ac74488c0dbc47"}
ERAS = [Era.R1, Era.R2, Era.R3]


def _node(name: str = "n1", state: NodeState = NodeState.READY, memory_mb: int | None = 8000, **facts: Any) -> Node:
    capacity = Resources(cpu_millicores=4000, memory_bytes=None if memory_mb is None else memory_mb * MEBIBYTE, gpus=1)
    registration = Registration(name=name, ip="10.0.0.11", port=3000, capacity=capacity, **facts)
    return Node(id=name, registration=registration, registered_at_ms=0, state=state)


def _running(number: int = 0) -> Instance:
    placement = Placement(
        node_id="n1", generation=1, spec=spec(), state=InstanceState.RUNNING, since_ms=0, has_run=True
    )
    return replace(instance(number), state=InstanceState.RUNNING, current=placement, detail="all good")


def _reported(item: Instance) -> ReportedInstance:
    usage = ResourceEntry(job_name="web", number=0, cpu_percent=1.5, memory_bytes=8 * MEBIBYTE, disk_bytes=4096)
    return ReportedInstance(instance=item, node=_node(), usage=usage, seen_at_ms=1_795_368_682_737)


def _job(era: Era, *items: ReportedInstance) -> ReportedJob:
    return ReportedJob(
        id=JOB_ID,
        name="shop.prod.web.prod",
        status=job_word(status_word(item.instance, era) for item in items),
        detail=items[0].instance.detail,
        instances=[instance_document(era, item) for item in items],
    )


def _kinds(value: Any) -> Any:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.parametrize(("era", "name"), [(Era.R1, "R1/report-full"), (Era.R3, "R3/report-full")])
def test_form_is_the_recorded_one(era: Era, name: str) -> None:
    """Keys and kinds of values are those of a report that a real root took; only the job's detail comes on top."""
    recorded = load(name)["body"]
    body = report_body(era, Totals(technologies=("docker",)), [_job(era, _reported(_running()))])
    ours = json.loads(json.dumps(body))
    assert {key: _kinds(value) for key, value in ours.items()} == {key: _kinds(v) for key, v in recorded.items()}
    (job,), first = ours["jobs"], recorded["jobs"][0]
    assert set(job) == {*first, "status_detail"}
    mine, theirs = job["instance_list"][0], first["instance_list"][0]
    assert {key: _kinds(value) for key, value in mine.items()} == {key: _kinds(v) for key, v in theirs.items()}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("state", list(InstanceState))
def test_stand_in_root_finds_no_fault(era: Era, state: InstanceState) -> None:
    """With and without node and measurements, in every state, a root takes all of it."""
    bare = replace(instance(1), state=state)
    job = _job(era, _reported(_running()), ReportedInstance(instance=bare))
    data = Database(clusters={CLUSTER_ID["R3"]: Cluster(CLUSTER_ID["R3"], "c")}, services={JOB_ID: Service(JOB_ID, {})})
    body = json.loads(json.dumps(report_body(era, totals_of([_node()], {"n1": NodeLive()}, {}), [job])))
    take = take_r3 if era is Era.R3 else take_r1
    assert take(data, CLUSTER_ID["R3"], body) == (200, [])
    assert data.faults == []


@pytest.mark.parametrize("era", [Era.R2, Era.R3])
def test_last_words_of_an_engine_are_passed_on(era: Era) -> None:
    """The dashboard's log view shows what an engine sent, the newest 1,024 characters of it."""
    usage = ResourceEntry(job_name="web", number=0, logs="old" + "n" * 1023 + "!")
    told = replace(_reported(_running()), usage=usage)
    [shown] = report_body(era, Totals(), [_job(era, told)])["jobs"][0]["instance_list"]
    assert shown["logs"] == "n" * 1023 + "!"


def test_text_that_is_half_a_character_stops_no_report() -> None:
    """What JSON cannot hold is replaced, in details and in last words."""
    usage = ResourceEntry(job_name="web", number=0, logs="so\ud800")
    told = replace(_reported(replace(_running(), detail="half \udfff")), usage=usage)
    text = orjson.dumps(report_body(Era.R3, Totals(), [_job(Era.R3, told)])).decode()
    assert "half ?" in text
    assert "so?" in text


@pytest.mark.parametrize("document", ["", "[]", "{", '{"NetManagerPort": "x"}', '{"NetManagerPort": 70000}'])
def test_registration_that_cannot_be_read_has_the_default_tunnel(document: str) -> None:
    """What a node once said of itself stops no report either."""
    node = replace(_node(), registration=replace(_node().registration, document=document))
    shown = instance_document(Era.R1, replace(_reported(_running()), node=node))
    assert shown["host_port"] == 50103


def test_undecided_root_is_told_no_jobs_and_both_namings() -> None:
    """R2 and R3 read the numbers that they know; neither order deletes for jobs."""
    job = _job(Era.UNDECIDED, _reported(_running()))
    body = report_body(Era.UNDECIDED, Totals(core_count=4, memory_mb=100), [job])
    assert body["jobs"] == []
    assert (body["vcpus"], body["cpu_cores"], body["memory"], body["cumulative_memory_in_mb"]) == (4, 4, 100, 100)


def test_totals_are_means_and_sums_over_ready_nodes() -> None:
    """Only READY nodes count; what was not measured weighs nothing; reserved memory is not free."""
    nodes = [
        _node("a", architecture="amd64", technologies=("docker",), addons=("x",)),
        _node("b", architecture="arm64", technologies=("docker", "unikernel")),
        _node("seed", memory_mb=None),
        _node("down", NodeState.DOWN),
    ]
    live = {
        "a": NodeLive(cpu_percent=20, memory_percent=10, memory_free_bytes=5000 * MEBIBYTE),
        "b": NodeLive(cpu_percent=40, memory_percent=0),
        "seed": NodeLive(),
        "down": NodeLive(cpu_percent=100),
    }
    totals = totals_of(nodes, live, {"b": Resources(memory_bytes=6000 * MEBIBYTE)})
    assert (totals.node_count, totals.cpu_percent, totals.memory_percent) == (3, 30.0, 5.0)
    assert (totals.core_count, totals.gpu_count, totals.memory_mb) == (12, 3, 7000)
    assert (totals.technologies, totals.addons) == (("docker", "unikernel"), ("x",))
    assert {name: part.cpu_percent for name, part in totals.by_architecture.items()} == {"amd64": 20.0, "arm64": 40.0}


def test_nodes_that_name_what_no_machine_has_stop_no_report() -> None:
    """Sums stay integers that JSON readers take, and words within bounds, whatever thousands of nodes claim."""
    huge = Resources(cpu_millicores=2**62, memory_bytes=2**62, gpus=2**62)
    facts = Registration(name="n", ip="10.0.0.1", port=1, capacity=huge, addons=("a" * 10_000, "x"))
    nodes = [
        Node(
            id=str(n),
            registration=replace(facts, architecture=f"a{n}", csi_drivers=(f"d{n}",)),
            registered_at_ms=0,
            state=NodeState.READY,
        )
        for n in range(300)
    ]
    totals = totals_of(nodes, {node.id: NodeLive(memory_free_bytes=2**62) for node in nodes}, {})
    for era in (*ERAS, Era.UNDECIDED):
        assert len(orjson.dumps(report_body(era, totals, []))) < 100_000
    assert (totals.addons, len(totals.csi_drivers), len(totals.by_architecture)) == (("x",), 200, 50)


def test_gpus_are_told_as_the_newer_engines_measure_them() -> None:
    """One of 2025 names the memory used, one of 2026 its share; a node without a GPU weighs nothing."""
    told = {
        "old": {"gpu_usage": 50, "gpu_temp": 60, "gpu_tot_mem": 8000, "gpu_mem_used": 2000, "gpu_driver": "-"},
        "new": {"gpu_usage": "30", "gpu_temp": 40, "vram": 16000, "vram_percent": 50, "gpu_driver": "535.1"},
        "none": {"gpu_usage": 90, "gpu_temp": 99, "vram": 0, "vram_percent": 0, "gpu_driver": "-"},
    }
    live = {}
    for name, keys in told.items():
        body = json.dumps({"cpu": 1, "memory": 1, "memory_free_in_MB": 1, **keys}).encode()
        live[name] = NodeLive(gpus=parse_information(body, Dialect.ENGINE_C).gpus)
    without = replace(_node("none"), registration=replace(_node("none").registration, capacity=Resources()))
    totals = totals_of([_node("old"), _node("new"), without], live, {})
    r2, r3 = (report_body(era, totals, []) for era in (Era.R2, Era.R3))
    assert (r3["gpu_percent"], r3["gpu_temp"], r3["vram"], r3["vram_percent"]) == (40, 50.0, 24000, 10000 / 240)
    assert (r3["gpu_drivers"], r3["vgpus"]) == (["535.1"], 2)
    assert (r2["gpu_percent"], r2["gpu_tot_mem"], r2["gpu_mem_used"], r2["gpu_temp"]) == (40, 24000, 10000, 50.0)


def test_empty_cluster_has_no_null() -> None:
    """Without nodes every number is zero, not null."""
    for era in (*ERAS, Era.UNDECIDED):
        body = report_body(era, totals_of([], {}, {}), [])
        assert None not in body.values()


def _answered(name: str) -> bool:
    return (
        f"{name}-reply" in names(f"{name}-reply")
        and isinstance(load(f"{name}-reply")["status"], int)
        and "down" not in name
    )


RECORDED = [name for pattern in ("R1/report-*", "R3/report-*") for name in names(pattern) if _answered(name)]
NOT_REPLAYED = ("trailing-slash", "no-content-type", "not-json", "only-jobs", "job-is-string", "jobs-is-object")


@pytest.mark.parametrize("name", [name for name in RECORDED if not name.endswith(NOT_REPLAYED)])
def test_stand_in_root_answers_as_the_recorded_one(name: str) -> None:
    """The judge is judged: to what was sent to a real root the stand-in answers with the same status."""
    era, recorded = name[:2], load(name)
    services = {job_id: Service(job_id, {}) for job_id in ("6b0326e9e0ec7acba1d9cbca", "6b0326e9e0ec7acba1d9cbcc")}
    services |= {job_id: Service(job_id, {}) for job_id in (JOB_ID, "6b03249ed8ac74488c0dbc4b")}
    data = Database(clusters={CLUSTER_ID[era]: Cluster(CLUSTER_ID[era], "cluster-1")}, services=services)
    take = {"R1": take_r1, "R3": take_r3}[era]
    assert take(data, recorded["path"].rsplit("/", 1)[1], recorded["body"])[0] == load(f"{name}-reply")["status"]


@pytest.mark.parametrize(
    ("name", "cluster_id", "is_found"),
    [
        ("R1/28-clusters-reply", CLUSTER_ID["R1"], True),
        ("R1/28-clusters-reply", "6b0326e579462142fca12521", False),
        ("R1/db-lost-clusters-reply", CLUSTER_ID["R1"], False),
        ("R3/02-clusters-reply", CLUSTER_ID["R3"], True),
        ("R3/db-lost-clusters-reply", CLUSTER_ID["R3"], False),
    ],
)
def test_cluster_is_found_in_the_recorded_lists(name: str, cluster_id: str, is_found: bool) -> None:
    """Both ways to write an id are read, and the ghost that a report under an unknown id leaves is not us."""
    assert (find_cluster(load(name)["body"], cluster_id, "cluster-1") is not None) == is_found


@pytest.mark.parametrize(
    ("name", "cluster_id", "location"),
    [
        ("R1/25-clusters-after-new-port-reply", CLUSTER_ID["R1"], "other place"),
        ("R1/28-clusters-reply", "", "48.1,11.6,1000"),
        ("R3/03-clusters-reply", CLUSTER_ID["R3"], "other"),
        ("R3/03-clusters-reply", "", "other"),
        ("R3/db-lost-clusters-reply", CLUSTER_ID["R3"], ""),
    ],
)
def test_location_is_found_in_the_recorded_lists(name: str, cluster_id: str, location: str) -> None:
    """By the id that the root gave, else by name, as a registration finds the entry that it writes to."""
    assert known_location(load(name)["body"], cluster_id, "cluster-1", "Admin") == location
    assert known_location(load(name)["body"], cluster_id, "another", "Admin") == ""


def test_location_of_the_same_name_of_another_user_is_not_ours() -> None:
    """R1 tells clusters of one name apart by their users; our own entry goes before one that waits to be paired."""
    entries = [
        {"_id": {"$oid": "a"}, "cluster_name": "c", "user_name": "other", "cluster_location": "theirs"},
        {"_id": {"$oid": "b"}, "cluster_name": "c", "user_name": "me", "cluster_location": "added"},
        {"_id": {"$oid": "c"}, "cluster_name": "c", "user_name": "me", "cluster_location": "ours"},
        {"_id": {"$oid": "d"}, "cluster_name": "x", "user_name": "me", "cluster_location": 7},
    ]
    assert known_location(entries, "", "c", "me") == "added"
    assert known_location(entries, "c", "c", "me") == "ours"
    assert known_location(entries, "d", "x", "me") == ""
