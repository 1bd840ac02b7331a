"""The description of the API holds what is served, and its examples are accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.documents import parse_job
from cluster.nodes import parse_registration
from gateway import schemas
from gateway.app import create_app
from gateway.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_every_operation_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    """Each has a summary, a described 200 answer, and problems as the only other answer."""
    assert operation["summary"]
    assert operation["description"]
    assert set(operation["responses"]) == {"200", "default"}
    assert operation["responses"]["200"]["content"]
    if method == "post":
        assert operation["requestBody"]["content"]["application/json"]["example"]


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_every_answer_has_an_example(method: str, path: str, operation: dict[str, Any]) -> None:
    """It has the documented keys, all of them and no others; problems too."""
    schemas.Problem.model_validate(operation["responses"]["default"]["content"]["application/problem+json"]["example"])
    for media_type, content in operation["responses"]["200"]["content"].items():
        if media_type == "application/json":
            model = getattr(schemas, content["schema"]["$ref"].rpartition("/")[2])
            model.model_validate(content["example"], strict=True)
        else:
            assert content["example"]


def test_every_reference_leads_somewhere() -> None:
    """Nothing points to a schema that is not there, and FastAPI's own errors are gone."""
    text = json.dumps(DOCUMENT)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(DOCUMENT["components"]["schemas"])
    assert "HTTPValidationError" not in text


def test_the_documented_routes_are_there() -> None:
    """Every route of the contracts is served."""
    assert {(method, path) for method, path, _ in OPERATIONS} == {
        ("post", "/api/node/register"),
        ("post", "/api/schedule"),
        ("post", "/api/deploy/{job_id}/{instance_number}"),
        ("get", "/api/delete/{job_id}/{instance_number}"),
        ("post", "/api/service/{job_id}/{instance_number}"),
        ("delete", "/api/service/{job_id}/{instance_number}"),
        ("post", "/api/move"),
        ("post", "/api/replicate"),
        ("get", "/api/nodes"),
        ("get", "/api/nodes/{node}"),
        ("post", "/api/nodes/{node}/orphans/{job_name}/{instance_number}"),
        ("delete", "/api/nodes/{node}/orphans/{job_name}/{instance_number}"),
        ("get", "/api/jobs"),
        ("get", "/api/jobs/{job}"),
        ("get", "/api/instances"),
        ("get", "/api/instances/{job_id}/{instance_number}"),
        ("get", "/api/instances/{job_id}/{instance_number}/explain"),
        ("get", "/api/instances/{job_id}/{instance_number}/logs"),
        ("get", "/api/events"),
        ("get", "/status"),
        ("get", "/api/cluster/status"),
        ("get", "/healthz"),
    }


def test_examples_are_accepted() -> None:
    """What is shown can be sent."""
    assert parse_job(schemas.JOB_EXAMPLE).name == "web"
    assert parse_registration(schemas.REGISTRATION_EXAMPLE).name == "edge-1"
    schemas.Move.model_validate(schemas.MOVE_EXAMPLE)
    schemas.Replicate.model_validate(schemas.REPLICATE_EXAMPLE)
