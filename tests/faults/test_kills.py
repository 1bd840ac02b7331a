"""kill -9 of each part of a real cluster amid orders."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed.ledger import Ledger, untouched
from testbed.netns import SpreadCluster

pytestmark = [pytest.mark.real("netns"), pytest.mark.timeout(600)]
SIDE = ("broker", "manager", "scheduler", "gateway")


@pytest.mark.parametrize(
    "victims", [("broker",), ("manager",), ("edge-1",), SIDE], ids=["broker", "manager", "worker", "all"]
)
def test_orders_survive_kills(spread: SpreadCluster, ledger: Ledger, victims: tuple[str, ...]) -> None:
    """After kill -9 and restart each acknowledged deploy runs once, deletes are gone, the rest was not touched."""
    before = ledger.running()

    def fault() -> None:
        for victim in victims:
            spread.kill(victim)
        for victim in victims:
            spread.start_part(victim)

    ledger.orders_amid(fault, f"amid-{victims[0]}-{len(victims)}")
    ledger.settle()
    assert untouched(before, ledger.running())


def test_every_worker_restarts_at_once(spread: SpreadCluster, ledger: Ledger) -> None:
    """kill -9 of all workers: their workloads go on, are found again, and are the same processes afterwards."""
    before = ledger.running()
    with ThreadPoolExecutor(len(spread.hosts)) as pool:
        list(pool.map(spread.kill, spread.hosts))
    assert ledger.running() == before
    for name in spread.hosts:
        spread.start_part(name)
    for name in spread.hosts:
        spread.wait_until_node_is(name, "READY")
    ledger.settle()
    assert untouched(before, ledger.running())
