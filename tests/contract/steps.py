"""HTTP contract cases as tables: each is a list of steps that hold on any gateway, whatever manager is behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

PROBLEM_MEMBERS = ("type", "title", "detail", "reason", "field")


@dataclass(frozen=True)
class Matches:
    """A string that matches a regular expression from end to end."""

    pattern: str


@dataclass(frozen=True)
class Kept:
    """What an earlier step of the case kept under this name."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One request and what must come back.

    `body` is sent as JSON, `raw` as it stands; with `is_chunked` without a length. `answer` is a subset of the JSON
    answer: a type stands for any value of it. `exact` says that no further keys may be there. `keep` names a key of
    the answer to be remembered under the same name; `{name}` in later paths is replaced by it.
    """

    method: str
    path: str
    body: Any = None
    raw: bytes | None = None
    is_chunked: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    answer: Any = None
    exact: bool = False
    keep: str = ""


@dataclass(frozen=True)
class Case:
    """Steps that belong together; `name` states the behaviour."""

    name: str
    steps: tuple[Step, ...]


def run_case(client: httpx.Client, case: Case) -> None:
    """Take the steps one after the other; raises AssertionError with the step that did not hold."""
    kept: dict[str, Any] = {}
    for number, step in enumerate(case.steps, 1):
        response = send(client, step, kept)
        story = f"step {number} {step.method} {step.path}: {response.status_code} {response.text[:1000]}"
        assert response.status_code == step.status, story
        check_form(response)
        answer: Any = response.json() if "json" in response.headers.get("content-type", "") else None
        if step.answer is not None:
            assert is_subset(step.answer, answer, kept), f"{story}\nexpected {step.answer}"
        if step.exact:
            assert set(answer) == set(step.answer), story
        if step.keep:
            kept[step.keep] = answer[step.keep]


def send(client: httpx.Client, step: Step, kept: Mapping[str, Any]) -> httpx.Response:
    """Make the request of a step."""
    content = step.raw
    headers = dict(step.headers)
    if content is None and step.body is not None:
        content = json.dumps(step.body).encode()
        headers.setdefault("content-type", "application/json")
    path = step.path.format(**kept) if kept else step.path
    body = _pieces(content) if step.is_chunked and content is not None else content
    return client.request(step.method, path, content=body, headers=headers)


def check_form(response: httpx.Response) -> None:
    """Each answer has a request id; from 400 up it is a problem with strings, below never."""
    assert response.headers.get("x-request-id")
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if response.status_code < 400:
        assert media_type != "application/problem+json"
        return
    assert media_type == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code
    assert all(isinstance(problem[name], str) for name in PROBLEM_MEMBERS), problem
    assert problem["detail"]
    assert problem["reason"]


def is_subset(expected: Any, actual: Any, kept: Mapping[str, Any]) -> bool:
    """Whether everything expected is there; lists must have the same length."""
    match expected:
        case Matches(pattern):
            return isinstance(actual, str) and re.fullmatch(pattern, actual) is not None
        case Kept(name):
            return bool(actual == kept[name])
        case type():
            return type(actual) is expected
        case dict():
            return isinstance(actual, dict) and all(
                key in actual and is_subset(value, actual[key], kept) for key, value in expected.items()
            )
        case list():
            return (
                isinstance(actual, list)
                and len(actual) == len(expected)
                and all(is_subset(one, other, kept) for one, other in zip(expected, actual, strict=True))
            )
        case _:
            return type(actual) is type(expected) and bool(actual == expected)


def _pieces(content: bytes, size: int = 65536) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
