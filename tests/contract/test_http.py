"""The HTTP contracts, through a real gateway process; the manager and the scheduler behind it are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract import cases
from contract.rig import Rig, rig
from contract.steps import Case, Step, check_form, run_case, send
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.texts import texts

KEYS = ("id", "_id", "name", "host", "ip", "port", "image", "technology", "job", "node_from", "int_replicas", "memory")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | texts()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | texts(), inner, max_size=4),
    max_leaves=12,
)
PLAUSIBLE = {"name": "x", "image": "i", "technology": "docker", "ip": "10.0.0.1", "port": "80", "job": "x"}
DOCUMENTS = VALUES | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6).map(lambda extra: PLAUSIBLE | extra)


@pytest.fixture(scope="module", name="running")
def _running() -> Iterator[Rig]:
    with rig() as parts:
        yield parts


@pytest.mark.parametrize("case", cases.ALL, ids=lambda case: case.name)
def test_contract(running: Rig, case: Case) -> None:
    """The case holds, and the gateway has not failed inside."""
    run_case(running.client, case)
    assert "request failed" not in running.gateway.output()


@pytest.mark.parametrize("path", cases.POST_ROUTES)
def test_no_json_makes_it_fail(running: Rig, path: str) -> None:
    """Whatever JSON comes, the answer is never a server error, and always a problem or a documented answer."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    @given(DOCUMENTS)
    def post(document: object) -> None:
        response = send(running.client, Step(method="POST", path=path, body=document), {})
        assert response.status_code < 500, response.text
        check_form(response)

    post()
