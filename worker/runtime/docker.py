"""Containers through the docker SDK, which is imported at the first container and not before: it weighs 10 MB."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import structlog

from worker.records import Exit, Ref
from worker.runtime import cgroups
from worker.runtime.base import Progress, RuntimeFailure, Usage, Workload, last_words_of
from worker.runtime.docker_options import LABEL_REF, LABEL_WORKER, container_name, create_options, exit_of, is_running
from worker.runtime.docker_watch import ExitWatch
from worker.runtime.ports import published_address

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

T = TypeVar("T")
LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
ENGINE_TIMEOUT_S: Final = 30
PING_TIMEOUT_S: Final = 2.0
RECHECK_S: Final = 60.0
RETRY_S: Final = 2.0
SIZES_PERIOD_S: Final = 60.0
LAST_LINES: Final = 10
_CORES: Final = os.cpu_count() or 1


class DockerRuntime:
    """One engine, reached at `host`; containers carry labels with their Ref and with `installation`, this worker."""

    technology = "docker"

    def __init__(self, host: str, installation: str) -> None:
        self._host = host
        self._installation = installation
        self._client: docker.DockerClient | None = None
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="docker")
        self._pulls = ThreadPoolExecutor(2, thread_name_prefix="docker-pull")
        self._watch: ExitWatch | None = None
        self._ids: dict[Ref, str] = {}
        self._pids: dict[Ref, int] = {}
        self._last_cpu: dict[Ref, tuple[float, float]] = {}
        self._sizes: dict[str, int] = {}
        self._sizes_due_s = 0.0
        self._lock = threading.Lock()

    async def unavailable(self) -> str:
        """Whether an engine answers a ping, asked without the SDK."""
        if await asyncio.to_thread(_pings, self._host):
            return ""
        return f"no container engine answers at {self._host}; install docker, or set DOCKER_HOST, to enable docker"

    async def prepare(self, workload: Workload, progress: Progress) -> None:
        """Pull the image, unless the engine has it."""
        loop = asyncio.get_running_loop()

        def tell(words: str) -> None:
            loop.call_soon_threadsafe(progress, words)

        await self._call(partial(self._pull, workload.spec.image, tell), self._pulls)

    async def start(self, workload: Workload) -> None:
        """Create and start the container `{job_name}.instance.{n}`."""
        await self._call(partial(self._create, workload))

    async def is_running(self, ref: Ref) -> bool:
        """Whether its container runs; an engine that does not answer is waited for.

        One that was created and not started is started now: an earlier worker process may have asked for it with its
        last breath, so that it would start unseen in a moment.
        """
        container = await self._patiently(partial(self._find, ref))
        if container is not None and container.attrs["State"]["Status"] == "created":
            with contextlib.suppress(RuntimeFailure):
                await self._call(container.start)
            container = await self._patiently(partial(self._find, ref))
        return container is not None and is_running(container.attrs)

    async def wait(self, ref: Ref) -> Exit:
        """Woken by the engine's events, of which one thread reads all."""
        watch = self._watching()
        while True:
            with watch.expecting(str(ref)) as woken:
                container = await self._patiently(partial(self._find, ref))
                if container is None:
                    return Exit(reason="its container is gone", is_outcome_known=False)
                if not is_running(container.attrs):
                    return exit_of(container.attrs)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RECHECK_S):
                        await woken.wait()

    async def stop(self, ref: Ref) -> None:
        """The image's stop signal, SIGTERM by default."""
        await self._call(partial(self._signal, ref, is_kill=False))

    async def kill(self, ref: Ref) -> None:
        """SIGKILL."""
        await self._call(partial(self._signal, ref, is_kill=True))

    async def remove(self, ref: Ref) -> None:
        """Remove the container and its anonymous volumes."""
        await self._call(partial(self._remove, ref))
        for known in (self._ids, self._pids, self._last_cpu):
            known.pop(ref, None)

    async def logs(self, ref: Ref, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """Standard output and error, in one."""
        container = await self._call(partial(self._find, ref))
        if container is None:
            return
        count: int | str = "all" if tail is None else tail
        stream = await self._call(partial(container.logs, stream=True, follow=follow, tail=count))
        pool = ThreadPoolExecutor(1, thread_name_prefix="docker-logs")
        try:
            while (chunk := await asyncio.get_running_loop().run_in_executor(pool, next, stream, None)) is not None:
                yield chunk
        finally:
            stream.close()
            pool.shutdown(wait=False)

    async def address(self, workload: Workload, port: int) -> tuple[str, int]:
        """Where the port was published; else the container's own address."""
        published = published_address(workload.spec.ports, workload.ip, port)
        if published:
            return published
        container = await self._call(partial(self._find, workload.ref))
        networks = container.attrs["NetworkSettings"]["Networks"].values() if container else ()
        own = next((str(network["IPAddress"]) for network in networks if network.get("IPAddress")), workload.ip)
        return own, port

    async def usage(self, ref: Ref) -> Usage:
        """From the control group's files where they are readable, else one sample from the engine."""
        if ref not in self._ids:
            return Usage()
        try:
            cpu_s, memory_bytes = await self._figures(ref)
        except RuntimeFailure:
            return Usage()
        now = time.monotonic()
        before = self._last_cpu.get(ref)
        self._last_cpu[ref] = (now, cpu_s)
        percent = 0.0 if before is None else max(0.0, (cpu_s - before[1]) / (now - before[0]) / _CORES * 100)
        last_words, disk_bytes = await self._last_words(ref), await self._disk_bytes(ref)
        return Usage(cpu_percent=percent, memory_bytes=memory_bytes, disk_bytes=disk_bytes, last_words=last_words)

    async def _last_words(self, ref: Ref) -> str:
        """What it wrote last; nothing where its log driver cannot be read."""
        try:
            return last_words_of(await self._call(partial(self._tail, ref)))
        except RuntimeFailure:
            return ""

    async def _disk_bytes(self, ref: Ref) -> int:
        """What it wrote into its own layer; the engine walks all of it to find out, so it is asked seldom."""
        if time.monotonic() >= self._sizes_due_s:
            self._sizes_due_s = time.monotonic() + SIZES_PERIOD_S
            with contextlib.suppress(RuntimeFailure):
                self._sizes = await self._call(self._measure, self._pulls)
        return self._sizes.get(str(ref), 0)

    async def execute(self, ref: Ref, command: tuple[str, ...], timeout_s: float) -> tuple[int, str]:
        """Run a command in the container; its output is not read.

        Detached and asked for, because the SDK waits for ever for the output in a container that dies meanwhile.
        """
        try:
            async with asyncio.timeout(timeout_s):
                exec_id = await self._call(partial(self._execute, ref, command))
                pause_s = 0.01
                while (status := await self._call(partial(self._exec_status, exec_id))) is None:
                    await asyncio.sleep(pause_s)
                    pause_s = min(0.2, pause_s * 2)
                return (status, "")
        except TimeoutError:
            return (124, f"no answer within {timeout_s:g} s")

    async def close(self) -> None:
        """End the threads and the connections."""
        if self._watch:
            self._watch.close()
        for pool in (self._pool, self._pulls):
            pool.shutdown(wait=False, cancel_futures=True)
        if self._client:
            self._client.close()

    # -- in threads -------------------------------------------------------------------------------------------------

    def _engine(self) -> docker.DockerClient:
        import docker

        with self._lock:
            if self._client is None:
                self._client = docker.DockerClient(base_url=self._host, timeout=ENGINE_TIMEOUT_S, max_pool_size=8)
            return self._client

    def _pull(self, image: str, tell: Callable[[str], object]) -> None:
        import docker

        engine = self._engine()
        try:
            engine.images.get(image)
            return
        except docker.errors.ImageNotFound:
            tell(f"pulling {image}")
        name, tag = _split_tag(image)
        layers: dict[str, tuple[int, int]] = {}
        told = time.monotonic()
        for line in engine.api.pull(name, tag=tag, stream=True, decode=True):
            if "error" in line:
                raise RuntimeFailure(f"cannot pull {image}: {line['error']}")
            sizes = line.get("progressDetail") or {}
            if sizes.get("total"):
                layers[line.get("id", "")] = (sizes.get("current", 0), sizes["total"])
            if time.monotonic() - told >= 1 and layers:
                told = time.monotonic()
                done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                tell(f"pulling {image}: {done} of {total} bytes")

    def _create(self, workload: Workload) -> None:
        import docker

        engine = self._engine()
        self._remove(workload.ref)
        options = create_options(workload, self._installation)
        name = container_name(workload)
        try:
            container = engine.containers.create(workload.spec.image, name=name, **options)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            other = f"{name}.{workload.ref.generation}"
            LOG.warning("the container's name is taken", name=name, used_instead=other)
            container = engine.containers.create(workload.spec.image, name=other, **options)
        try:
            container.start()
        except docker.errors.APIError:
            container.remove(force=True)
            raise
        self._ids[workload.ref] = container.id or ""
        self._pids.pop(workload.ref, None)
        self._last_cpu.pop(workload.ref, None)

    def _find(self, ref: Ref) -> Container | None:
        import docker

        engine = self._engine()
        known = self._ids.get(ref)
        if known:
            try:
                return engine.containers.get(known)
            except docker.errors.NotFound:
                self._ids.pop(ref, None)  # another thread may have found out as well
                return None
        labels = [f"{LABEL_REF}={ref}", f"{LABEL_WORKER}={self._installation}"]
        found = engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        if not found:
            return None
        self._ids[ref] = found[0].id or ""
        return found[0]

    def _signal(self, ref: Ref, *, is_kill: bool) -> None:
        import docker

        container = self._find(ref)
        if container is None or not is_running(container.attrs):
            return
        signal = "SIGKILL" if is_kill else container.attrs["Config"].get("StopSignal") or "SIGTERM"
        with contextlib.suppress(docker.errors.NotFound):
            try:
                container.kill(signal=signal)
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise

    def _remove(self, ref: Ref) -> None:
        import docker

        container = self._find(ref)
        if container is not None:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
            self._ids.pop(ref, None)

    def _execute(self, ref: Ref, command: tuple[str, ...]) -> str:
        container = self._find(ref)
        if container is None:
            raise RuntimeFailure("its container is gone")
        api = self._engine().api
        exec_id = str(api.exec_create(container.id or "", list(command), stdout=False, stderr=False)["Id"])
        api.exec_start(exec_id, detach=True)
        return exec_id

    def _exec_status(self, exec_id: str) -> int | None:
        found = self._engine().api.exec_inspect(exec_id)
        return None if found["Running"] else int(1 if found["ExitCode"] is None else found["ExitCode"])

    async def _figures(self, ref: Ref) -> tuple[float, int]:
        if ref not in self._pids:
            self._pids[ref] = await self._call(partial(self._pid, ref))
        figures = cgroups.figures_of(self._pids[ref]) if self._pids[ref] else None
        return await self._call(partial(self._sample, ref)) if figures is None else figures

    def _pid(self, ref: Ref) -> int:
        container = self._find(ref)
        return int(container.attrs["State"].get("Pid") or 0) if container else 0

    def _sample(self, ref: Ref) -> tuple[float, int]:
        container = self._find(ref)
        if container is None:
            return (0.0, 0)
        sample = self._engine().api.stats(container.id or "", stream=False, one_shot=True)
        return sample["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, int(sample["memory_stats"].get("usage", 0))

    def _tail(self, ref: Ref) -> bytes:
        container = self._find(ref)
        return b"" if container is None else bytes(container.logs(tail=LAST_LINES))

    def _measure(self) -> dict[str, int]:
        ours = {"label": f"{LABEL_WORKER}={self._installation}"}
        found = self._engine().api.containers(size=True, filters=ours)
        return {item["Labels"].get(LABEL_REF, ""): int(item.get("SizeRw") or 0) for item in found}

    # -- between threads and the loop -------------------------------------------------------------------------------

    def _watching(self) -> ExitWatch:
        if self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = ExitWatch(self._host, f"{LABEL_WORKER}={self._installation}", loop)
        return self._watch

    async def _call(self, function: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        """Run a blocking call of the SDK; its errors become RuntimeFailure."""
        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, _translated, function)

    async def _patiently(self, function: Callable[[], T]) -> T:
        """As `_call`, again and again while the engine does not answer."""
        is_told = False
        while True:
            try:
                return await self._call(function)
            except RuntimeFailure as error:
                if not is_told:
                    LOG.warning("the container engine does not answer", why=error.reason)
                is_told = True
                await asyncio.sleep(RETRY_S)


def _translated(function: Callable[[], T]) -> T:
    import docker
    import requests

    try:
        return function()
    except docker.errors.APIError as error:
        is_refused = error.status_code in (400, 404)
        raise RuntimeFailure(str(error.explanation or error), is_final=is_refused) from None
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise RuntimeFailure(f"the container engine does not answer: {error}") from None


def _split_tag(image: str) -> tuple[str, str | None]:
    """`name:tag` apart; a digest belongs to the name; without either the tag is `latest`."""
    if "@" in image:
        return image, None
    name, colon, tag = image.rpartition(":")
    if colon and "/" not in tag:
        return name, tag
    return image, "latest"


def _pings(host: str) -> bool:
    parts = urlsplit(host)
    is_unix = parts.scheme in ("unix", "")
    try:
        with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET) as probe:
            probe.settimeout(PING_TIMEOUT_S)
            probe.connect(parts.path if is_unix else (parts.hostname or "127.0.0.1", parts.port or 2375))
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in b"".join(_all_of(probe)).split(b"\r\n", 1)[0]
    except OSError:
        return False


def _all_of(probe: socket.socket) -> Iterator[bytes]:
    while chunk := probe.recv(4096):
        yield chunk
