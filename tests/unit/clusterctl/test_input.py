"""What an operator types and writes into files, checked before anything is sent."""

import io
import json
import sys
from pathlib import Path

import pytest

from clusterctl.exits import UsageError
from clusterctl.jobfile import merged, read_documents, wanted_jobs
from clusterctl.names import InstanceName, parse_name

JOB = {"name": "web", "image": "nginx:1", "technology": "docker"}


@pytest.mark.parametrize(
    ("text", "job", "number"), [("web", "web", None), ("web/0", "web", 0), ("a.b-c/12", "a.b-c", 12)]
)
def test_an_instance_is_named_by_job_and_number(text: str, job: str, number: int | None) -> None:
    """JOB alone leaves the number open."""
    assert parse_name(text) == InstanceName(job=job, number=number)


@pytest.mark.parametrize("text", ["", "/1", "web/", "web/x", "web/-1", "web/0/1"])
def test_a_wrong_name_is_a_usage_error(text: str) -> None:
    """Nothing is guessed from half a name."""
    with pytest.raises(UsageError):
        parse_name(text)


def test_a_file_holds_one_document_a_list_or_several_yaml_documents(tmp_path: Path) -> None:
    """All three forms give the same jobs."""
    one, many, yaml = tmp_path / "one.json", tmp_path / "many.json", tmp_path / "jobs.yaml"
    one.write_text(json.dumps(JOB))
    many.write_text(json.dumps([JOB, JOB]))
    yaml.write_text("name: web\nimage: nginx:1\ntechnology: docker\n---\n" + json.dumps(JOB) + "\n---\n")
    assert read_documents(str(one)) == [JOB]
    assert read_documents(str(many)) == [JOB, JOB]
    assert read_documents(str(yaml)) == [JOB, JOB]


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that documents can be piped in."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(JOB).encode())))
    assert read_documents("-") == [JOB]


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "{", "a: [", "- - x"])
def test_a_file_without_job_documents_is_a_usage_error(text: str, tmp_path: Path) -> None:
    """The message names the file."""
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"job\.yaml"):
        read_documents(str(path))


def test_a_missing_file_is_a_usage_error() -> None:
    """The message says what the system said."""
    with pytest.raises(UsageError, match="No such file"):
        read_documents("/nowhere/job.json")


def test_a_job_without_id_gets_a_new_one() -> None:
    """Two jobs never share an id by accident; it has 24 hex digits, as the root's have."""
    first, second = wanted_jobs([JOB, JOB])
    assert first.job_id != second.job_id
    assert len(first.job_id) == 24
    int(first.job_id, 16)


def test_a_job_id_comes_from_the_option_or_the_document() -> None:
    """The option wins."""
    document = JOB | {"_id": "abc", "replicas": 3}
    assert [(job.job_id, job.replicas) for job in wanted_jobs([document])] == [("abc", 3)]
    assert [(job.job_id, job.replicas) for job in wanted_jobs([document], job_id="x", replicas=0)] == [("x", 0)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image": ""}, "image"),
        ({"technology": "lxc"}, "technology"),
        ({"memory": -1}, "memory"),
        ({"_id": "a b"}, "_id"),
    ],
)
def test_a_wrong_document_names_the_field(change: dict[str, object], field: str) -> None:
    """The operator learns which key to mend."""
    with pytest.raises(UsageError, match=field):
        wanted_jobs([JOB | change])


def test_two_documents_with_one_id_are_refused() -> None:
    """One of them would silently win otherwise."""
    with pytest.raises(UsageError, match="same job id"):
        wanted_jobs([JOB, JOB], job_id="x")


def test_flags_go_on_top_of_a_document() -> None:
    """Empty flags change nothing, environment entries are added."""
    flags = {"image": "nginx:2", "environment": ["B=2"], "memory": None, "name": "", "cmd": []}
    assert merged(JOB | {"environment": ["A=1"]}, flags) == JOB | {"image": "nginx:2", "environment": ["A=1", "B=2"]}
