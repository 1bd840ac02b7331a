"""A real unikernel in a real QEMU."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testbed.runtimes import REF, end_of, run, wait_for_output, workload
from worker.runtime.base import RuntimeFailure, Workload
from worker.runtime.images import ImageCache
from worker.runtime.qemu import binary_here, boots
from worker.runtime.unikernel import UnikernelRuntime


def new_runtime(folder: Path) -> UnikernelRuntime:
    return UnikernelRuntime(folder / "unikernel", ImageCache(folder / "images"))


@pytest.fixture(name="runtime")
async def _runtime(tmp_path: Path, unikernel_image: Path) -> AsyncIterator[UnikernelRuntime]:
    runtime = new_runtime(tmp_path)
    yield runtime
    await runtime.kill(REF)
    await runtime.wait(REF)
    await runtime.remove(REF)
    await runtime.close()


@pytest.fixture(name="job")
def _job(unikernel_image: Path) -> Workload:
    return workload(image=str(unikernel_image), technology="unikernel", memory=16)


def guest(image: Path, *words: str) -> Workload:
    return workload(image=f"file://{image}", technology="unikernel", memory=16, cmd=list(words))


async def test_exit_code(runtime: UnikernelRuntime, unikernel_image: Path) -> None:
    """The guest's exit code through the debug device is the instance's; its serial line is the log."""
    await run(runtime, guest(unikernel_image, "exit=5", "colour=red"))
    assert (await end_of(runtime)).code == 5
    await wait_for_output(runtime, "unikernel: ")
    assert "exit=5 colour=red" in await wait_for_output(runtime, "colour")


async def test_exit_code_zero(runtime: UnikernelRuntime, unikernel_image: Path) -> None:
    """Code 0 is QEMU's status 1, which is not taken for a refusal."""
    await run(runtime, guest(unikernel_image, "exit=0"))
    assert (await end_of(runtime)).code == 0


async def test_service_counts_and_is_killed(runtime: UnikernelRuntime, job: Workload) -> None:
    """It runs until it is killed; a guest without power button does not end by being asked."""
    await run(runtime, job)
    await wait_for_output(runtime, "count 3")
    assert (await runtime.usage(REF)).memory_bytes > 1_000_000
    await runtime.stop(REF)
    await asyncio.sleep(0.3)
    assert await runtime.is_running(REF)
    await runtime.kill(REF)
    assert (await end_of(runtime)).code == 137
    assert not await runtime.is_running(REF)


async def test_another_worker_process_takes_the_guest_over(
    runtime: UnikernelRuntime, job: Workload, tmp_path: Path
) -> None:
    """The guest goes on counting meanwhile; the new worker has its control session and sees its end."""
    await run(runtime, job)
    await wait_for_output(runtime, "count 1")
    await runtime.close()
    later = new_runtime(tmp_path)
    try:
        assert await later.is_running(REF)
        await wait_for_output(later, "count 5")
        await later.kill(REF)
        assert (await end_of(later)).code == 137
    finally:
        await later.close()


async def test_status_zero_alone_is_no_success(runtime: UnikernelRuntime, job: Workload) -> None:
    """QEMU ended by a signal exits with 0: the reason that it gave counts."""
    await run(runtime, job)
    await wait_for_output(runtime, "count 0")
    process = runtime._run(REF).process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    end = await end_of(runtime)
    assert (end.code, end.reason) == (None, "QEMU: host-signal")


async def test_refusal_has_qemus_words(runtime: UnikernelRuntime, tmp_path: Path) -> None:
    """An image that QEMU cannot load fails the start with its own words."""
    image = tmp_path / "broken.elf"
    image.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(RuntimeFailure, match="qemu-system"):
        await run(runtime, workload(image=str(image), technology="unikernel"))


async def test_published_port_reaches_qemu(runtime: UnikernelRuntime, unikernel_image: Path) -> None:
    """User networking with a forwarded port: QEMU listens on the worker's address."""
    from testbed.ports import free_port, is_listening

    port = free_port("127.0.0.2")
    base = workload(image=str(unikernel_image), technology="unikernel", memory=16, port=f"{port}:80/tcp")
    await run(runtime, Workload(ref=REF, spec=base.spec, ip="127.0.0.2"))
    await wait_for_output(runtime, "count 0")
    assert is_listening(port, "127.0.0.2")
    assert not is_listening(port, "127.0.0.1")


async def test_a_socket_that_does_not_listen_yet_is_waited_for(tmp_path: Path, unikernel_image: Path) -> None:
    """QEMU makes its socket a moment before it listens on it; a worker that is quicker asks again."""
    slow = tmp_path / Path(binary_here()).name
    bind = "import socket, time; socket.socket(socket.AF_UNIX).bind('qmp'); time.sleep(0.5)"
    is_run = 'case "$*" in *unix:qmp*)'
    slow.write_text(f'#!/bin/sh\n{is_run} {sys.executable} -c "{bind}";; esac\nexec {binary_here()} "$@"\n')
    slow.chmod(0o755)
    runtime = UnikernelRuntime(tmp_path / "unikernel", ImageCache(tmp_path / "images"), str(slow))
    await run(runtime, guest(unikernel_image, "exit=3"))
    assert (await end_of(runtime)).code == 3
    await runtime.close()


_HANGS_UP = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind("qmp")
server.listen()
server.accept()[0].close()
time.sleep(1.0)
sys.exit("qemu-system: the last words")
"""


@pytest.mark.parametrize("is_incoming", [False, True])
async def test_a_qemu_that_hangs_up_is_waited_for(tmp_path: Path, unikernel_image: Path, is_incoming: bool) -> None:
    """On a busy machine it ends a good while after its socket did: the failure is told in its words all the same."""
    slow = tmp_path / Path(binary_here()).name
    (tmp_path / "hangs_up.py").write_text(_HANGS_UP)
    hangs_up = f'case "$*" in *unix:qmp*) exec {sys.executable} {tmp_path}/hangs_up.py;; esac'
    slow.write_text(f'#!/bin/sh\n{hangs_up}\nexec {binary_here()} "$@"\n')
    slow.chmod(0o755)
    runtime = UnikernelRuntime(tmp_path / "unikernel", ImageCache(tmp_path / "images"), str(slow))
    begin = runtime.receive if is_incoming else runtime.start
    for _ in range(2):  # nothing of it is in the way of the next try
        with pytest.raises(RuntimeFailure, match="qemu-system: the last words"):
            await begin(guest(unikernel_image, "exit=3"))
    assert not await runtime.is_running(REF)
    await runtime.close()


async def test_a_qemu_too_busy_to_answer_is_not_in_the_way_of_the_next_try(
    tmp_path: Path, unikernel_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer in time is ended, and gone, before the failure is told."""
    busy = tmp_path / "qemu-busy"
    busy.write_text("#!/bin/sh\nexec sleep 1000\n")
    busy.chmod(0o755)
    runtime = UnikernelRuntime(tmp_path / "unikernel", ImageCache(tmp_path / "images"), binary=str(busy))
    monkeypatch.setattr("worker.runtime.unikernel.CONNECT_TIMEOUT_S", 0.3)
    for begin in (runtime.receive, runtime.start):
        await runtime.prepare(guest(unikernel_image), lambda _: None)
        with pytest.raises(RuntimeFailure, match="did not answer"):
            await begin(guest(unikernel_image))
        assert not runtime._run(REF)._is_locked()
    await runtime.close()


async def test_long_data_folders_are_no_problem(tmp_path: Path, unikernel_image: Path) -> None:
    """A socket's path may have 107 bytes; the data folder may be deeper."""
    runtime = new_runtime(tmp_path / ("d" * 100) / ("e" * 100))
    await run(runtime, guest(unikernel_image, "exit=2"))
    assert (await end_of(runtime)).code == 2
    await runtime.close()


@pytest.mark.real("qemu")
async def test_the_probe_boot_runs_code() -> None:
    """The guest of the accelerator's probe really runs under TCG; an accelerator that is none fails."""
    assert await boots(binary_here(), "tcg")
    assert not await boots(binary_here(), "no-such-accelerator")


async def test_missing_qemu_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words say what would enable unikernels."""
    monkeypatch.setattr("worker.runtime.unikernel.binary_here", lambda: "")
    assert "apt-get install qemu-system-x86" in await new_runtime(tmp_path).unavailable()


@pytest.mark.real("binutils")
async def test_the_probe_guest_is_built_from_its_source(tmp_path: Path) -> None:
    """The 264 bytes beside probe.S are what `as` and `ld` make of it."""
    from worker.runtime.qemu import PROBE_GUEST

    for argv in (
        ["as", "--32", str(PROBE_GUEST.with_suffix(".S")), "-o", "probe.o"],
        ["ld", "-m", "elf_i386", "-Ttext=0x100000", "--oformat", "binary", "probe.o", "-o", "probe.bin"],
    ):
        builder = await asyncio.create_subprocess_exec(*argv, cwd=tmp_path)
        assert await builder.wait() == 0
    assert (tmp_path / "probe.bin").read_bytes() == PROBE_GUEST.read_bytes()
