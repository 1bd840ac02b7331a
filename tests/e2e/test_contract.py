"""The documented HTTP contract, case by case, on one whole cluster of real processes."""

from collections.abc import Iterator

import httpx
import pytest
from contract import cases
from contract.steps import Case, run_case

from testbed.cluster import HOST, Cluster, cluster


@pytest.fixture(scope="module", name="made")
def _made() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(scope="module", name="client")
def _client(made: Cluster) -> Iterator[httpx.Client]:
    url = f"http://{HOST}:{made.ports['gateway']}"
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("case", [*cases.WHOLE, *cases.ALL], ids=lambda case: case.name)
def test_contract(made: Cluster, client: httpx.Client, case: Case) -> None:
    """The case holds on the whole cluster as it does on the gateway alone, and no part of it has failed inside."""
    run_case(client, case)
    for part in made.parts.values():
        assert "request failed" not in part.output()
        assert "call failed" not in part.output()
