"""The link in this process, with a real store below and a stand-in root of each generation above."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response

from manager.domain.model import InstanceState, NodeState
from manager.domain.roots import LinkState
from manager.root import doubts
from manager.root import link as link_module
from standins.roots.r1 import R1
from standins.roots.r3 import R2, R3
from standins.roots.root import Root
from testbed.attached import NAME, started
from testbed.linked import Linked, linked
from testbed.waiting import wait_until_async

S = InstanceState
GENERATIONS = [R1, R2, R3]
every_generation = pytest.mark.parametrize("root", GENERATIONS, indirect=True, ids=lambda make: make.__name__)
Body = dict[str, Any]


@pytest.fixture(name="root")
def _root(request: pytest.FixtureRequest) -> Iterator[Root]:
    with started(getattr(request, "param", R3)()) as root:
        yield root


def _dialect(root: Root) -> dict[str, str]:
    """R2 is taken for R3 until a deploy shows the era: these tests order nothing at the gateway."""
    return {"ROOT_DIALECT": "r2"} if type(root) is R2 else {}


def _registrations(linked_: Linked) -> int:
    return linked_.core.counters["root_registrations"]


def _is_attached(linked_: Linked) -> bool:
    return linked_.roots.is_attached


def _kinds(linked_: Linked) -> list[str]:
    return [entry.event.kind for entry in linked_.core.history.after(0)]


# Charts


@every_generation
async def test_charts_get_every_measurement_of_every_period(tmp_path: Path, root: Root) -> None:
    """An instance that does not change is told with what it measures now, and its last words, at each report period."""
    service = root.data.add_service("web", "local/busybox:1")
    async with linked(tmp_path, root, **_dialect(root)) as here:
        key = await here.put(service)
        for cpu_percent in (1.5, 2.5, 3.5):
            here.measure(key, cpu_percent, logs=f"line {cpu_percent}")
            await here.until_reports(2)
            told = service.instances[0]
            assert told.get("cpu", told.get("cpu_percent")) == f"{cpu_percent:f}"
            assert isinstance(root, R1) or told["logs"] == f"line {cpu_percent}"
        assert root.data.faults == []


# Answers that say "later"


@every_generation
@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_one_503_freezes_nothing(tmp_path: Path, root: Root, status: int) -> None:
    """The very report that says that an instance runs is answered "later": the root hears it a moment after."""
    service = root.data.add_service("web", "local/busybox:1")
    async with linked(tmp_path, root, **_dialect(root)) as here:
        await here.put(service, state=S.SCHEDULED)
        await here.until_believed(service, "NODE_SCHEDULED")
        root.refuse = lambda body: status if body["jobs"] else 0
        await here.put(service)
        await wait_until_async(lambda: not _is_attached(here))
        root.refuse = lambda _body: 0
        await here.until_believed(service, "RUNNING")
        assert here.core.counters["root_instances_set_aside"] == 0
        assert _registrations(here) == 1
        assert root.data.faults == []


async def test_retry_after_is_waited_for(tmp_path: Path, root: Root) -> None:
    """A root that asks for four seconds has them, though the next try was due sooner."""
    async with linked(tmp_path, root) as here:
        await here.until_reports(1)
        root.next_answers.append(Response(status_code=503, headers={"Retry-After": "4"}))
        await wait_until_async(lambda: not root.next_answers)
        began_s = time.monotonic()
        await here.until_reports(1)
        assert time.monotonic() - began_s > 3.5


@every_generation
@pytest.mark.parametrize("status", [400, 500, 503])
async def test_refused_empty_report_registers_nothing_anew(tmp_path: Path, root: Root, status: int) -> None:
    """It is said, tried again with growing pauses, and over once the root takes reports: no stumble, no handshake."""
    async with linked(tmp_path, root, **_dialect(root)) as here:
        await wait_until_async(lambda: _is_attached(here))
        root.reports_answer = status
        await wait_until_async(lambda: here.roots.standing.state is LinkState.LOST)
        assert str(status) in here.roots.standing.detail
        failed = here.core.counters["root_reports_failed"]
        await wait_until_async(lambda: here.core.counters["root_reports_failed"] > failed + 3)
        root.reports_answer = None
        await wait_until_async(lambda: _is_attached(here))
        assert _registrations(here) == 1
        assert _kinds(here).count("root_lost") == 1
        assert root.data.faults == []


async def test_empty_report_refused_once_is_no_stumble(tmp_path: Path, root: Root) -> None:
    """Refused with nothing in it, and taken when it is sent again: that was an index error and a new registration."""
    async with linked(tmp_path, root) as here:
        await here.until_reports(1)
        root.next_answers.append(PlainTextResponse("no", 500))
        await wait_until_async(lambda: not root.next_answers)
        await here.until_reports(1)
        await wait_until_async(lambda: _is_attached(here))
        assert _registrations(here) == 1
        details = [entry.event.cause for entry in here.core.history.after(0)]
        assert not any("Error" in detail for detail in details)


# What a root fails on


@every_generation
@pytest.mark.parametrize("status", [400, 500, 502])
async def test_poisonous_instance_blocks_no_other_and_is_tried_again(
    tmp_path: Path, root: Root, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A job that makes the root stumble, or die behind its proxy: all others are told; it is, when the root can."""
    monkeypatch.setattr(doubts, "FIRST_PAUSE_S", 1.0)
    services = [root.data.add_service(f"s{number}", "local/busybox:1") for number in range(6)]
    bad = services[2]
    root.refuse = lambda body: status if bad.id in str(body["jobs"]) else 0
    async with linked(tmp_path, root, **_dialect(root)) as here:
        for service in services:
            await here.put(service)
        for service in services:
            if service is not bad:
                await here.until_believed(service, "RUNNING")
        await wait_until_async(lambda: here.core.counters["root_instances_set_aside"] == 1)
        await wait_until_async(lambda: _is_attached(here) and "fails on 1" in here.roots.standing.detail)
        assert "root_fails_on" in _kinds(here)
        root.refuse = lambda _body: 0
        await here.until_believed(bad, "RUNNING")
        await wait_until_async(lambda: here.roots.standing.detail == "")
        assert root.data.faults == []


# What changes at nodes


async def test_change_of_nodes_wakes_a_report(tmp_path: Path, root: Root) -> None:
    """Ready, gone, with other facts, removed: R3 hears of it long before its period of fifteen seconds is over."""
    async with linked(tmp_path, root, ROOT_REPORT_PERIOD_S="600") as here:
        await here.until_reports(1)

        async def until_known(count: int) -> None:
            cluster = root.registered(NAME)
            await wait_until_async(lambda: cluster and cluster.numbers.get("active_nodes") == count)

        here.put_node("n1", NodeState.REGISTERED)
        here.put_node("n1")
        await until_known(1)
        here.put_node("n2")
        await until_known(2)
        here.put_node("n1", NodeState.DOWN)
        await until_known(1)
        here.core.state.remove_node("n2")
        here.core.commit()
        await until_known(0)


@every_generation
async def test_first_report_tells_what_there_is(tmp_path: Path, root: Root) -> None:
    """A manager that starts with instances and nodes tells of them at once, not a period later."""
    service = root.data.add_service("web", "local/busybox:1")
    settings = {"ROOT_REPORT_PERIOD_S": "600", **_dialect(root)}
    async with linked(tmp_path, root, SYSTEM_MANAGER_URL="", SYSTEM_MANAGER_GRPC_PORT="") as here:
        await here.put(service)
        here.put_node("n1")
        await here.core.saved()
    async with linked(tmp_path, root, **settings) as here:
        await here.until_reports(1)
        first = root.data.reports[0]
        assert [len(job["instance_list"]) for job in first["jobs"]] == [1]
        assert first.get("active_nodes", first.get("number_of_nodes")) == 1


# Where the cluster is


@every_generation
async def test_location_of_the_roots_dashboard_stays(tmp_path: Path, root: Root) -> None:
    """Without CLUSTER_LOCATION each registration sends back what the root has, through restarts of both."""
    if isinstance(root, R1):
        root.add_cluster(NAME, location="52.5,13.4,5000")
    async with linked(tmp_path, root, CLUSTER_LOCATION="", CLUSTER_PAIRING_KEY=_key(root)) as here:
        await wait_until_async(lambda: _is_attached(here))
        cluster = root.registered(NAME)
        assert cluster
        assert cluster.location == ("52.5,13.4,5000" if isinstance(root, R1) else "0.0,0.0,1000")
        cluster.location = "40.4,-3.7,2000"
    for _ in range(2):
        async with linked(tmp_path, root, CLUSTER_LOCATION="") as here:
            await wait_until_async(lambda: _is_attached(here))
            assert cluster.location == "40.4,-3.7,2000"
    async with linked(tmp_path, root, CLUSTER_LOCATION="1,2,3") as here:
        await wait_until_async(lambda: _is_attached(here))
        assert cluster.location == "1,2,3"


def _key(root: Root) -> str:
    cluster = root.data.by_name(NAME)
    return cluster.pairing_key if cluster else ""


# Everything at once


@every_generation
@pytest.mark.parametrize(
    "answer",
    [
        Response(b"<html>log in</html>", 200),
        Response(b"", 302, {"Location": "http://elsewhere/"}),
        Response(b"x" * 40 * 1024 * 1024, 200),
        Response(b"[]", 200),
        Response(b"\xff", 500),
    ],
    ids=["page", "redirect", "huge", "empty", "error"],
)
async def test_list_that_is_none_makes_no_ghost(tmp_path: Path, root: Root, answer: Response) -> None:
    """While the root's list of clusters does not show this cluster, nothing is reported; then all goes on."""
    service = root.data.add_service("web", "local/busybox:1")
    async with linked(tmp_path, root, **_dialect(root)) as here:
        await here.put(service)
        await here.until_believed(service, "RUNNING")
        root.list_answer = answer
        await wait_until_async(lambda: not _is_attached(here))
        seen = len(root.data.reports)
        await here.put(service, state=S.FAILED)
        await wait_until_async(lambda: here.roots.standing.state in (LinkState.LOST, LinkState.REFUSED))
        assert len(root.data.reports) == seen
        root.list_answer = None
        await here.until_believed(service, "FAILED")
        await wait_until_async(lambda: _is_attached(here))
        assert len(root.data.clusters) == 1
        assert root.data.faults == []


@every_generation
async def test_report_amid_which_the_root_restarts_is_told_again(tmp_path: Path, root: Root) -> None:
    """Killed while it handles a report, the root hears of the change once it is back."""
    service = root.data.add_service("web", "local/busybox:1")
    async with linked(tmp_path, root, **_dialect(root)) as here:
        await here.put(service, state=S.SCHEDULED)
        await here.until_believed(service, "NODE_SCHEDULED")
        root.reports_delay_s = 30.0
        await here.put(service)
        await wait_until_async(lambda: here.core.counters["root_reports"] > 0)
        await _in_thread(root.stop)
        root.reports_delay_s = 0.0
        await _in_thread(root.start)
        await here.until_believed(service, "RUNNING")
        assert len(root.data.clusters) == 1
        assert root.data.faults == []


async def _in_thread(function: Callable[[], object]) -> None:
    await asyncio.to_thread(function)


async def test_clock_that_is_years_ahead_renews_no_key_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key lives by the root's clock: on a machine with a wrong one it is not out of date at each report."""
    clock = SimpleNamespace(time=lambda: time.time() + 10 * 365 * 86400, monotonic=time.monotonic)
    monkeypatch.setattr(link_module, "time", clock)
    with started(R1()) as root:
        async with linked(tmp_path, root) as here:
            await here.until_reports(4)
            assert _registrations(here) == 1


async def test_lost_database_arms_the_guard_before_any_report(tmp_path: Path, root: Root) -> None:
    """The guard is durable before the first report under the new id, which is what makes the root order deletes."""
    service = root.data.add_service("web", "local/busybox:1")
    async with linked(tmp_path, root) as here:
        await here.put(service)
        await here.until_believed(service, "RUNNING")
        guarded: list[bool] = []

        def look(_body: Body) -> int:
            guarded.append(service.id in here.roots.guard.guarded)
            return 0

        root.refuse = look
        root.data.wipe()
        await wait_until_async(lambda: any(guarded))
        assert guarded.index(True) == guarded.count(False)
        cluster = root.registered(NAME)
        assert cluster
        assert here.roots.standing.cluster_id == cluster.id
