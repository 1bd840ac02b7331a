"""What a worker says and confirms is on its disk first: not only written, but synced."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.commands import find
from testbed.mosquitto import Mosquitto
from testbed.processes import REPOSITORY
from testbed.requirement import require
from testbed.waiting import wait_until
from testbed.worker import ManagerSide, RealWorker, manager_side, real_worker

pytestmark = pytest.mark.real("strace")
_CALLS = "trace=fsync,fdatasync,pwrite64,write,sendto"
_SYNCED = re.compile(r"(fsync|fdatasync)\(\d+<.*worker\.db-wal>\)\s+= 0|<\.\.\. (fsync|fdatasync) resumed>\)\s+= 0")
_COMMITS = """
import sys
from pathlib import Path
from worker.records import Publish, Ref, Status
from worker.state import State
state = State(Path(sys.argv[1]))
print("begin", flush=True)
for number in range(20):
    state.commit([Publish(Ref("j", number, 1), "web", Status.RUNNING)], 0)
    print(f"committed {number}", flush=True)
"""


@pytest.fixture(autouse=True)
def _strace() -> None:
    require("strace")


def strace(output: Path, *more: str) -> list[str]:
    """A command line that writes down when files are written and synced, and what is sent."""
    return [find("strace") or "strace", "-f", "-y", "-s", "5000", "-e", _CALLS, "-o", str(output), *more]


def test_a_commit_is_synced_before_it_returns(tmp_path: Path) -> None:
    """Between any two commits the log was written and then synced, on the disk that the reserve prepared."""
    trace = tmp_path / "trace"
    command = strace(trace, sys.executable, "-c", _COMMITS, str(tmp_path / "w"))
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    seen: list[str] = []
    answers = 0
    for line in trace.read_text().splitlines():
        if re.search(r"pwrite64\(\d+<.*worker\.db-wal>", line):
            seen.append("written")
        elif _SYNCED.search(line):
            seen.append("synced")
        elif re.search(r'write\(1<.*>, "committed \d+', line):
            assert "written" in seen
            assert seen[-1] == "synced"
            seen.clear()
            answers += 1
        elif re.search(r'write\(1<.*>, "begin', line):
            seen.clear()
    assert answers == 20


@pytest.fixture(name="manager")
def _manager(mosquitto: Mosquitto) -> Iterator[ManagerSide]:
    with manager_side(mosquitto) as manager:
        yield manager


@pytest.fixture(name="worker")
def _worker(tmp_path: Path, mosquitto: Mosquitto, manager: ManagerSide) -> Iterator[RealWorker]:
    with real_worker(tmp_path / "w", mosquitto, manager) as worker:
        yield worker


@contextlib.contextmanager
def traced(worker: RealWorker, output: Path) -> Iterator[None]:
    """What the running worker does, for the time of the block."""
    with subprocess.Popen([*strace(output), "-p", str(worker.process.pid)], stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        tracer.stderr.readline()  # attached
        wait_until(lambda: "TracerPid:\t0" not in Path(f"/proc/{worker.process.pid}/status").read_text())
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=60)


def first(lines: list[str], pattern: str, begin: int = 0) -> int:
    """Where the first line that matches is found."""
    found = [index for index in range(begin, len(lines)) if re.search(pattern, lines[index])]
    assert found, f"nothing like {pattern} from line {begin} of {len(lines)} on"
    return found[0]


def test_a_state_is_synced_before_it_is_sent(manager: ManagerSide, worker: RealWorker, tmp_path: Path) -> None:
    """Each state of a workload is in the log, and that is synced, before the broker gets it; so with its command."""
    trace = tmp_path / "trace"
    with traced(worker, trace):
        manager.command("deploy", "durable")
        manager.wait_for("durable", "RUNNING")
        manager.command("delete", "durable")
        manager.wait_for("durable", "STOPPED")
    lines = trace.read_text(errors="replace").splitlines()
    for status in ("STARTING", "RUNNING", "STOPPED"):
        written = first(lines, rf'pwrite64\(\d+<.*worker\.db-wal>, ".*durable.*{status}')
        synced = first(lines, _SYNCED.pattern, written)
        sent = first(lines, rf'sendto\(.*durable.*\\"status\\":\\"{status}')
        assert written < synced < sent, status
    written = first(lines, r'pwrite64\(\d+<.*worker\.db-wal>, ".*durable')
    acknowledged = first(lines, r'sendto\(.*, "@\\2')  # the first PUBACK is that of the deploy
    assert written < first(lines, _SYNCED.pattern, written) < acknowledged
