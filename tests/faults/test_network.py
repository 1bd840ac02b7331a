"""Lossy and cut networks between the hosts of a real cluster."""

import time

import pytest

from testbed.ledger import Ledger, untouched
from testbed.netns import SpreadCluster
from testbed.operating import causes, copies_of, instance, wait_for_state
from testbed.waiting import wait_until

pytestmark = [pytest.mark.real("netns"), pytest.mark.timeout(600)]


def worker_of(made: SpreadCluster, job_id: str) -> str:
    """The only node that runs a job."""
    [copy] = copies_of(made, job_id)
    return copy.worker


def test_a_third_of_the_packets_is_lost(spread: SpreadCluster, ledger: Ledger) -> None:
    """With 30 % loss at every worker orders arrive all the same, once, and what ran is not touched."""
    before = ledger.running()
    for host in spread.hosts.values():
        host.lose(0.3)
    try:
        ledger.orders_amid(lambda: time.sleep(2.0), "lossy")
        ledger.settle()
    finally:
        for host in spread.hosts.values():
            host.lose_nothing()
    ledger.settle()
    assert untouched(before, ledger.running())


def test_duplicates_after_a_partition_are_stopped(spread: SpreadCluster, ledger: Ledger) -> None:
    """A cut-off node's `replace` job runs elsewhere; after the cut the stale copy stops, `keep` ones are untouched."""
    before = ledger.running()
    ledger.deploy("moving", on_disconnect="replace")
    ledger.settle()
    home = worker_of(spread, "moving")
    spread.hosts[home].cut()
    try:
        spread.wait_until_node_is(home, "DOWN")
        wait_until(lambda: len(copies_of(spread, "moving")) == 2, 30.0, what="a replacement runs elsewhere")
        wait_for_state(spread, "moving")
    finally:
        spread.hosts[home].heal()
    spread.wait_until_node_is(home, "READY")
    ledger.settle()
    assert worker_of(spread, "moving") != home
    assert untouched(before, ledger.running())


def test_stop_after_never_runs_twice(spread: SpreadCluster, ledger: Ledger) -> None:
    """In a partition the worker stops its `stop_after` copy itself, and only then the replacement starts."""
    ledger.deploy("single", on_disconnect="stop_after", stop_after_s=4)
    ledger.settle()
    home = worker_of(spread, "single")
    time.sleep(2.5)  # one lease, so that the count runs from a heartbeat
    counts: list[int] = []
    spread.hosts[home].cut()
    try:

        def is_replaced() -> bool:
            workers = [copy.worker for copy in copies_of(spread, "single")]
            counts.append(len(workers))
            return workers not in ([], [home]) and instance(spread, "single")["state"] == "RUNNING"

        wait_until(is_replaced, 60.0, what="the replacement runs")
    finally:
        spread.hosts[home].heal()
    assert max(counts) == 1
    assert 0 in counts
    spread.wait_until_node_is(home, "READY")
    ledger.settle()
    assert any("stop_after" in cause for cause in causes(spread, "single"))


def test_the_managers_side_is_cut_off(spread: SpreadCluster, ledger: Ledger) -> None:
    """When the manager hears nobody, nothing is re-placed; on return everything is as it was."""
    ledger.deploy("waiting", on_disconnect="replace")
    ledger.settle()
    before = ledger.running()
    spread.control.cut()
    try:
        for name in spread.hosts:
            spread.wait_until_node_is(name, "SUSPECT")
        time.sleep(2.0)  # beyond the grace
        assert ledger.running() == before
    finally:
        spread.control.heal()
    for name in spread.hosts:
        spread.wait_until_node_is(name, "READY")
    ledger.settle()
    assert untouched(before, ledger.running())
