"""Containers on a real engine."""

import asyncio
import threading
import time
import urllib.request
from collections.abc import AsyncIterator

import pytest
from docker.models.containers import ContainerCollection

from testbed.docker_engine import DockerEngine
from testbed.ports import free_port
from testbed.runtimes import REF, end_of, ignore, output_of, run, wait_for_output, workload
from testbed.waiting import wait_until_async
from worker.records import Ref
from worker.runtime.base import RuntimeFailure, Workload
from worker.runtime.docker import DockerRuntime

SLEEP = ["sh", "-c", "trap 'exit 5' TERM; echo up; while true; do sleep 0.1; done"]


@pytest.fixture(name="runtime")
async def _runtime(docker_engine: DockerEngine) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime(docker_engine.url, "installation-1")
    yield runtime
    with docker_engine.client() as client:
        for container in client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True)
    await runtime.close()


def shell(script: str, **document: object) -> Workload:
    return workload(cmd=["sh", "-c", script], **document)


async def test_availability(runtime: DockerRuntime) -> None:
    """A running engine is available; of a missing one the words say what would enable it."""
    assert await runtime.unavailable() == ""
    assert "install docker" in await DockerRuntime("unix:///no/such.sock", "i").unavailable()


async def test_exit_code_and_logs(runtime: DockerRuntime) -> None:
    """A container's exit status and its output, of which the tail can be asked for."""
    await run(runtime, shell("echo one; echo two >&2; echo three; exit 7"))
    end = await end_of(runtime)
    assert (end.code, end.is_outcome_known) == (7, True)
    assert sorted((await output_of(runtime)).split()) == ["one", "three", "two"]
    assert len((await output_of(runtime, tail=1)).split()) == 1


async def test_name_labels_and_environment(runtime: DockerRuntime, docker_engine: DockerEngine) -> None:
    """The name is that of the deployed ecosystem; labels say whose it is."""
    await run(runtime, shell("echo $GREETING; sleep 60", environment=["GREETING=hi"], name="shop.web"))
    await wait_for_output(runtime, "hi")
    with docker_engine.client() as client:
        container = client.containers.get("shop.web.instance.0")
        assert container.labels["cluster.job_id"] == "job"
        assert container.labels["cluster.generation"] == "1"
        assert container.labels["cluster.worker"] == "installation-1"


async def test_stop_asks_politely(runtime: DockerRuntime) -> None:
    """The container gets SIGTERM and ends by itself."""
    await run(runtime, workload(cmd=SLEEP))
    await wait_for_output(runtime, "up")
    await runtime.stop(REF)
    assert (await end_of(runtime)).code == 5
    await runtime.stop(REF)


async def test_kill_and_remove(runtime: DockerRuntime, docker_engine: DockerEngine) -> None:
    """SIGKILL ends what does not listen; nothing is left after the removal."""
    await run(runtime, shell("trap '' TERM; echo up; while true; do sleep 0.1; done"))
    await wait_for_output(runtime, "up")
    await runtime.stop(REF)
    await asyncio.sleep(0.3)
    assert await runtime.is_running(REF)
    await runtime.kill(REF)
    assert (await end_of(runtime)).code == 137
    await runtime.remove(REF)
    with docker_engine.client() as client:
        assert client.containers.list(all=True) == []
    assert not (await end_of(runtime)).is_outcome_known


async def test_memory_limit_and_out_of_memory(runtime: DockerRuntime) -> None:
    """Beyond its memory a container is killed, and the reason says so."""
    await run(runtime, shell("x=a; while true; do x=$x$x; done", memory=16))
    end = await end_of(runtime)
    assert end.code == 137
    assert end.reason == "out of memory"


async def test_cpu_limit_and_usage(runtime: DockerRuntime) -> None:
    """A spinning container gets its share, as the usage shows."""
    import os

    await run(runtime, shell("while true; do :; done", vcpus=0.3))
    await runtime.usage(REF)
    begin = time.monotonic()
    await asyncio.sleep(2)
    usage = await runtime.usage(REF)
    cores = usage.cpu_percent / 100 * (os.cpu_count() or 1)
    assert time.monotonic() > begin
    assert 0.15 < cores < 0.45
    assert usage.memory_bytes > 0


async def test_usage_tells_what_it_wrote_to_disk_and_said_last(runtime: DockerRuntime) -> None:
    """The bytes of its own layer, and the end of its output within bounds however much that is."""
    await run(
        runtime, shell("dd if=/dev/zero of=/x bs=1024 count=300; yes line | head -n 5000; echo the end; sleep 60")
    )
    await wait_for_output(runtime, "the end")
    usage = await runtime.usage(REF)
    assert usage.disk_bytes >= 300 * 1024
    assert usage.last_words.endswith("line\nthe end\n")
    assert len(usage.last_words) <= 1024


async def test_usage_without_readable_control_groups(runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the engine itself is asked."""
    monkeypatch.setattr("worker.runtime.cgroups.figures_of", lambda *_: None)
    await run(runtime, shell("while true; do :; done"))
    await runtime.usage(REF)
    await asyncio.sleep(0.5)
    usage = await runtime.usage(REF)
    assert usage.cpu_percent > 1
    assert usage.memory_bytes > 0


async def test_ports_are_bound_to_the_workers_address(runtime: DockerRuntime) -> None:
    """Two workers on one machine, each with its own address, publish the same port."""
    port, other = free_port(), Ref("job", 1, 1)
    script = "echo $WHO > /tmp/index.html; httpd -f -p 80 -h /tmp"
    await run(runtime, shell(script, port=f"{port}:80/tcp", environment=["WHO=two"]))
    job = shell(script, port=f"{port}:80/tcp", environment=["WHO=three"])
    await run(runtime, Workload(ref=other, spec=job.spec, ip="127.0.0.3"))
    assert await runtime.address(shell(script, port=f"{port}:80/tcp"), 80) == ("127.0.0.1", port)
    for address, who in (("127.0.0.1", b"two"), ("127.0.0.3", b"three")):
        assert await wait_until_async(lambda a=address: _get(f"http://{a}:{port}/")) == who + b"\n"


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            body: bytes = answer.read()
            return body
    except OSError:
        return b""


async def test_execute(runtime: DockerRuntime) -> None:
    """A command inside answers its status; one that takes too long, or dies with its container, fails in time."""
    await run(runtime, shell("sleep 60"))
    assert await runtime.execute(REF, ("sh", "-c", "exit 3"), 5) == (3, "")
    assert (await runtime.execute(REF, ("sleep", "3"), 0.2))[0] == 124
    dying = asyncio.create_task(runtime.execute(REF, ("sleep", "60"), 5))
    await asyncio.sleep(0.3)
    await runtime.kill(REF)
    assert (await dying)[0] != 0


async def test_image_that_is_there_is_never_pulled(runtime: DockerRuntime) -> None:
    """A local image needs no registry; a missing one fails with the engine's words and may be tried again."""
    await runtime.prepare(workload(image="local/busybox:1"), ignore)
    with pytest.raises(RuntimeFailure) as failure:
        await runtime.prepare(workload(image="no.such.host.invalid/image:1"), ignore)
    assert not failure.value.is_final


async def test_bad_command_fails_with_the_engines_words(runtime: DockerRuntime, docker_engine: DockerEngine) -> None:
    """A program that is not in the image is told, and no container stays behind."""
    with pytest.raises(RuntimeFailure, match="no-such-program"):
        await run(runtime, workload(cmd=["/no-such-program"]))
    with docker_engine.client() as client:
        assert client.containers.list(all=True) == []


async def test_a_taken_name_is_got_around(runtime: DockerRuntime, docker_engine: DockerEngine) -> None:
    """Job names are not unique: a second container of the same name gets its generation appended."""
    await run(runtime, shell("sleep 60"))
    other = Ref("other-job", 0, 5)
    await run(runtime, Workload(ref=other, spec=shell("sleep 60").spec, ip="127.0.0.1"))
    with docker_engine.client() as client:
        names = {container.name for container in client.containers.list()}
    assert names == {"web.instance.0", "web.instance.0.5"}


async def test_another_worker_process_finds_it_again(runtime: DockerRuntime, docker_engine: DockerEngine) -> None:
    """By its labels, and only its own; the end is noticed by the new one."""
    await run(runtime, workload(cmd=SLEEP))
    later, stranger = DockerRuntime(docker_engine.url, "installation-1"), DockerRuntime(docker_engine.url, "another")
    try:
        assert await later.is_running(REF)
        assert not await stranger.is_running(REF)
        waiting = asyncio.create_task(end_of(later))
        await asyncio.sleep(0.3)
        await later.kill(REF)
        assert (await waiting).code == 137
    finally:
        await later.close()
        await stranger.close()


async def test_a_container_that_its_worker_did_not_live_to_start_is_started(
    runtime: DockerRuntime, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created, and the worker was killed: the next one starts it, whether the order to start it arrived or not."""
    with monkeypatch.context() as patch:
        patch.setattr("docker.models.containers.Container.start", lambda _: None)
        await run(runtime, workload(cmd=SLEEP))
    later = DockerRuntime(docker_engine.url, "installation-1")
    try:
        assert await later.is_running(REF)
    finally:
        await later.close()
    with docker_engine.client() as client:
        assert len(client.containers.list(all=True)) == 1


async def test_a_container_that_vanishes_is_missed_by_several_threads_at_once(
    runtime: DockerRuntime, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its usage, its end and its removal are asked for side by side: each finds it gone, none breaks."""
    await run(runtime, workload(cmd=SLEEP))
    await runtime.kill(REF)
    await end_of(runtime)
    with docker_engine.client() as client:
        client.containers.get(runtime._ids[REF]).remove(force=True)
    both = threading.Barrier(2, timeout=30.0)
    real = ContainerCollection.get

    def together(self: ContainerCollection, name: str) -> object:
        try:
            return real(self, name)
        finally:
            both.wait()

    monkeypatch.setattr(ContainerCollection, "get", together)
    assert await asyncio.gather(*(asyncio.to_thread(runtime._find, REF) for _ in range(2))) == [None, None]


async def test_engine_restart_is_tolerated(runtime: DockerRuntime, docker_engine: DockerEngine) -> None:
    """While the engine is away nothing is judged; an end meanwhile is noticed when it is back."""
    await run(runtime, shell("sleep 2; exit 4"))
    waiting = asyncio.create_task(end_of(runtime))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(docker_engine.restart)
    assert (await asyncio.wait_for(waiting, 30)).code == 4
