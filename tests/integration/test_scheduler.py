"""The real scheduler process against a manager that streams nodes."""

import asyncio
import os
import re
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.rpc import channel, serving
from cluster.rpc_errors import from_rpc_error
from cluster.v1 import (
    instance_pb2,
    job_pb2,
    manager_pb2,
    manager_pb2_grpc,
    node_pb2,
    resources_pb2,
    scheduler_pb2,
    scheduler_pb2_grpc,
)
from testbed.ports import free_port
from testbed.processes import Process, module
from testbed.waiting import wait_until_async

MANAGER = "cluster.v1.ManagerService"
SCHEDULER = "cluster.v1.SchedulerService"


class Manager(manager_pb2_grpc.ManagerServiceServicer):
    """Streams a snapshot in chunks of one node, then whatever a test puts into `deltas`."""

    def __init__(self, *nodes: node_pb2.Node) -> None:
        self.nodes = list(nodes)
        self.deltas: asyncio.Queue[manager_pb2.WatchNodesResponse] = asyncio.Queue()
        self.is_held = asyncio.Event()
        self.is_held.set()
        self.watches = 0

    async def WatchNodes(self, request: Any, context: Any) -> AsyncIterator[manager_pb2.WatchNodesResponse]:  # noqa: N802
        self.watches += 1
        yield manager_pb2.WatchNodesResponse(is_snapshot_start=True)
        for node in self.nodes:
            yield manager_pb2.WatchNodesResponse(nodes=[node])
        await self.is_held.wait()
        yield manager_pb2.WatchNodesResponse(is_snapshot_end=True)
        while True:
            yield await self.deltas.get()

    def serve(self, port: int) -> Any:
        def add(server: grpc.aio.Server) -> None:
            manager_pb2_grpc.add_ManagerServiceServicer_to_server(self, server)

        return serving(f"127.0.0.1:{port}", {MANAGER: add}, drain_s=0.0)


class Client:
    """Talks to the scheduler under test."""

    def __init__(self, open_channel: grpc.aio.Channel) -> None:
        self._stub: Any = scheduler_pb2_grpc.SchedulerServiceStub(open_channel)
        self._health: Any = health_pb2_grpc.HealthStub(open_channel)
        self.sequence = 0
        self.was_behind = False

    async def plan(
        self, cpu_millicores: int, count: int = 1, *, view_sequence: int = 0, **item: Any
    ) -> list[scheduler_pb2.PlanResult]:
        self.sequence += 1
        items = [
            scheduler_pb2.PlanItem(key=instance_pb2.InstanceKey(job_id=f"j{self.sequence}", number=number), **item)
            for number in range(count)
        ]
        request = scheduler_pb2.PlanRequest(
            specs=[_spec(cpu_millicores)], items=items, plan_sequence=self.sequence, view_sequence=view_sequence
        )
        response: scheduler_pb2.PlanResponse = await self._stub.Plan(request, timeout=10)
        self.was_behind = response.is_behind
        return list(response.results)

    async def node_ids(self, cpu_millicores: int, count: int = 1, *, view_sequence: int = 0) -> list[str]:
        return [result.node_id for result in await self.plan(cpu_millicores, count, view_sequence=view_sequence)]

    async def explain(self, cpu_millicores: int) -> scheduler_pb2.ExplainResponse:
        request = scheduler_pb2.ExplainRequest(spec=_spec(cpu_millicores))
        response: scheduler_pb2.ExplainResponse = await self._stub.Explain(request, timeout=10)
        return response

    async def is_serving(self) -> bool:
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(service=SCHEDULER), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _manager(*nodes: node_pb2.Node) -> Manager:
    return Manager(*nodes)  # type: ignore[abstract]  # only the stubs are abstract


async def _until(predicate: Callable[[], Awaitable[bool]]) -> None:
    check: Callable[[], bool | Awaitable[bool]] = predicate
    await wait_until_async(check)


def _spec(cpu_millicores: int) -> scheduler_pb2.PlanSpec:
    demand = resources_pb2.Resources(cpu_millicores=cpu_millicores)
    return scheduler_pb2.PlanSpec(job_id="job", spec=job_pb2.JobSpec(technology="docker", demand=demand))


def _node(name: str, cpu_millicores: int = 1000, allocated: int = 0, plan_sequence: int = 0) -> node_pb2.Node:
    return node_pb2.Node(
        id=name,
        registration=node_pb2.NodeRegistration(
            name=name,
            technologies=["docker"],
            capacity=resources_pb2.Resources(cpu_millicores=cpu_millicores),
        ),
        state=node_pb2.NODE_STATE_READY,
        allocated=resources_pb2.Resources(cpu_millicores=allocated),
        plan_sequence=plan_sequence,
    )


class Part:
    """The scheduler process, a client of it, and the ports around it."""

    def __init__(self, process: Process, client: Client, ports: dict[str, int]) -> None:
        self.process = process
        self.client = client
        self.ports = ports


@pytest.fixture(name="part")
async def _part(tmp_path: Path) -> AsyncIterator[Part]:
    ports = {name: free_port() for name in ("manager", "scheduler", "metrics")}
    env = {
        "MANAGER_ADDRESS": f"127.0.0.1:{ports['manager']}",
        "SCHEDULER_PORT": str(ports["scheduler"]),
        "SCHEDULER_METRICS_PORT": str(ports["metrics"]),
        "PYTHONWARNINGS": "error",
    }
    with module("scheduler", env=env, log_path=tmp_path / "scheduler.log") as process:
        process.wait_for_output('"serving"')
        async with channel(f"127.0.0.1:{ports['scheduler']}") as open_channel:
            yield Part(process, Client(open_channel), ports)


async def test_plans_wait_for_the_first_snapshot(part: Part) -> None:
    """Until the nodes are known, plans are UNAVAILABLE and the health check says so; afterwards they are answered."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await part.client.plan(100)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert from_rpc_error(caught.value).reason == "unavailable"
    manager = _manager(_node("a"))
    manager.is_held.clear()
    async with manager.serve(part.ports["manager"]):
        await wait_until_async(lambda: manager.watches)
        assert not await part.client.is_serving()
        manager.is_held.set()
        await _until(part.client.is_serving)
        assert await part.client.node_ids(100) == ["a"]


async def test_batches_spread_and_never_oversubscribe(part: Part) -> None:
    """A batch takes what there is and refuses the rest with counts per reason."""
    async with _manager(_node("a", 300), _node("b", 200)).serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        results = await part.client.plan(100, 6)
        assert sorted(result.node_id for result in results) == ["", "a", "a", "a", "b", "b"]
        assert [(each.reason, each.node_count) for each in results[-1].refusals] == [("cpu", 2)]
        assert (await part.client.explain(100)).smallest_change.startswith("a would fit: lower the cpu demand by 100")


async def test_deltas_settle_plans(part: Part) -> None:
    """A plan holds its capacity until a delta that accounts for it denies it."""
    manager = _manager(_node("a", 100))
    async with manager.serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        assert await part.client.node_ids(100) == ["a"]
        assert await part.client.node_ids(100) == [""]
        await manager.deltas.put(manager_pb2.WatchNodesResponse(nodes=[_node("a", 100, plan_sequence=1)]))

        async def fits() -> bool:
            return (await part.client.explain(100)).fitting_count == 1

        await _until(fits)
        assert await part.client.node_ids(100) == ["a"]


async def test_a_plan_waits_for_the_change_that_it_was_made_for(part: Part) -> None:
    """Room that was made is seen by the plan that it woke, though the news of it travels by itself; not for ever."""
    manager = _manager(_node("a", 100))
    async with manager.serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        planned = asyncio.create_task(part.client.node_ids(200, view_sequence=7))
        await asyncio.sleep(0.2)
        await manager.deltas.put(manager_pb2.WatchNodesResponse(nodes=[_node("a", 200)], view_sequence=7))
        assert await planned == ["a"]
        assert await part.client.node_ids(300, view_sequence=8) == [""]  # and says so
        assert part.client.was_behind


async def test_bad_input_names_its_field(part: Part) -> None:
    """A specification that is not there is INVALID_ARGUMENT with the field's name."""
    async with _manager(_node("a")).serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await part.client.plan(100, spec_index=4)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).field == "items[0].spec_index"


async def test_the_last_view_is_planned_on_until_the_manager_returns(part: Part) -> None:
    """Without its manager the scheduler goes on, says after seconds that it is stale, and takes the new snapshot."""
    async with _manager(_node("a")).serve(part.ports["manager"]):
        await _until(part.client.is_serving)
    assert await part.client.node_ids(10) == ["a"]

    async def is_stale() -> bool:
        return not await part.client.is_serving()

    await _until(is_stale)
    assert await part.client.node_ids(10) == ["a"]
    async with _manager(_node("b")).serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        assert await part.client.node_ids(10) == ["b"]
    assert part.process.output().count("node snapshot complete") == 2


async def test_metrics_count_plans(part: Part) -> None:
    """Prometheus reads plans, refusals by reason, the time they took and the nodes in view."""
    async with _manager(_node("a", 100), _node("b", 100)).serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        await part.client.plan(100, 3)
        url = f"http://127.0.0.1:{part.ports['metrics']}/metrics"
        text = (await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)).read().decode()
    for line in (
        'scheduler_plans_total{outcome="placed"} 2.0',
        'scheduler_refusals_total{reason="cpu"} 1.0',
        "scheduler_planning_seconds_count 3.0",
        "scheduler_nodes 2.0",
    ):
        assert re.search(rf"^{re.escape(line)}$", text, re.MULTILINE), line


async def test_a_signal_ends_it_cleanly(part: Part) -> None:
    """SIGTERM ends the process with status 0 and without a traceback."""
    async with _manager(_node("a")).serve(part.ports["manager"]):
        await _until(part.client.is_serving)
        assert await asyncio.to_thread(part.process.stop) == 0
    assert "Traceback" not in part.process.output()


async def test_a_taken_port_is_said_in_one_line(part: Part, tmp_path: Path) -> None:
    """A second scheduler on the same port ends with status 1 and says why."""
    env = {**os.environ, "SCHEDULER_PORT": str(part.ports["scheduler"]), "SCHEDULER_METRICS_PORT": "0"}
    with module("scheduler", env=env, log_path=tmp_path / "second.log") as second:
        assert await asyncio.to_thread(second.wait) == 1
        assert "cannot listen" in second.output()
        assert "Traceback" not in second.output()
