"""A process that cannot log, whatever it is that takes no lines, serves, goes on and ends in order."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterctl.layout import Layout
from testbed.cluster import HOST, Cluster
from testbed.disks import fill, small_disk
from testbed.leftovers import kill_processes_mentioning
from testbed.netns import scratch_folder
from testbed.ports import free_offset, free_port, is_listening
from testbed.processes import REPOSITORY, Process
from testbed.waiting import wait_until

pytestmark = [pytest.mark.real("small disk"), pytest.mark.timeout(300)]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
OURS = ("manager", "scheduler", "gateway", "worker", "clusterctl.broker")


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


@pytest.fixture(name="disk")
def _disk(folder: Path) -> Iterator[Path]:
    with small_disk(folder / "disk", 1) as disk:
        yield disk


class Lonely:
    """One of our processes without the others: it has something to complain about from its first second."""

    def __init__(self, module: str, folder: Path) -> None:
        self.port = free_port()
        environment = Cluster(folder, is_embedded=True).parts["manager"].env
        environment |= {name: str(self.port) for name in ("MANAGER_PORT", "SCHEDULER_PORT", "GATEWAY_PORT")}
        environment |= {"WORKER_PORT": str(self.port), "WORKER_DATA_DIR": str(folder / "w"), "WORKER_IP": HOST}
        environment |= {"MQTT_BROKER_PORT": str(free_port()), "GATEWAY_URL": f"http://{HOST}:{free_port()}"}
        self._environment = environment
        self._argv = [sys.executable, "-P", "-m", module]
        self._argv += ["--port", str(self.port)] if module == "clusterctl.broker" else []

    @contextlib.contextmanager
    def running(self, output: int, shell: str = 'exec "$@"') -> Iterator["subprocess.Popen[bytes]"]:
        """The process, serving, with both of its outputs going to `output`, or where `shell` says."""
        command = ["sh", "-c", shell, "sh", *self._argv]
        with subprocess.Popen(
            command, env=self._environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as child:
            try:
                wait_until(lambda: child.poll() is not None or self._serves(child.pid), what="it serves")
                assert child.poll() is None, f"ended with {child.returncode}"
                yield child
            finally:
                child.kill()

    def _serves(self, pid: int) -> bool:
        """It listens, and would end in order: it handles SIGTERM."""
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        is_handled = caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1
        return bool(is_handled) and is_listening(self.port)

    def assert_goes_on_and_ends(self, child: "subprocess.Popen[bytes]") -> None:
        """It serves until it is told to end, and that is no failure."""
        assert child.poll() is None
        assert is_listening(self.port)
        child.terminate()
        assert child.wait(60) == 0


@pytest.mark.parametrize("module", OURS)
def test_a_log_on_a_full_disk(module: str, folder: Path, disk: Path) -> None:
    """Its lines are lost and counted; with room again one line tells how many, without waiting for a further one."""
    made = Lonely(module, folder)
    with (disk / "log").open("ab") as log:
        filler = fill(disk)
        with made.running(log.fileno()) as child:
            time.sleep(3.0)  # in which it complains in vain
            assert (disk / "log").stat().st_size == 0
            filler.unlink()
            if module != "clusterctl.broker":  # which has nothing to say as long as all is well
                told = wait_until(lambda: _lines(disk / "log"), what="its losses are told")[0]
                assert told["event"] == "log lines were lost"
                assert told["count"] >= 1
            made.assert_goes_on_and_ends(child)
    assert module == "clusterctl.broker" or _lines(disk / "log")[-1]["event"] == "stopped"


@pytest.mark.parametrize("module", OURS)
def test_a_pipe_that_nobody_reads(module: str, folder: Path) -> None:
    """A full pipe holds nothing up."""
    reading, writing = os.pipe()
    _stuff(writing)
    made = Lonely(module, folder)
    try:
        with made.running(writing) as child:
            made.assert_goes_on_and_ends(child)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("module", OURS)
def test_a_pipe_that_is_closed(module: str, folder: Path) -> None:
    """Whoever read its log has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    made = Lonely(module, folder)
    try:
        with made.running(writing) as child:
            made.assert_goes_on_and_ends(child)
    finally:
        os.close(writing)


@pytest.mark.parametrize("module", OURS)
def test_no_standard_error_at_all(module: str, folder: Path) -> None:
    """Started with both outputs closed: nothing that it opens takes their place."""
    made = Lonely(module, folder)
    with made.running(subprocess.DEVNULL, 'exec "$@" >&- 2>&-') as child:
        if module != "clusterctl.broker":
            taken = {Path(f"/proc/{child.pid}/fd/{number}").readlink() for number in (1, 2)}
            assert taken == {Path(os.devnull)}
        made.assert_goes_on_and_ends(child)


def _stuff(handle: int) -> None:
    os.set_blocking(handle, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(handle, b"." * 4096)
    os.set_blocking(handle, True)


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(name="small_up")
def _small_up(folder: Path) -> Iterator[tuple[Process, Path, Layout]]:
    """`clusterctl up` without workers, its state, its children's logs and its own output on a disk of 8 MB."""
    with small_disk(folder / "up", 8) as disk:
        offset = free_offset(Layout(folder=Path()).ports.values())
        layout = Layout(folder=disk / "data", port_offset=offset, worker_count=0)
        command = [sys.executable, "-m", "clusterctl", "up", "--no-worker", "--port-offset", str(offset)]
        process = Process([*command, "--data-dir", str(layout.folder)], os.environ, disk / "up.log")
        process.start()
        try:
            process.wait_for_output("ready after", timeout=60.0)
            yield process, disk, layout
        finally:
            process.stop(timeout=20.0)
            process.reap()
            kill_processes_mentioning(str(disk))


def test_a_supervisor_on_a_full_disk(small_up: tuple[Process, Path, Layout]) -> None:
    """With no room for its own words and its children's logs it starts again what dies, and ends all in order."""
    process, disk, layout = small_up
    for log in (layout.folder / "logs" / "scheduler.log", process.log_path):  # no room is left on their last pages
        os.truncate(log, -(-log.stat().st_size // PAGE_BYTES) * PAGE_BYTES)
    filler = fill(disk)
    for _ in range(2):
        before = _pid_of("scheduler", disk)
        os.kill(before, signal.SIGKILL)
        wait_until(_is_again("scheduler", disk, before), what="the scheduler is started again")
        wait_until(lambda: is_listening(layout.ports["scheduler"]), what="the scheduler serves")
    assert process.is_running
    filler.unlink()
    assert process.stop(timeout=30.0) == 0
    assert re.search(r"\d+ lines could not be written here", process.output())


def _pid_of(module: str, disk: Path) -> int:
    """The supervised process of a module: it has its log open."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if module.encode() in words and str((entry / "fd" / "1").readlink()).startswith(str(disk)):
                found = int(entry.name)
    return found


def _is_again(module: str, disk: Path, before: int) -> Callable[[], bool]:
    return lambda: _pid_of(module, disk) not in (0, before)
