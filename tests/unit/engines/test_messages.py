"""What engines are sent: strict types, nothing that crashes one, nothing that one drops silently."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents import parse_job
from cluster.errors import ClusterError
from cluster.nodes import parse_registration
from manager.domain.effects import Effect, Verb
from manager.domain.engines import name_problem
from manager.domain.model import InstanceKey, Node
from manager.mqtt.engines import WithheldError, engine_message
from standins.engines.generations import GENERATIONS, recorded
from standins.engines.service import NEWER, OLDER, DroppedError, Service, parse_service
from testbed.texts import texts

JOB = {"name": "app.test.web.test", "image": "docker.io/local/busybox:1", "technology": "docker"}


def node(generation: str, **facts: Any) -> Node:
    """A registered engine."""
    registration = GENERATIONS[generation](0, f"edge-{generation}").registration()
    return Node(
        id="65f1a2b3c4d5e6f7a8b9c0da",
        registration=parse_registration({**registration, **facts}),
        registered_at_ms=0,
    )


def message(document: dict[str, Any], generation: str = "C", verb: Verb = Verb.DEPLOY, **facts: Any) -> bytes:
    """What is sent for a job document."""
    spec = parse_job(document)
    key = InstanceKey("65f1a2b3c4d5e6f7a8b9c03e", 0)
    effect = Effect(verb=verb, key=key, node_id="n", generation=1, spec=spec)
    return engine_message(node(generation, **facts), effect)[1]


def parsed(payload: bytes) -> Service:
    """Both structs take the message."""
    parse_service(payload, OLDER)
    return parse_service(payload, NEWER)


def test_amounts_are_integers_rounded_up() -> None:
    """`vcpus: 0.5`, `memory: 64.5` and 1.0 would be dropped silently."""
    document = json.loads(message({**JOB, "vcpus": 0.5, "memory": 64.5, "storage": 1.0, "vgpus": 0, "vtpus": 1.2}))
    assert [document[key] for key in ("vcpus", "memory", "storage", "vgpus", "vtpus")] == [1, 65, 1, 0, 2]
    assert all(type(document[key]) is int for key in ("vcpus", "memory", "storage", "vgpus", "vtpus"))


def test_unknown_keys_are_kept() -> None:
    """The root's own keys pass through as they came."""
    document = json.loads(message({**JOB, "bandwidth_in": "x", "addresses": {"rr_ip": "10.30.0.5"}, "args": [1.5]}))
    assert (document["bandwidth_in"], document["addresses"]) == ("x", {"rr_ip": "10.30.0.5"})
    assert document["args"] == [1.5]


def test_keys_in_another_case_are_left_out() -> None:
    """`PORT: 5` would be taken for `port`; `Pid` is a field of the engine's own."""
    payload = message({**JOB, "PORT": 5, "Pid": "x", "\u017ftatus": 7, "Virtualization": ""})
    assert parsed(payload).values["virtualization"] == "docker"
    assert {"PORT", "Pid", "\u017ftatus", "Virtualization"}.isdisjoint(json.loads(payload))


def test_wrong_types_of_untyped_keys_are_left_out() -> None:
    """Keys that only engines type cannot spoil the message."""
    payload = message({**JOB, "status": 5, "status_detail": {"a": 1}, "platform": ["linux"], "vtpus": "1"})
    assert {"status", "status_detail", "platform", "vtpus"}.isdisjoint(json.loads(payload))
    parsed(payload)


def test_volumes_have_texts_only() -> None:
    """Every setting of a storage driver is a text."""
    config = {"size": 5, "shared": True, "path": "/x", "nested": {"a": 1}, "none": None}
    volume = {"volume_id": "v", "csi_driver": None, "mount_path": "/d", "config": config}
    document = json.loads(message({**JOB, "volumes": [volume]}))
    assert document["volumes"][0]["csi_driver"] == ""
    assert document["volumes"][0]["config"]["size"] == "5"
    assert all(isinstance(value, str) for value in document["volumes"][0]["config"].values())


def test_root_document_with_container_becomes_docker() -> None:
    """`virtualization: container` would crash the engine, in a deploy and in a delete."""
    root = {"_id": "65f1a2b3c4d5e6f7a8b9c03e", "job_name": "a.b.c.d", "code": "x:1", "virtualization": "container"}
    for verb in (Verb.DEPLOY, Verb.DELETE):
        assert parsed(message(root, verb=verb)).runtime == "docker"


@pytest.mark.parametrize("verb", [Verb.DEPLOY, Verb.DELETE])
@pytest.mark.parametrize("generation", list(GENERATIONS))
def test_runtime_that_the_node_did_not_announce_is_withheld(generation: str, verb: Verb) -> None:
    """Such a message would crash the engine, so it is never sent."""
    with pytest.raises(WithheldError, match="announced no runtime 'unikernel'"):
        message({**JOB, "technology": "unikernel"}, generation, verb)


def test_delete_has_the_three_keys() -> None:
    """Name, number and the runtime that it was deployed with."""
    payload = message(JOB, verb=Verb.DELETE)
    assert json.loads(payload) == {
        "job_name": "app.test.web.test",
        "virtualization": "docker",
        "instance_number": 0,
    }


def test_recorded_root_document_arrives_as_it_was() -> None:
    """The document that the recorded engine ran parses to the same values when we send it."""
    command = recorded("C", "job-running")["sequence"][0]
    document = {key: value for key, value in command["payload"].items() if key != "instance_number"}
    ours, theirs = parsed(message(document)), parse_service(command["raw"].encode(), NEWER)
    assert {key: value for key, value in theirs.values.items() if value} == {
        key: value for key, value in ours.values.items() if value
    }


_KEYS = st.sampled_from([*NEWER, "Port", "PID", "IMAGE", "extra"])
_NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)  # as JSON bodies hold
_TEXTS = texts(max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(extra=st.dictionaries(_KEYS, _VALUES, max_size=6), generation=st.sampled_from(list(GENERATIONS)))
def test_no_document_that_is_accepted_is_dropped_by_an_engine(extra: dict[str, Any], generation: str) -> None:
    """Whatever the gateway lets in arrives with a runtime that the engine has, or is withheld."""
    document = {**JOB, **extra}
    for verb in (Verb.DEPLOY, Verb.DELETE):
        try:
            payload = message(document, generation, verb)
        except (ClusterError, WithheldError):
            continue
        assert parsed(payload).runtime == "docker"


@pytest.mark.parametrize("generation", ["A", "C"])
def test_stand_in_is_as_strict_as_the_recorded_engine(generation: str) -> None:
    """Each of the 86 recorded control messages is dropped, answered or crashes as with the real engine."""
    fields = {"A": OLDER, "C": NEWER}[generation]
    runtimes = {"A": {"docker"}, "C": {"docker", "runc", "unikernel", "crosvm"}}[generation]
    wrong = []
    for case in recorded(generation, "wrong-types")["cases"]:
        if case["case"] == "delete unikernel while not active":
            continue
        try:
            service = parse_service(_payload(generation, case), fields)
            outcome = "status sent" if service.runtime in runtimes else "CRASH"
        except DroppedError:
            outcome = "nothing sent"
        expected = case["result"]
        if outcome != expected:
            wrong.append((case["case"], expected, outcome))
    assert wrong == []


def _payload(generation: str, case: dict[str, Any]) -> bytes:
    """The message of a case: recorded whole where it is a text, else what it changes on a good one."""
    sent = case["sent"]
    if isinstance(sent, str):
        return sent.encode()
    if "empty object" in case["case"]:
        return b"{}"
    if case["command"] == "delete":
        base: dict[str, Any] = {"job_name": "a", "virtualization": "docker", "instance_number": 0}
        if "wrong-typed extras" in case["case"]:
            base["vcpus"] = 1.5
    else:
        base = dict(recorded(generation, "job-running")["sequence"][0]["payload"])
    return json.dumps({**base, **sent} if isinstance(sent, dict) else sent).encode()


@pytest.mark.parametrize(
    ("generation", "name", "fits"),
    [
        ("A", "a" * 53, True),
        ("A", "a" * 54, False),
        ("B", "a" * 54, False),
        ("C", "a" * 65, True),
        ("C", "a" * 66, False),
        ("D", "a" * 66, False),
        ("C", "a..b", False),
        ("C", "a-", False),
        ("C", "App_1.Test.Web.test", True),
    ],
)
def test_names_that_no_container_can_have_are_refused_before_deploying(generation: str, name: str, fits: bool) -> None:
    """`job_name.instance.N`: at most 76 characters, 64 in the older ones, no two separators side by side."""
    problem = name_problem(node(generation).kind, name, 0)
    assert (problem == "") is fits
    engine = GENERATIONS[generation](0, "edge")
    assert (engine.start_problem(Service({"job_name": name, "cmd": ["sleep"]})) == "") is fits


def test_message_with_such_a_name_is_withheld() -> None:
    """The last guard, should the placing have missed it."""
    with pytest.raises(WithheldError, match="76"):
        message({**JOB, "name": "a" * 66})
