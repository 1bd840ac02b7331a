"""One cluster over network namespaces for all faults: it must be whole again after each of them."""

from collections.abc import Iterator

import pytest

from testbed.ledger import Ledger
from testbed.netns import SpreadCluster, spread_cluster
from testbed.requirement import require

WORKERS = 3


@pytest.fixture(scope="session")
def spread() -> Iterator[SpreadCluster]:
    """The manager's side and three workers, each host in a namespace of its own."""
    require("netns")
    with spread_cluster(WORKERS, LEASE_S="3", GRACE_S="1", MASS_EXPIRY_COUNT="3", RETRY_CAP_S="2") as made:
        yield made


@pytest.fixture
def ledger(spread: SpreadCluster) -> Iterator[Ledger]:
    """Three workloads that run before the fault, and must be the same processes after it."""
    kept = Ledger(spread, on_disconnect="keep")
    for number in range(WORKERS):
        kept.deploy("base", number)
    kept.settle()
    yield kept
    kept.close()
