"""WASI modules in runners of their own, on the real wasmtime."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testbed import modules
from testbed.modules import write
from testbed.runtimes import REF, end_of, ignore, output_of, run, wait_for_output, workload
from testbed.waiting import wait_until_async
from worker.runtime import detached
from worker.runtime.base import RuntimeFailure
from worker.runtime.images import ImageCache
from worker.runtime.wasm import WasmRuntime


def new_runtime(folder: Path) -> WasmRuntime:
    return WasmRuntime(folder / "wasm", ImageCache(folder / "images"))


@pytest.fixture(name="runtime")
async def _runtime(tmp_path: Path) -> AsyncIterator[WasmRuntime]:
    runtime = new_runtime(tmp_path)
    yield runtime
    await runtime.kill(REF)
    await runtime.remove(REF)


async def test_one_shot_prints_and_completes(runtime: WasmRuntime) -> None:
    """The bundled one-shot ends with status 0 and its line is in the log."""
    await run(runtime, workload(image="builtin:hello-once", technology="wasm"))
    assert (await end_of(runtime)).code == 0
    assert await output_of(runtime) == "hello from wasm, once\n"


async def test_exit_code_and_arguments(runtime: WasmRuntime, tmp_path: Path) -> None:
    """The module's exit status arrives; it gets its name and its arguments."""
    image = write(tmp_path, modules.EXIT_WITH_ARGUMENT_COUNT)
    await run(runtime, workload(image=image, technology="wasm", cmd=["a", "b"]))
    assert (await end_of(runtime)).code == 3


async def test_trap_has_a_reason(runtime: WasmRuntime, tmp_path: Path) -> None:
    """A trap ends with 134 and the words of the engine."""
    await run(runtime, workload(image=write(tmp_path, modules.TRAP), technology="wasm"))
    end = await end_of(runtime)
    assert end.code == 134
    assert "unreachable" in end.reason


async def test_something_that_is_no_module(runtime: WasmRuntime, tmp_path: Path) -> None:
    """The reason says so."""
    await run(runtime, workload(image=write(tmp_path, "hello"), technology="wasm"))
    end = await end_of(runtime)
    assert end.code == 126
    assert "not a module" in end.reason


@pytest.mark.parametrize(("megabytes", "code"), [(None, 0), (32, 1)])
async def test_memory_limit(runtime: WasmRuntime, tmp_path: Path, megabytes: int | None, code: int) -> None:
    """Growing by 100 MB fails under a limit of 32 MB, and only there."""
    job = workload(image=write(tmp_path, modules.GROW), technology="wasm", memory=megabytes)
    await run(runtime, job)
    assert (await end_of(runtime)).code == code


async def test_missing_images_are_final(runtime: WasmRuntime) -> None:
    """No further try can find them; the bundled ones are named."""
    for image, words in (("/no/such/file.wasm", "no image file"), ("builtin:no", "builtin:hello-once")):
        with pytest.raises(RuntimeFailure, match=words) as failure:
            await runtime.prepare(workload(image=image, technology="wasm"), ignore)
        assert failure.value.is_final


async def test_stop_kill_and_usage(runtime: WasmRuntime) -> None:
    """A service runs, is measured, and ends on request; stopping it again does no harm."""
    await run(runtime, workload(image="builtin:hello", technology="wasm"))
    await wait_for_output(runtime, "hello from wasm")
    usage = await runtime.usage(REF)
    assert usage.memory_bytes > 1_000_000
    assert "hello from wasm" in usage.last_words
    await runtime.stop(REF)
    end = await end_of(runtime)
    assert (end.code, end.reason) == (143, "ended by SIGTERM")
    await runtime.stop(REF)
    await runtime.kill(REF)
    assert not await runtime.is_running(REF)
    assert (await runtime.usage(REF)).memory_bytes == 0


async def test_another_worker_process_finds_it_again(runtime: WasmRuntime, tmp_path: Path) -> None:
    """A runtime that knows nothing but the folder finds the module running, and later its end."""
    await run(runtime, workload(image="builtin:hello", technology="wasm"))
    later = new_runtime(tmp_path)
    assert await later.is_running(REF)
    await later.kill(REF)
    assert (await end_of(later)).code == 137
    assert (await end_of(new_runtime(tmp_path))).code == 137


async def test_a_start_that_its_worker_did_not_live_to_see_is_waited_for(
    runtime: WasmRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed while its process has noted nothing yet: the next one finds it, and starts no second one."""
    monkeypatch.setattr(detached, "_SHIM", "touch begun; sleep 0.5\n" + detached._SHIM)
    job = workload(image="builtin:hello", technology="wasm")
    await runtime.prepare(job, ignore)
    starting = asyncio.create_task(runtime.start(job))
    await wait_until_async((tmp_path / "wasm" / str(REF) / "begun").exists)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    later = new_runtime(tmp_path)
    with pytest.raises(RuntimeFailure, match="has not ended yet"):
        await new_runtime(tmp_path).start(job)
    assert await later.is_running(REF)
    await later.kill(REF)
    assert (await end_of(later)).code == 137
    assert not await later.is_running(REF)


async def test_a_start_that_came_to_nothing_is_not_waited_for(runtime: WasmRuntime, tmp_path: Path) -> None:
    """A worker is killed before it started a process: nothing runs, and nobody waits for that."""
    folder = tmp_path / "wasm" / str(REF)
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    assert not await runtime.is_running(REF)
    assert not (await end_of(runtime)).is_outcome_known


async def test_what_left_no_trace_has_an_unknown_outcome(runtime: WasmRuntime) -> None:
    """Nobody knows how a run ended whose folder is gone."""
    assert not (await end_of(runtime)).is_outcome_known


async def test_logs_follow_until_the_end(runtime: WasmRuntime) -> None:
    """A follower gets the last lines, then what comes, then the end."""
    await run(runtime, workload(image="builtin:hello", technology="wasm"))
    await wait_for_output(runtime, "hello")

    async def follow() -> bytes:
        return b"".join([piece async for piece in runtime.logs(REF, follow=True, tail=1)])

    follower = asyncio.create_task(follow())
    await wait_for_output(runtime, "still here")
    await runtime.kill(REF)
    assert b"still here\n" in await asyncio.wait_for(follower, 10)


async def test_cpu_limit_without_control_groups(
    runtime: WasmRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that spins gets about its share by a duty cycle."""
    monkeypatch.setattr("worker.runtime.cgroups.limit_cpu", lambda *_: ())
    await run(runtime, workload(image=write(tmp_path, modules.SPIN), technology="wasm", vcpus=0.2))
    assert 0.05 < await _cores_used(runtime) < 0.4


@pytest.mark.real("control groups")
async def test_cpu_limit_with_control_groups(runtime: WasmRuntime, tmp_path: Path) -> None:
    """As root a control group holds it back, and goes away with it."""
    await run(runtime, workload(image=write(tmp_path, modules.SPIN), technology="wasm", vcpus=0.2))
    assert 0.05 < await _cores_used(runtime) < 0.4


async def _cores_used(runtime: WasmRuntime) -> float:
    """Of one core, after the runner has loaded its engine."""
    import os

    await asyncio.sleep(1.5)
    await runtime.usage(REF)
    begin = time.monotonic()
    await asyncio.sleep(2)
    percent = (await runtime.usage(REF)).cpu_percent
    assert time.monotonic() - begin >= 2
    return percent / 100 * (os.cpu_count() or 1)
