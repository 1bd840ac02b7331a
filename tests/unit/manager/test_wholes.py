"""Calls that change thousands of instances: all of it or nothing, others served in between, and no part saved alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.convert import spec_to_proto
from cluster.errors import ClusterError, InvalidInputError, UnavailableError
from cluster.v1 import instance_pb2, manager_pb2
from manager.backlog import MAX_BATCH
from manager.domain.model import InstanceKey, InstanceState
from manager.portions import PORTION
from manager.ports import Kind
from manager.rpc.servicer import ManagerServicer
from simulation.invariants import check_state
from testbed.live_core import LiveCore, live_core
from testbed.records import spec

MANY = 12 * PORTION
S = InstanceState


@pytest.fixture(name="live")
async def _live(tmp_path: Path) -> AsyncIterator[LiveCore]:
    async with live_core(tmp_path) as live:
        yield live


class Caller:
    """Calls the real servicer; in between it sees how far the state is."""

    def __init__(self, live: LiveCore) -> None:
        planner: Any = None
        self.live = live
        self.api: Any = ManagerServicer(live.core, live.nodes, planner, live.jobs, live.detector, "c", list)

    def deploy(self, count: int = MANY, job_id: str = "big", image: str = "demo") -> Awaitable[Any]:
        request = manager_pb2.DeployInstancesRequest(specs=[spec_to_proto(spec(image=image))])
        for number in range(count):
            request.deployments.add(key=instance_pb2.InstanceKey(job_id=job_id, number=number))
        return asyncio.create_task(self.api.DeployInstances(request, None))

    def delete(self, job_id: str = "big", *numbers: int) -> Awaitable[Any]:
        keys = [instance_pb2.InstanceKey(job_id=job_id, number=number) for number in numbers or (-1,)]
        return asyncio.create_task(self.api.DeleteInstances(manager_pb2.DeleteInstancesRequest(keys=keys), None))

    def scale(self, count: int, job_id: str = "big") -> Awaitable[Any]:
        request = manager_pb2.ReplicateJobRequest(job_id=job_id, instance_count=count)
        return asyncio.create_task(self.api.ReplicateJob(request, None))

    async def until_begun(self, job_id: str = "big", least: int = PORTION) -> None:
        """A part of the job, and not all of it, is in memory."""
        while not least <= len(self.live.core.state.of_job.get(job_id, ())):
            await asyncio.sleep(0)
        assert len(self.live.core.state.of_job[job_id]) < MANY

    def stored(self, job_id: str = "big") -> int:
        """How many instances of the job the store holds."""
        return sum(item.key.job_id == job_id for item in self.live.store.inner.load(0).instances)

    def check(self) -> None:
        """Memory is what is saved, and what is saved is what the store holds."""
        state, contents = self.live.core.state, self.live.store.inner.load(0)
        assert state.instances == {item.key: item for item in contents.instances}
        assert state.jobs == {job.id: job for job in contents.jobs}
        assert self.live.core.saved_records.instances == state.instances
        assert not self.live.core.writer.backlog
        check_state(state)


@pytest.fixture(name="caller")
def _caller(live: LiveCore) -> Caller:
    return Caller(live)


async def _refused(call: Awaitable[Any]) -> ClusterError:
    with pytest.raises(ClusterError) as refused:
        await call
    return refused.value


# Others meanwhile


async def test_others_are_served_while_thousands_are_deployed(caller: Caller) -> None:
    """After each portion, before it, while it is saved and while it is answered."""
    turns, call = 0, caller.deploy()
    while not call.done():  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        turns += 1
    assert len((await call).instances) == MANY
    assert turns >= 3 * MANY // PORTION
    caller.check()


@pytest.mark.parametrize("change", ["deploy", "delete", "scale up", "scale down"])
async def test_all_of_a_call_is_one_write(live: LiveCore, caller: Caller, change: str) -> None:
    """Whatever others save meanwhile: more than a batch is not split, and nothing of it goes along with theirs."""
    await caller.deploy(1 if change == "scale up" else MANY)
    live.store.batches.clear()
    calls = {
        "deploy": lambda: caller.deploy(image="other"),
        "delete": caller.delete,
        "scale up": lambda: caller.scale(MANY),
        "scale down": lambda: caller.scale(0),
    }
    call = calls[change]()
    for number in range(5):
        await asyncio.sleep(0)
        await live.deploy(number, job_id="small")
    await call
    with_big = [batch for batch in live.store.batches if any(name.startswith("big") for _, name in batch)]
    assert len(with_big) == 1
    assert sum(kind is Kind.INSTANCE for kind, _ in with_big[0]) >= MANY - 1 > MAX_BATCH
    assert len(live.store.batches) > 1
    caller.check()


async def test_what_others_save_meanwhile_needs_not_wait(live: LiveCore, caller: Caller) -> None:
    """A change of something else is durable while half of a call is in memory."""
    call = caller.deploy()
    await caller.until_begun()
    await live.core.put_setting("mine", "1")
    assert caller.stored() == 0
    assert "mine" in {item.name for item in live.store.inner.load(0).settings}
    await call
    caller.check()


async def test_a_change_of_the_same_record_is_saved_with_the_call(live: LiveCore, caller: Caller) -> None:
    """What builds on a part of it is not durable without the whole; nor is what builds on that."""
    await caller.deploy()
    call = caller.deploy(image="other")
    state = live.core.state
    while state.instances[InstanceKey("big", PORTION)].spec.image != "other":
        await asyncio.sleep(0)
    state.delete([InstanceKey("big", 0)], "operator", live.core.now_ms())
    state.deploy([(InstanceKey("beside", 0), spec())], "operator", live.core.now_ms())
    built_on = live.core.commit(is_urgent=True)
    state.delete([InstanceKey("beside", 0)], "operator", live.core.now_ms())
    upon_that = live.core.commit(is_urgent=True)
    unrelated = live.core.put_setting("mine", "1")
    await unrelated
    assert not built_on.done()
    assert not upon_that.done()
    await asyncio.gather(call, built_on, upon_that)
    caller.check()


async def test_calls_about_one_job_come_one_after_the_other(caller: Caller) -> None:
    """A job that is made large and small at the same time is one or the other; another job does not wait."""
    await caller.deploy(1)
    up, down = caller.scale(MANY), caller.scale(2)
    await caller.deploy(1, "another")
    assert not up.done()  # type: ignore[attr-defined]
    await up
    assert len((await down).instances) == 2
    assert len(caller.live.core.state.of_job["big"]) == MANY
    caller.check()


async def test_a_repeated_call_waits_for_the_first(live: LiveCore, caller: Caller) -> None:
    """It finds everything done, and is answered when that is durable."""
    live.store.hold()
    first = caller.deploy()
    while live.core.writer.backlog < MANY:
        await asyncio.sleep(0)
    again = caller.deploy()
    for _ in range(20 * MANY // PORTION):
        await asyncio.sleep(0)
    assert not again.done()  # type: ignore[attr-defined]
    live.store.let_go()
    assert len((await again).instances) == len((await first).instances) == MANY
    caller.check()


# All or none


async def test_a_store_that_fails_amid_a_call_leaves_nothing_of_it(live: LiveCore, caller: Caller) -> None:
    """Somebody else's write fails while half of it is in memory: the call is refused, and may be repeated."""
    call = caller.deploy()
    await caller.until_begun()
    live.store.fault = "no space"
    live.core.put_setting("mine", "1")
    assert isinstance(await _refused(call), UnavailableError)
    assert (live.core.state.of_job.get("big"), live.core.state.jobs.get("big")) == (None, None)
    live.store.fault = ""
    await live.core.writer.working.wait()
    assert caller.stored() == 0
    caller.check()
    await caller.deploy()
    assert caller.stored() == MANY
    caller.check()


@pytest.mark.parametrize("writes_first", [False, True])
async def test_a_write_that_fails_leaves_nothing_of_its_call(
    live: LiveCore, caller: Caller, writes_first: bool
) -> None:
    """Whether or not it got to the disk before the failure."""
    call = caller.deploy()
    await caller.until_begun()
    live.store.fault, live.store.writes_first = "no space", writes_first
    await _refused(call)
    live.store.fault = ""
    await live.core.writer.working.wait()
    assert caller.stored() == 0
    caller.check()


async def test_a_call_whose_caller_is_gone_is_not_half_done(live: LiveCore, caller: Caller) -> None:
    """Cancelled amid it: all of it is taken back, and whoever built on it is refused."""
    call: Any = caller.deploy()
    await caller.until_begun()
    live.core.state.delete([InstanceKey("big", 0)], "operator", live.core.now_ms())
    built_on = live.core.commit()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _refused(built_on)
    await live.rest()
    assert caller.stored() == 0
    caller.check()
    await caller.deploy(3)
    caller.check()


async def test_a_step_that_goes_wrong_takes_back_those_before_it(live: LiveCore, caller: Caller) -> None:
    """What it raises is what the caller is told."""

    def steps() -> Iterator[object]:
        wanted = [(InstanceKey("big", number), spec()) for number in range(MANY)]
        for position, made in enumerate(live.core.state.deploying(wanted, "operator", live.core.now_ms())):
            if position == MANY - 5:
                raise InvalidInputError("no", field="it")
            yield made

    assert isinstance(await _refused(live.core.change(["big"], steps())), InvalidInputError)
    assert not live.core.state.instances
    assert not live.core.has_changes
    await caller.deploy(3)
    caller.check()


async def test_what_is_being_written_counts_as_saved_when_a_call_is_taken_back(live: LiveCore, caller: Caller) -> None:
    """An older version is on its way to the disk when the call that changed it again is given up."""
    await caller.deploy(MANY)
    live.store.hold()
    on_its_way = caller.delete("big", 0)
    await asyncio.to_thread(live.store.has_begun.wait)
    call: Any = caller.deploy(MANY, image="other")
    while live.instance(InstanceKey("big", PORTION)).spec.image != "other":
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert live.instance(InstanceKey("big", 0)).state is S.STOPPED
    live.store.let_go()
    await on_its_way
    caller.check()


async def test_a_bad_specification_among_many_is_found_before_anything_is_changed(
    live: LiveCore, caller: Caller
) -> None:
    """Nothing is in memory, nothing is saved."""
    request = manager_pb2.DeployInstancesRequest(specs=[spec_to_proto(spec())])
    for number in range(MANY):
        request.deployments.add(
            key=instance_pb2.InstanceKey(job_id="big", number=number), spec_index=number // (MANY - 1)
        )
    await _refused(caller.api.DeployInstances(request, None))
    assert not live.core.state.instances
    caller.check()


async def test_a_node_that_speaks_of_what_is_being_deleted_is_heard_after_it(live: LiveCore, caller: Caller) -> None:
    """Its word is saved with the delete, and neither is lost."""
    node = await live.add("n0", cpu=None)
    await live.run(node.id, *range(MANY), job_id="big")
    call = caller.delete()
    while live.instance(InstanceKey("big", PORTION - 1)).state is not S.STOPPING:
        await asyncio.sleep(0)
    await live.stop(InstanceKey("big", 0))
    await call
    assert live.instance(InstanceKey("big", 0)).state is S.STOPPED
    assert live.instance(InstanceKey("big", MANY - 1)).state is S.STOPPING
    caller.check()
