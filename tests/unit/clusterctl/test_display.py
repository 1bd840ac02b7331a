"""Records and how they are shown."""

from datetime import UTC, datetime

import pytest

from cluster.v1 import instance_pb2, job_pb2, manager_pb2, node_pb2
from clusterctl.columns import INSTANCES, JOBS, NODES, age, amount
from clusterctl.output import printable
from clusterctl.records import instance_record, job_record, node_record, to_record

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (None, ""),
        ("2026-01-01T23:59:55Z", "5s"),
        ("2026-01-01T23:58:30.123456789Z", "89s"),
        ("2026-01-01T23:57:00Z", "3m"),
        ("2025-12-28T00:00:00Z", "5d"),
        ("2026-01-03T00:00:00Z", "0s"),
    ],
)
def test_an_age_is_short(at: str | None, shown: str) -> None:
    """The largest unit that keeps two digits of meaning; a clock ahead of ours is no age."""
    assert age(at, NOW) == shown


def test_an_unknown_amount_is_not_zero() -> None:
    """A node that does not say how much it has may have plenty."""
    assert amount(None, "cpu_millicores") == amount({"cpu_millicores": None}, "cpu_millicores") == "?"
    assert amount({"cpu_millicores": 1500}, "cpu_millicores") == "1.5"
    assert amount({"memory_bytes": 64 << 20}, "memory_bytes") == "64Mi"


def test_control_characters_of_a_workload_do_not_reach_the_terminal() -> None:
    """A detail may quote what a program wrote."""
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"


def test_a_record_keeps_numbers_and_drops_prefixes() -> None:
    """Programs read numbers as numbers, words without their enum, times as text, and None for what is absent."""
    job = job_pb2.Job(id="1", spec=job_pb2.JobSpec(name="web", document_json='{"x": 1}'))
    job.spec.demand.memory_bytes = 1 << 33
    job.spec.stop_grace.FromMilliseconds(1500)
    job.created_at.FromJsonString("2026-01-02T00:00:00Z")
    record = job_record(job)
    assert record["name"] == "web"
    assert record["created_at"] == "2026-01-02T00:00:00Z"
    assert record["update"] is None
    assert record["spec"]["document"] == {"x": 1}
    assert record["spec"]["demand"] == {
        "cpu_millicores": None,
        "memory_bytes": 1 << 33,
        "storage_bytes": None,
        "gpus": None,
    }
    assert record["spec"]["stop_grace"] == 1.5
    assert record["spec"]["restart_policy"] == "UNSPECIFIED"


def test_a_map_becomes_an_object() -> None:
    """Counts by word stay counts by word."""
    assert to_record(manager_pb2.GetStatusResponse(node_counts={"READY": 2}))["node_counts"] == {"READY": 2}


def test_a_bare_node_has_a_row() -> None:
    """A node that said nothing but its four keys is shown without failing."""
    node = node_pb2.Node(id="n1", state=node_pb2.NODE_STATE_READY, is_cordoned=True)
    node.registration.name, node.registration.ip, node.registration.port = "edge", "10.0.0.1", 10200
    record = node_record(node)
    assert {"id": "n1", "name": "edge", "state": "READY"}.items() <= record.items()
    row = {column.title: column.cell(record) for column in NODES}
    assert row["STATE"] == "READY,CORDONED"
    assert row["ADDRESS"] == "10.0.0.1:10200"
    assert row["RESERVED CORES"] == "0/?"


def test_an_instance_is_shown_with_the_name_of_its_node() -> None:
    """Ids are for programs."""
    instance = instance_pb2.Instance(job_name="web", state=instance_pb2.INSTANCE_STATE_RUNNING, node_id="n1")
    instance.key.job_id, instance.key.number = "abc", 3
    record = instance_record(instance, {"n1": "edge"})
    row = {column.title: column.cell(record) for column in INSTANCES}
    assert (row["INSTANCE"], row["STATE"], row["NODE"]) == ("abc/3", "RUNNING", "edge")


def test_a_job_row_counts_what_runs() -> None:
    """Running of wanted."""
    record = job_record(job_pb2.Job(id="1", instance_count=3, running_count=2, state="STARTING"))
    assert {column.title: column.cell(record) for column in JOBS}["RUNNING"] == "2/3"
