"""The manager's or a worker's disk fills up and is freed again."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.disks import fill, small_disk
from testbed.ledger import Ledger, untouched
from testbed.netns import SpreadCluster, network, scratch_folder
from testbed.requirement import require
from testbed.waiting import wait_until

pytestmark = [pytest.mark.real("netns"), pytest.mark.timeout(600)]


@pytest.fixture
def small() -> Iterator[tuple[SpreadCluster, Path]]:
    """A cluster whose store lies on a disk of 4 MB."""
    require("netns")
    with scratch_folder() as folder, small_disk(folder / "disk", 4) as disk, network() as net:
        made = SpreadCluster(folder, net, {"STORE_URL": f"sqlite:///{disk}/cluster.db"})
        try:
            made.start()
            made.add_worker("edge-0")
            made.wait_until_node_is("edge-0", "READY")
            yield made, disk
        finally:
            made.close()


def test_a_full_disk_refuses_and_loses_nothing(small: tuple[SpreadCluster, Path]) -> None:
    """While the disk is full orders are refused with 503 and workloads go on; with room again all is taken."""
    made, disk = small
    ledger = Ledger(made)
    for number in range(2):
        ledger.deploy("base", number)
    ledger.settle()
    before = ledger.running()
    filler = fill(disk)
    document = {"name": "late", "image": "builtin:hello", "technology": "wasm"}

    def is_refused() -> bool:
        answer = made.http.request("POST", f"/api/deploy/late-{len(taken)}/0", document)
        if answer.status == 200:
            taken.append(f"late-{len(taken)}")
        return answer.status == 503

    taken: list[str] = []
    wait_until(is_refused, 60.0, what="a deploy is refused")
    wait_until(lambda: made.http.request("GET", "/status").status == 503, what="/status says that it is not ready")
    ledger.wanted |= {(job_id, 0) for job_id in taken}
    assert untouched(before, ledger.running())
    made.kill("manager")
    made.start_part("manager")
    ledger.orders_amid(filler.unlink, "freed", 3)
    made.wait_until_ready()
    # what was refused is not known to have been lost: it may or may not run, asked for again it does
    ledger.deploy(f"late-{len(taken)}")
    ledger.settle()
    assert untouched(before, ledger.running())
    ledger.close()


@pytest.fixture
def small_worker() -> Iterator[tuple[SpreadCluster, Path]]:
    """A cluster whose worker has a data folder of 4 MB."""
    require("netns")
    with scratch_folder() as folder, small_disk(folder / "edge-0", 4) as disk, network() as net:
        made = SpreadCluster(folder, net, {})
        try:
            made.start()
            made.add_worker("edge-0")
            made.wait_until_node_is("edge-0", "READY")
            yield made, disk
        finally:
            made.close()


def test_a_worker_with_a_full_disk_goes_on_and_deletes(small_worker: tuple[SpreadCluster, Path]) -> None:
    """While it is full workloads go on, leases count, deletes are carried out; what is new runs when there is room."""
    made, disk = small_worker
    ledger = Ledger(made)
    for number in range(2):
        ledger.deploy("base", number, on_disconnect="stop_after", stop_after_s=5)
    ledger.deploy("going")
    ledger.settle()
    before = {key: pid for key, pid in ledger.running().items() if key[0] == "base"}
    filler = fill(disk)
    ledger.delete("going")
    ledger.settle()
    fill(disk)
    ledger.deploy("coming")
    wait_until(lambda: "the node's disk is full" in _detail(made, "coming"), what="the reason is shown")
    made.kill("edge-0")
    made.start_part("edge-0")
    time.sleep(10)  # twice as long as leases last
    assert untouched(before, ledger.running())
    filler.unlink()
    ledger.settle()
    assert untouched(before, ledger.running())
    ledger.close()


def _detail(made: SpreadCluster, job_id: str) -> str:
    """What an instance's history says, all in one."""
    return "".join(str(item) for item in made.http.instances() if item["job_id"] == job_id)
