"""The OpenAPI description: bodies are parsed from raw bytes, so what FastAPI cannot see is told here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cluster.documents import JobDocument
from gateway import schemas
from gateway.problems import MEDIA_TYPE

DESCRIPTION: Final = (
    "What roots order, what nodes register with and what operators read. "
    "Paths may end with a slash. Every answer from 400 up is a problem (`application/problem+json`)."
)
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "A problem: `reason` for programs, `detail` and `field` say what was wrong and what to do",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
PageSize = Annotated[str, Query(description="1..1000; 0 means 100")]
PageToken = Annotated[str, Query(description="the next_page_token of the page before")]
_EMPTY: Final[dict[str, Any]] = {"string": "", "integer": 0, "number": 0.0, "boolean": False, "object": {}}
_REFERENCE: Final = "#/components/schemas/{model}"
_UNSEEN: Final = (JobDocument, schemas.Problem, schemas.Registration, schemas.Move, schemas.Replicate)


def documented(
    answer: type[BaseModel], body: tuple[str, Mapping[str, Any]] | None = None, *, is_body_needed: bool = True
) -> dict[str, Any]:
    """Arguments of a route: the model of its 200 answer; `body` is the name of the request's model and an example."""
    arguments: dict[str, Any] = {"responses": {200: {"model": answer}}}
    if body is not None:
        schema = {"$ref": _REFERENCE.format(model=body[0])}
        content = {"application/json": {"schema": schema, "example": dict(body[1])}}
        arguments["openapi_extra"] = {"requestBody": {"required": is_body_needed, "content": content}}
    return arguments


def install(app: FastAPI) -> None:
    """Make the application describe itself, once, when first asked."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, unseen = models_json_schema([(model, "validation") for model in _UNSEEN], ref_template=_REFERENCE)
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(unseen["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for response in operation["responses"].values():
                for content in response["content"].values():
                    content["example"] = _example(content["schema"], components)
    return document


def _example(schema: Mapping[str, Any], components: Mapping[str, Any]) -> Any:
    """A value of a schema, put together from the examples of its parts."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        return _example(components[schema["$ref"].rpartition("/")[2]], components)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], components)
    match schema.get("type"):
        case "array":
            return [_example(schema["items"], components)]
        case "object" if "properties" in schema:
            return {name: _example(part, components) for name, part in schema["properties"].items()}
        case kind:
            return _EMPTY[str(kind)]
