"""kill -9 of the database amid orders: a server of MongoDB's protocol behind a real cluster."""

from collections.abc import Iterator

import pytest

from testbed.cluster import Cluster, cluster
from testbed.ledger import Ledger, untouched
from testbed.mongo_server import MongoServer
from testbed.waiting import wait_until

pytestmark = [pytest.mark.timeout(600)]
WORKERS = 2


@pytest.fixture
def on_mongo(mongo_server: MongoServer) -> Iterator[Cluster]:
    """A cluster with its store in that server, and two real workers."""
    with cluster(STORE_URL=f"{mongo_server.url}/cluster") as made:
        for number in range(WORKERS):
            made.add_worker(f"edge-{number}")
        for number in range(WORKERS):
            made.wait_until_node_is(f"edge-{number}", "READY")
        yield made


def test_orders_survive_the_database(on_mongo: Cluster, mongo_server: MongoServer) -> None:
    """After kill -9 and restart of the database each acknowledged deploy runs once and nothing healthy was touched."""
    ledger = Ledger(on_mongo)
    for number in range(3):
        ledger.deploy("base", number)
    ledger.settle()
    before = ledger.running()
    ledger.orders_amid(mongo_server.restart, "amid")
    on_mongo.wait_until_ready()
    ledger.settle()
    assert untouched(before, ledger.running())


def test_without_a_database_nothing_is_acknowledged(on_mongo: Cluster, mongo_server: MongoServer) -> None:
    """While the database is gone orders are refused with 503, /status says what is missing, and workloads go on."""
    ledger = Ledger(on_mongo)
    ledger.deploy("base")
    ledger.settle()
    before = ledger.running()
    mongo_server.kill()
    document = {"name": "late", "image": "builtin:hello", "technology": "wasm"}
    answer = on_mongo.http.request("POST", "/api/deploy/late/0", document, timeout=60.0)
    assert answer.status == 503, answer
    wait_until(lambda: on_mongo.http.request("GET", "/status").status == 503, what="/status says so")
    assert "store" in on_mongo.http.request("GET", "/status").text
    assert untouched(before, ledger.running())
    mongo_server.start()
    on_mongo.wait_until_ready()
    ledger.deploy("late")
    ledger.settle()
    assert untouched(before, ledger.running())
