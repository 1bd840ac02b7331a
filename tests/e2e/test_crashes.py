"""`kill -9` of each part in the middle of 200 deploys: what was acknowledged holds, exactly once, on the nodes too."""

from collections import Counter
from collections.abc import Iterator

import pytest
from e2e.orders import DEPLOYS, NODES, Orders, held, settle

from testbed.cluster import Cluster, cluster
from testbed.scripted_node import WorkerNode, nodes


@pytest.fixture
def crash_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with the broker that the test asks for."""
    with cluster(is_embedded=request.param == "embedded") as made:
        yield made


@pytest.mark.parametrize(
    ("crash_cluster", "victim"),
    [
        ("mosquitto", "manager"),
        ("mosquitto", "scheduler"),
        ("mosquitto", "gateway"),
        ("mosquitto", "broker"),
        ("embedded", "broker"),
        ("embedded", "manager"),
    ],
    indirect=["crash_cluster"],
)
def test_acknowledged_orders_survive_a_crash(crash_cluster: Cluster, victim: str) -> None:
    """After kill -9 and restart each acknowledged deploy runs exactly once and each acknowledged delete is gone."""
    workers = [WorkerNode(crash_cluster, f"edge-{number}") for number in range(NODES)]
    orders = Orders(crash_cluster, image="builtin:hello")

    def crash() -> None:
        crash_cluster.kill(victim)
        crash_cluster.start_part(victim)

    with nodes(*workers):
        orders.run(on_half=crash)
        crash_cluster.wait_until_ready()
        settle(crash_cluster, orders, lambda: held(workers))
        assert len(orders.wanted) + len(orders.deleted) == DEPLOYS
        starts = sum((worker.starts for worker in workers), start=Counter())
        assert {key: count for key, count in starts.items() if count > 1} == {}
