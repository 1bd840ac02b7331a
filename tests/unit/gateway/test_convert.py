"""Messages become exactly the JSON that the schemas describe."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from pydantic import BaseModel

from cluster.convert import timestamp
from cluster.documents import parse_job
from cluster.nodes import Dialect, parse_registration
from cluster.v1 import event_pb2, instance_pb2, job_pb2, manager_pb2, node_pb2, scheduler_pb2
from gateway import convert, schemas

BIG = 2**53 + 1
NOW = timestamp(1_767_225_600_007)
EVENT = event_pb2.Event(id=BIG, at=NOW, actor="root", subject="instance:j/0", kind="placed", instance_number=0)
INSTANCE = instance_pb2.Instance(
    key=instance_pb2.InstanceKey(job_id="j", number=1_000_000),
    job_name="web",
    state=instance_pb2.INSTANCE_STATE_RUNNING,
    placements=[
        instance_pb2.Placement(
            role=instance_pb2.PLACEMENT_ROLE_CURRENT,
            node_id="n",
            generation=BIG,
            state=instance_pb2.INSTANCE_STATE_STARTING,
            since=NOW,
        )
    ],
    refusals=[instance_pb2.Refusal(reason="memory", node_count=2, detail="too little")],
    exit_code=0,
    retry_at=NOW,
    usage=instance_pb2.InstanceUsage(cpu_percent=1.5, memory_bytes=BIG),
    spec=job_pb2.JobSpec(name="web", image="i", technology="docker", document_json='{"x": 1}'),
    events=[EVENT],
    node_id="n",
    is_desired=True,
)
NODE = node_pb2.Node(
    id="n",
    registration=node_pb2.NodeRegistration(name="edge-1", port=3000, dialect=node_pb2.NODE_DIALECT_WORKER),
    state=node_pb2.NODE_STATE_SUSPECT,
    usage=node_pb2.NodeUsage(cpu_percent=2.5, memory_free_bytes=BIG),
    heartbeat_at=NOW,
)
NODE.registration.capacity.memory_bytes = BIG
JOB = job_pb2.Job(id="j", spec=INSTANCE.spec, instance_count=2, update=job_pb2.RollingUpdate(state="rolling"))
EXPLANATION = manager_pb2.ExplainInstanceResponse(
    instance=INSTANCE,
    summary="it runs",
    planning=scheduler_pb2.ExplainResponse(
        node_count=1,
        refusals=INSTANCE.refusals,
        nearest=scheduler_pb2.NodeVerdict(node_id="n", reasons=["memory"], score=0.5),
        verdicts=[scheduler_pb2.NodeVerdict(node_id="n")],
    ),
)
STATUS = manager_pb2.GetStatusResponse(
    parts=[manager_pb2.PartStatus(name="store", is_ready=True)],
    node_counts={"READY": 1},
    counters={"mqtt_malformed": BIG},
)


@pytest.mark.parametrize(
    ("schema", "converted"),
    [
        (schemas.Node, convert.node_json(NODE)),
        (schemas.Node, convert.node_json(node_pb2.Node())),
        (schemas.Job, convert.job_json(JOB)),
        (schemas.Job, convert.job_json(job_pb2.Job())),
        (schemas.Instance, convert.instance_json(INSTANCE)),
        (schemas.Instance, convert.instance_json(instance_pb2.Instance())),
        (schemas.InstanceDetail, convert.instance_detail_json(INSTANCE)),
        (schemas.InstanceDetail, convert.instance_detail_json(instance_pb2.Instance())),
        (schemas.Event, convert.event_json(EVENT)),
        (schemas.Event, convert.event_json(event_pb2.Event())),
        (schemas.Explanation, convert.explanation_json(EXPLANATION)),
        (schemas.Explanation, convert.explanation_json(manager_pb2.ExplainInstanceResponse())),
        (schemas.ClusterStatus, convert.status_json(STATUS, "mine")),
        (schemas.Schedule, convert.schedule_json(scheduler_pb2.PlanResponse(), "i")),
    ],
)
def test_json_has_exactly_the_documented_keys_and_types(schema: type[BaseModel], converted: dict[str, Any]) -> None:
    """No key more, no key less, integers as integers."""
    schema.model_validate(converted, strict=True)


def test_absent_is_null_and_zero_stays_zero() -> None:
    """What was not told is null; an exit code and an instance number of 0 are 0."""
    empty = convert.instance_json(instance_pb2.Instance())
    assert (empty["exit_code"], empty["retry_at"], empty["usage"]) == (None, None, None)
    assert convert.instance_json(INSTANCE)["exit_code"] == 0
    assert convert.event_json(EVENT)["instance_number"] == 0
    assert convert.event_json(event_pb2.Event())["instance_number"] is None
    assert convert.node_json(NODE)["capacity"]["cpu_millicores"] is None


def test_words_of_states_carry_no_prefix() -> None:
    """States, roles and dialects are the bare words; large integers stay exact."""
    instance = convert.instance_json(INSTANCE)
    assert (instance["id"], instance["state"]) == ("j/1000000", "RUNNING")
    assert instance["placements"] == [
        {
            "role": "CURRENT",
            "node_id": "n",
            "generation": BIG,
            "state": "STARTING",
            "since": "2026-01-01T00:00:00.007Z",
        }
    ]
    node = convert.node_json(NODE)
    assert (node["state"], node["dialect"], node["capacity"]["memory_bytes"]) == ("SUSPECT", "worker", BIG)


def test_every_state_of_the_api_has_its_word() -> None:
    """No value but the unspecified one is left out."""
    assert len(convert.NODE_STATES) == len(node_pb2.NodeState.keys()) - 1
    assert len(convert.INSTANCE_STATES) == len(instance_pb2.InstanceState.keys()) - 1


def test_the_specification_can_be_sent_again() -> None:
    """The job document that is shown describes the same job, unknown keys included."""
    shown = convert.spec_json(INSTANCE.spec)
    assert shown["x"] == 1
    assert parse_job(shown).name == "web"


def test_registration_keeps_every_field() -> None:
    """Each field of the record arrives in the message; unknown amounts stay absent."""
    body = {"id": 3, "name": "n", "ip": "::1", "port": "1", "dialect": "worker", "technology": ["wasm"], "vcpus": 2}
    message = convert.registration_to_proto(parse_registration(body))
    assert (message.given_id, message.name, message.ip, message.port) == ("3", "n", "::1", 1)
    assert (message.dialect, list(message.technologies)) == (node_pb2.NODE_DIALECT_WORKER, ["wasm"])
    assert message.capacity.cpu_millicores == 2000
    assert not message.capacity.HasField("memory_bytes")


def test_every_dialect_has_its_message_value() -> None:
    """A dialect that is added is added on both sides."""
    for dialect in Dialect:
        assert node_pb2.NodeDialect.Value(f"NODE_DIALECT_{dialect.name}")


def test_reasons_are_never_empty_where_a_replica_found_no_node() -> None:
    """A refusal without counts means that there is no node at all."""
    answer = scheduler_pb2.PlanResponse(results=[scheduler_pb2.PlanResult()])
    assert convert.schedule_json(answer, "i")["reasons"]["no_nodes"]["count"] == 0


def test_no_message_is_left_in_the_json() -> None:
    """Only JSON types come out, so that orjson can write them."""

    def walk(value: Any) -> None:
        assert not isinstance(value, Message)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)

    walk(convert.explanation_json(EXPLANATION))
