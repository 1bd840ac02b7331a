"""Workloads that are processes, and their images, on a real disk that is full."""

import errno
import http.server
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import log_files
from testbed.disks import fill, small_disk
from testbed.netns import scratch_folder
from testbed.runtimes import ignore
from testbed.waiting import wait_until
from worker.runtime.base import RuntimeFailure
from worker.runtime.detached import Run
from worker.runtime.images import ImageCache

pytestmark = pytest.mark.real("small disk")
IMAGE_BYTES = 3 * 1024 * 1024


@pytest.fixture(name="disk")
def _disk() -> Iterator[Path]:
    with scratch_folder() as folder, small_disk(folder / "disk", 2) as disk:
        yield disk


@pytest.mark.parametrize("command", [["sleep", "600"], ["sh", "-c", "read line < go; exit 7"]])
async def test_an_end_is_noted_on_a_full_disk(disk: Path, command: list[str]) -> None:
    """A workload that ends, or is ended, while the disk is full has ended as it did, not in an unknown way."""
    run = Run(disk / "run")
    run.clear()
    os.mkfifo(disk / "run" / "go")
    await run.start(command, {})
    fill(disk)
    if command[0] == "sleep":
        run.signal(signal.SIGKILL)
    else:
        (disk / "run" / "go").write_text("go")
    end = await run.wait()
    assert (end.code, end.is_outcome_known) == (137 if command[0] == "sleep" else 7, True)


async def test_a_process_started_on_a_disk_that_has_become_full_is_found_again(disk: Path) -> None:
    """What is needed to find it was set aside before it was started."""
    run = Run(disk / "run")
    run.clear()
    fill(disk)
    await run.start(["sleep", "600"], {})
    found = Run(disk / "run").process
    assert found is not None
    run.signal(signal.SIGTERM)
    assert (await Run(disk / "run").wait()).reason == "ended by SIGTERM"


async def test_a_start_without_room_leaves_no_process(disk: Path) -> None:
    """It is refused before anything runs."""
    fill(disk)
    run = Run(disk / "run")
    with pytest.raises(OSError) as refused:
        run.clear()
    assert refused.value.errno == errno.ENOSPC
    assert run.process is None


def test_a_log_is_bounded_on_a_full_disk(disk: Path) -> None:
    """Cutting it makes room, which nothing else would."""
    log = disk / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"line\n" * 100_000)
        fill(disk)
        assert log_files.bound(log, 400_000)
        writer.write(b"the newest line\n")
    assert log.stat().st_size <= log_files.KEPT_BYTES + 16
    assert log.read_bytes().endswith(b"line\nthe newest line\n")
    assert not log_files.older_part(log).exists()
    assert os.statvfs(disk).f_bavail > 0


@pytest.fixture(name="server")
def _server() -> Iterator[str]:
    class Images(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(IMAGE_BYTES))
            self.end_headers()
            try:
                self.wfile.write(b"x" * IMAGE_BYTES)
            except OSError:
                return

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_an_image_that_does_not_fit_takes_no_room(disk: Path, server: str) -> None:
    """The download fails with words, and what had come of it is gone."""
    cache = ImageCache(disk / "images")
    with pytest.raises(RuntimeFailure, match="the node's disk is full") as failure:
        await cache.fetch(f"{server}/image.wasm", ignore)
    assert not failure.value.is_final
    wait_until(lambda: list((disk / "images").iterdir()) == [], what="nothing is left of it")
