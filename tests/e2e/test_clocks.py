"""Clocks that are set, and hours that pass, on running managers and workers: nothing is restarted, nothing stuck."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.clocks import Clock
from testbed.cluster import Cluster, cluster
from testbed.module_server import ModuleServer, module_server
from testbed.operating import causes, copies_of, delete, deploy, instance, wait_for_state
from testbed.waiting import wait_until

pytestmark = pytest.mark.real("gcc")
EDGE = "edge"
HOUR_S = 3600
LEASE_S = 3


class Timed:
    """A cluster with one real worker; `here` is the clock of the control plane, `there` that of the worker."""

    def __init__(self, made: Cluster, here: Clock, there: Clock) -> None:
        self.cluster = made
        self.here = here
        self.there = there

    def events(self, kind: str) -> list[str]:
        """The causes of a kind of event in the node's history."""
        return [
            event["cause"] for event in self.cluster.http.get(f"/api/nodes/{EDGE}")["events"] if event["kind"] == kind
        ]


@pytest.fixture
def timed(tmp_path: Path) -> Iterator[Timed]:
    """Two services run on it."""
    here, there = Clock(tmp_path / "here"), Clock(tmp_path / "there")
    with cluster(**here.environment, LEASE_S=str(LEASE_S), GRACE_S="1", RETRY_CAP_S="2") as made:
        made.add_worker(EDGE, **there.environment)
        made.wait_until_node_is(EDGE, "READY")
        for number in range(2):
            deploy(made, "web", number)
        for number in range(2):
            wait_for_state(made, "web", number=number)
        yield Timed(made, here, there)


@pytest.fixture
def modules() -> Iterator[ModuleServer]:
    """Where the node gets its modules from."""
    with module_server() as server:
        yield server


@pytest.mark.parametrize("hours", [5, -5])
def test_clocks_that_are_set_on_both_sides_change_nothing(timed: Timed, modules: ModuleServer, hours: int) -> None:
    """Neither what runs nor what is on its way is touched; orders of afterwards are carried out."""
    made = timed.cluster
    modules.go.clear()
    deploy(made, "slow", image=f"{modules.url}/slow.wat")
    wait_until(lambda: modules.fetches, what="the worker fetches the module")
    before = copies_of(made, "web")
    generation = instance(made, "slow")["placements"][0]["generation"]
    timed.here.set(wall_s=hours * HOUR_S)
    timed.there.set(wall_s=-hours * HOUR_S)
    made.parts["manager"].wait_for_output("the machine's clock was set")
    deploy(made, "later")
    wait_for_state(made, "later")
    delete(made, "later", 0)
    wait_for_state(made, "later", "STOPPED")
    modules.go.set()
    wait_for_state(made, "slow")
    assert [placement["generation"] for placement in instance(made, "slow")["placements"]] == [generation]
    assert copies_of(made, "web") == before
    assert timed.events("down") == timed.events("suspect") == []


def test_a_manager_that_starts_in_the_past_goes_on(timed: Timed) -> None:
    """A machine without a battery: what runs goes on, what ended is placed again, and a new order is no old one."""
    made = timed.cluster
    before = copies_of(made, "web")
    made.kill("manager")
    timed.here.set(wall_s=-48 * HOUR_S)
    made.start_part("manager")
    made.wait_until_ready()
    made.parts["manager"].wait_for_output("the machine's clock is behind the newest record")
    delete(made, "web", 0)
    wait_for_state(made, "web", "STOPPED", number=0)
    deploy(made, "web", 0)
    wait_for_state(made, "web", number=0)
    after = copies_of(made, "web")
    assert after[1] == before[1]
    assert after[0].generation > before[0].generation
    assert causes(made, "web", 0)


def test_hours_without_manager_and_broker(timed: Timed) -> None:
    """What is to be replaced or kept runs on in the same processes; a `stop_after` copy has stopped itself in time."""
    made = timed.cluster
    deploy(made, "kept", on_disconnect="keep")
    deploy(made, "bounded", on_disconnect="stop_after", stop_after_s=HOUR_S, stop_grace_s=1)
    for job_id in ("kept", "bounded"):
        wait_for_state(made, job_id)
    before = [copy for copy in copies_of(made) if copy.key[0] != "bounded"]
    for part in ("manager", "broker", "scheduler", "gateway"):
        made.kill(part)
    timed.there.set(wall_s=HOUR_S // 2, boot_s=HOUR_S // 2)
    made.parts[EDGE].wait_for_output("broker not connected")
    assert copies_of(made, "bounded")
    timed.there.set(wall_s=9 * HOUR_S, boot_s=9 * HOUR_S)
    wait_until(lambda: not copies_of(made, "bounded"), what="the bounded copy has stopped itself")
    assert copies_of(made) == before
    for part in ("broker", "manager", "scheduler", "gateway"):
        made.start_part(part)
    made.wait_until_ready()
    made.wait_until_node_is(EDGE, "READY")
    for job_id in ("web", "kept", "bounded"):
        wait_for_state(made, job_id)
    assert [copy for copy in copies_of(made) if copy.key[0] != "bounded"] == before
