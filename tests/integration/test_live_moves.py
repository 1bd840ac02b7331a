"""A real guest that goes from one QEMU to another and counts on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testbed.runtimes import end_of, ignore, output_of, wait_for_output, workload
from testbed.waiting import wait_until_async
from worker.records import Ref
from worker.runtime.base import RuntimeFailure, Workload
from worker.runtime.images import ImageCache
from worker.runtime.unikernel import UnikernelRuntime

OLD, NEW = Ref("job", 0, 1), Ref("job", 0, 2)
DEAD_PORT = "tcp:127.0.0.3:1"


def new_runtime(folder: Path, arrival_s: float = 20.0) -> UnikernelRuntime:
    return UnikernelRuntime(folder / "unikernel", ImageCache(folder / "images"), arrival_s=arrival_s)


async def end(runtime: UnikernelRuntime, ref: Ref) -> None:
    await runtime.kill(ref)
    await runtime.wait(ref)
    await runtime.close()


@pytest.fixture(name="source")
async def _source(tmp_path: Path, here: Workload) -> AsyncIterator[UnikernelRuntime]:
    runtime = new_runtime(tmp_path / "source")
    await runtime.prepare(here, ignore)
    await runtime.start(here)
    await wait_for_output(runtime, "count 3\n", OLD)
    yield runtime
    await end(runtime, OLD)


@pytest.fixture(name="target")
async def _target(tmp_path: Path, there: Workload) -> AsyncIterator[UnikernelRuntime]:
    runtime = new_runtime(tmp_path / "target", arrival_s=0.3)
    await runtime.prepare(there, ignore)
    yield runtime
    await end(runtime, NEW)


def job(image: Path, ref: Ref, ip: str) -> Workload:
    return workload(ref, ip, image=str(image), technology="unikernel", memory=16)


@pytest.fixture(name="here")
def _here(unikernel_image: Path) -> Workload:
    return job(unikernel_image, OLD, "127.0.0.2")


@pytest.fixture(name="there")
def _there(unikernel_image: Path) -> Workload:
    return job(unikernel_image, NEW, "127.0.0.3")


async def counts(runtime: UnikernelRuntime, ref: Ref) -> list[int]:
    """The numbers that a guest has printed in whole lines."""
    lines = (await output_of(runtime, ref)).split("\n")[:-1]
    return [int(line.removeprefix("count ")) for line in lines if line.startswith("count ")]


async def wait_until_it_counts(runtime: UnikernelRuntime, ref: Ref) -> int:
    """Wait for three more numbers; answers the newest."""
    before = len(await counts(runtime, ref))

    async def more() -> list[int]:
        found = await counts(runtime, ref)
        return found if len(found) >= before + 3 else []

    return (await wait_until_async(more, what=f"{ref} counts"))[-1]


async def test_the_guest_counts_on(source: UnikernelRuntime, target: UnikernelRuntime, there: Workload) -> None:
    """The target's serial line goes on with the source's next number, and the source's end tells the pause."""
    uri = await target.receive(there)
    assert uri.startswith("tcp:127.0.0.3:")
    assert await target.awaiting(NEW) == uri
    await asyncio.gather(source.send(OLD, "edge-b", uri, ignore), target.arrived(NEW))
    await wait_until_it_counts(target, NEW)
    left = await end_of(source, OLD)
    assert left.is_moved
    assert left.reason.startswith("moved live to edge-b, paused ")
    whole = await counts(source, OLD) + await counts(target, NEW)
    assert abs(len(whole) - len(range(whole[-1] + 1))) <= 1  # a line may be cut in two by the move
    assert whole == sorted(whole)
    assert (await counts(target, NEW))[0] > 2
    assert await target.awaiting(NEW) == ""


async def test_a_dead_port_leaves_the_guest_counting(source: UnikernelRuntime) -> None:
    """Nobody listens: the source says so and its guest was never touched."""
    with pytest.raises(RuntimeFailure, match="refused"):
        await source.send(OLD, "edge-b", DEAD_PORT, ignore)
    await wait_until_it_counts(source, OLD)
    assert await source.is_running(OLD)


async def test_a_target_killed_before_it_has_all_leaves_the_guest_counting(
    source: UnikernelRuntime, target: UnikernelRuntime, there: Workload
) -> None:
    """The guest comes back where its target dies on the way; a later hand-over works."""
    uri = await target.receive(there)
    process = target._run(NEW).process
    assert process is not None
    sending = asyncio.create_task(source.send(OLD, "edge-b", uri, ignore))
    await target.kill(NEW)
    with pytest.raises(RuntimeFailure):
        await sending
    await wait_until_it_counts(source, OLD)
    uri = await target.receive(there)
    await asyncio.gather(source.send(OLD, "edge-b", uri, ignore), target.arrived(NEW))
    await wait_until_it_counts(target, NEW)


async def test_a_target_without_a_guest_ends_its_qemu(target: UnikernelRuntime, there: Workload) -> None:
    """After its time it gives up, and an ordinary start counts from 0."""
    await target.receive(there)
    with pytest.raises(RuntimeFailure, match=r"no running guest came within 0\.3 s"):
        await target.arrived(NEW)
    assert not await target.is_running(NEW)
    await target.start(there)
    await wait_until_it_counts(target, NEW)
    assert (await counts(target, NEW))[0] == 0


async def test_a_target_that_cannot_bind_its_port_says_so(
    source: UnikernelRuntime, target: UnikernelRuntime, unikernel_image: Path
) -> None:
    """A published port that is taken on the address stops the waiting QEMU in its own words."""
    import socket

    with socket.create_server(("127.0.0.3", 0)) as taken:
        document = {"image": str(unikernel_image), "technology": "unikernel", "memory": 16}
        busy = workload(NEW, "127.0.0.3", **document, port=f"{taken.getsockname()[1]}:80")
        with pytest.raises(RuntimeFailure, match="forwarding rule"):
            await target.receive(busy)


async def test_a_target_that_cannot_note_where_it_waits_is_ended(
    target: UnikernelRuntime, there: Workload, tmp_path: Path
) -> None:
    """As on a full disk: no guest would come, and the image is booted afresh instead."""
    unwritable = tmp_path / "target" / "unikernel" / str(NEW) / "incoming.new"
    unwritable.mkdir(parents=True)
    with pytest.raises(OSError):
        await target.receive(there)
    assert target._run(NEW).process is None
    await target.start(there)
    await wait_until_it_counts(target, NEW)


async def test_a_pause_that_cannot_be_noted_is_told(
    source: UnikernelRuntime, target: UnikernelRuntime, there: Workload, tmp_path: Path
) -> None:
    """The guest has gone, whether or not the disk of the source takes a note of it."""
    uri = await target.receive(there)
    (tmp_path / "source" / "unikernel" / str(OLD) / "moved.new").mkdir()
    await source.send(OLD, "edge-b", uri, ignore)
    end = await end_of(source, OLD)
    assert end.is_moved
    assert "moved live to edge-b" in end.reason


async def test_a_restarted_source_worker_knows_that_its_guest_has_gone(
    source: UnikernelRuntime, target: UnikernelRuntime, there: Workload, tmp_path: Path
) -> None:
    """A worker process that ends while its guest goes leaves it to the next one to tell the move and the pause."""
    uri = await target.receive(there)
    source._run(OLD).note("target", "edge-b")
    from worker.runtime.migration import begin
    from worker.runtime.unikernel import _ask

    monitor = source._monitors[OLD]
    await begin(lambda command, arguments: _ask(monitor, command, arguments), uri)
    await source.close()
    later = new_runtime(tmp_path / "source")

    async def has_gone() -> bool:
        return not await later.is_running(OLD)

    try:
        await wait_until_async(has_gone, what="the guest has gone")
        left = await end_of(later, OLD)
    finally:
        await later.close()
    assert left.is_moved
    assert "moved live to edge-b, paused " in left.reason
    await target.arrived(NEW)
    await wait_until_it_counts(target, NEW)


async def test_a_target_worker_that_dies_before_it_tells_where_it_waits_leaves_no_empty_guest(
    target: UnikernelRuntime, there: Workload, tmp_path: Path
) -> None:
    """Nobody will send a guest there: the next worker ends that QEMU instead of calling it running."""
    await target.receive(there)
    (tmp_path / "target" / "unikernel" / str(NEW) / "incoming").unlink()
    await target.close()
    later = new_runtime(tmp_path / "target")
    try:
        assert await later.awaiting(NEW) == ""
        assert not await later.is_running(NEW)
    finally:
        await later.close()


async def test_a_restarted_target_worker_goes_on_waiting(
    source: UnikernelRuntime, target: UnikernelRuntime, there: Workload, tmp_path: Path
) -> None:
    """The waiting QEMU is found again at its address, and the guest still arrives there."""
    uri = await target.receive(there)
    await target.close()
    later = new_runtime(tmp_path / "target")
    try:
        assert await later.awaiting(NEW) == uri
        await asyncio.gather(source.send(OLD, "edge-b", uri, ignore), later.arrived(NEW))
        await wait_until_it_counts(later, NEW)
        assert await later.is_running(NEW)
    finally:
        await later.close()
