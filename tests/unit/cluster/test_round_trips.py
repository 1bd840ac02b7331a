"""What is written in one form is read back the same, whatever is in it; and hostile bytes raise only our errors."""

import contextlib
import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.convert import spec_from_proto, spec_to_proto
from cluster.documents import job_document, parse_job, parse_json, replicas_of
from cluster.errors import ClusterError, TooLargeError
from cluster.jobs import TECHNOLOGIES, Constraint, JobSpec, OnDisconnect, Probe, Resources, RestartPolicy, Volume
from cluster.nodes import Dialect, parse_registration
from cluster.payloads import (
    Command,
    parse_command,
    parse_information,
    parse_resources,
    parse_state,
    write_command,
)
from cluster.v1 import job_pb2
from testbed.texts import texts

MEBIBYTE = 1024 * 1024
NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
TEXTS = texts(max_size=8)
WORDS = st.lists(TEXTS, max_size=3).map(tuple)
SECONDS = st.integers(0, 100_000).map(lambda tenths: tenths / 10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _probe(**check: Any) -> st.SearchStrategy[Probe]:
    times = {"initial_delay_s": SECONDS, "interval_s": st.integers(1, 100).map(float)}
    return st.builds(
        Probe, timeout_s=st.integers(1, 60).map(float), failure_threshold=st.integers(1, 9), **times, **check
    )


PORTS = st.integers(1, 65535)
PROBES = st.one_of(
    _probe(port=PORTS),
    _probe(port=PORTS, http_path=NAMES.map(lambda name: f"/{name}")),
    _probe(command=st.lists(NAMES, min_size=1, max_size=3).map(tuple)),
)
DEMANDS = st.builds(
    Resources,
    cpu_millicores=_maybe(st.integers(0, 10**6)),
    memory_bytes=_maybe(st.integers(0, 10**6).map(lambda megabytes: megabytes * MEBIBYTE)),
    storage_bytes=_maybe(st.integers(0, 10**6).map(lambda megabytes: megabytes * MEBIBYTE)),
    gpus=_maybe(st.integers(0, 8)),
)
CONSTRAINTS = st.builds(Constraint, type=NAMES, nodes=st.lists(NAMES, max_size=3).map(tuple), needs=WORDS)
VOLUMES = st.builds(Volume, id=NAMES, csi_driver=NAMES, mount_path=NAMES)
SPECS = st.builds(
    JobSpec,
    name=NAMES,
    image=NAMES,
    technology=st.sampled_from(TECHNOLOGIES),
    command=WORDS,
    environment=WORDS,
    ports=st.sampled_from(["", "80:80", "8080:80/tcp;53:53/udp"]),
    one_shot=st.booleans(),
    privileged=st.booleans(),
    architectures=WORDS,
    demand=DEMANDS,
    constraints=st.lists(CONSTRAINTS, max_size=2).map(tuple),
    volumes=st.lists(VOLUMES, max_size=2).map(tuple),
    restart_policy=st.sampled_from(RestartPolicy),
    max_attempts=st.integers(0, 10),
    stop_grace_s=SECONDS,
    on_disconnect=st.sampled_from(OnDisconnect),
    stop_after_s=SECONDS,
    liveness=_maybe(PROBES),
    readiness=_maybe(PROBES),
    vm_images=WORDS,
    document=st.dictionaries(TEXTS.map(lambda text: f"x-{text}"), JSON, max_size=2).map(json.dumps),
)


def _plain(spec: JobSpec) -> tuple[Any, ...]:
    """A specification without the texts in which it was received."""
    constraints = [(item.type, item.nodes, item.needs) for item in spec.constraints]
    names = ("name", "image", "technology", "command", "environment", "ports", "one_shot", "privileged", "demand")
    more = ("architectures", "volumes", "restart_policy", "max_attempts", "stop_grace_s", "on_disconnect")
    last = ("stop_after_s", "liveness", "readiness", "vm_images")
    return (constraints, *(getattr(spec, name) for name in (*names, *more, *last)))


@settings(deadline=None, max_examples=200)
@given(SPECS)
def test_a_specification_survives_its_document(spec: JobSpec) -> None:
    """`parse_job` of a specification's document is the specification; unknown keys are passed on."""
    document = job_document(spec)
    again = parse_job(document)
    assert _plain(again) == _plain(spec)
    assert json.loads(again.document).items() >= json.loads(spec.document).items()
    assert parse_job(job_document(again)) == again


@settings(deadline=None, max_examples=200)
@given(SPECS)
def test_a_specification_survives_its_message(spec: JobSpec) -> None:
    """Through protobuf and its bytes nothing is lost, absent amounts included."""
    sent = spec_to_proto(spec).SerializeToString()
    again = spec_from_proto(job_pb2.JobSpec.FromString(sent))
    assert again == spec
    assert again.document == spec.document
    assert again.digest == spec.digest


@settings(deadline=None, max_examples=100)
@given(SPECS, NAMES, st.integers(0, 2**31), st.integers(0, 2**50), st.sampled_from(["deploy", "delete", "move"]))
def test_a_command_survives_the_wire(spec: JobSpec, job_id: str, number: int, generation: int, verb: str) -> None:
    """What a worker reads of a command is what was sent, in the documented form."""
    command = Command(command=verb, job_id=job_id, number=number, generation=generation, spec=spec, cluster="c")
    payload = write_command(command)
    again = parse_command(payload)
    assert (again.command, again.job_id, again.number, again.generation) == (verb, job_id, number, generation)
    assert _plain(again.spec) == _plain(spec)
    assert json.loads(payload)["job"].keys() >= {"id", "name", "image", "technology"}


PARSERS = [
    parse_state,
    parse_resources,
    parse_command,
    *(lambda payload, dialect=dialect: parse_information(payload, dialect) for dialect in Dialect),
    lambda payload: parse_job(parse_json(payload)),
    lambda payload: parse_registration(parse_json(payload)),
]
KEYS = [
    *("sname", "status", "instance", "generation", "services", "cpu", "memory", "memory_free_in_MB", "command"),
    *("job", "id", "_id", "name", "image", "technology", "host", "ip", "port", "vcpus", "constraints", "liveness"),
    *("inventory", "sequence", "job_name", "exit_code", "beat", "virtualization", "csi_drivers", "dialect"),
]
NEAR_MISSES = st.dictionaries(
    st.sampled_from(KEYS), JSON | st.sampled_from(["docker", "1", 1, 0, "deploy"]), max_size=8
)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=64) | NEAR_MISSES.map(lambda body: json.dumps(body).encode()))
def test_hostile_bytes_raise_nothing_but_our_errors(payload: bytes) -> None:
    """Whatever comes from outside is understood or refused."""
    for parser in PARSERS:
        with contextlib.suppress(ClusterError):
            parser(payload)


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b'{"cpu": 1e999}', b"\xff\xfe{}"])
def test_deep_endless_and_broken_texts_are_refused(payload: bytes) -> None:
    """Nesting, infinite numbers and foreign encodings cost one error."""
    for parser in PARSERS:
        with pytest.raises(ClusterError):
            parser(payload)


def test_oversized_payloads_are_refused_unread() -> None:
    """More than 1 MiB is too large for a message."""
    with pytest.raises(TooLargeError):
        parse_state(b" " * (1024 * 1024 + 1))


def test_replicas_are_one_unless_given() -> None:
    """Only the integer `replicas` counts."""
    assert [replicas_of(document) for document in ({}, {"replicas": 3}, {"instance_list": [1, 2]})] == [1, 3, 1]
