"""What cannot be logged or printed never raises, is counted, and is told of once writing works again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.log_stream import LogStream
from testbed.processes import REPOSITORY


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[tuple[int, LogStream]]:
    """The reading end of a pipe, and a stream on the other."""
    reading, writing = os.pipe()
    yield reading, LogStream(writing)
    os.close(writing)
    os.close(reading)


def stuff(handle: int) -> int:
    """Fill a pipe until it takes no more; answers how many bytes it has."""
    os.set_blocking(handle, False)
    count = 0
    try:
        while True:
            count += os.write(handle, b"." * 4096)
    except BlockingIOError:
        return count
    finally:
        os.set_blocking(handle, True)


def drained(reading: int, count: int) -> bytes:
    """Take that many bytes out of a pipe."""
    data = b""
    while len(data) < count:
        data += os.read(reading, count - len(data))
    return data


def run(code: str, *, shell: str = 'exec "$@"', **streams: object) -> "subprocess.CompletedProcess[str]":
    """Run Python code of which only `shell` decides what its standard streams are."""
    command = ["sh", "-c", shell, "sh", sys.executable, "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, text=True, timeout=60, check=False, **streams)  # type: ignore[call-overload,no-any-return]


def test_lines_are_written_whole_and_what_is_no_text_is_escaped(pipe: tuple[int, LogStream]) -> None:
    """A line goes out when it is complete, the rest of one with `flush`; a lone surrogate raises nothing."""
    reading, stream = pipe
    stream.write("one\ntw")
    assert os.read(reading, 100) == b"one\n"
    stream.write("o\n\udc80")
    assert os.read(reading, 100) == b"two\n"
    stream.flush()
    assert os.read(reading, 100) == b"\\udc80"
    assert stream.lost == 0


def test_a_reader_that_stopped_reading_costs_lines_and_is_told_how_many(pipe: tuple[int, LogStream]) -> None:
    """Writing to a full pipe returns; the first line that fits again is preceded by the number of those before."""
    reading, stream = pipe
    size = stuff(stream.fileno())
    for number in range(3):
        stream.write(f"line {number}\n")
    assert stream.lost == 3
    assert set(drained(reading, size)) == set(b".")
    stream.write("again\n")
    assert os.read(reading, 1000) == b"3 lines could not be written here\nagain\n"
    assert stream.lost == 0


def test_losses_are_told_without_a_further_line(pipe: tuple[int, LogStream]) -> None:
    """`tell_losses` says nothing while nothing can be written, nor where nothing is missing."""
    reading, stream = pipe
    stream.tell_losses()
    size = stuff(stream.fileno())
    stream.write("a\nb\n")
    stream.tell_losses()
    drained(reading, size)
    stream.tell_losses()
    stream.tell_losses()
    assert os.read(reading, 1000) == b"2 lines could not be written here\n"


@pytest.mark.parametrize("code", ["os.close(2)", "sys.stderr.close()"])
def test_a_descriptor_that_is_closed_later_is_not_needed(code: str) -> None:
    """Whoever closes standard error, and whatever file takes its number: the log goes where it went."""
    script = f"""
import os, sys
from cluster.process import LOG, configure_logging
configure_logging("tested", "info")
{code}
other = os.open("/dev/null", os.O_WRONLY)
LOG.info("still here")
"""
    assert "still here" in run(script, capture_output=True).stderr


_EVERYTHING = """
import logging, sys, threading, warnings
from cluster.process import LOG, configure_logging
configure_logging("tested", "info")
class Rude:
    def __repr__(self): raise KeyError("rude")
def fail(): raise ValueError("in a thread")
LOG.info("structured", rude=Rude(), key={b"bytes": 1})
logging.getLogger("paho").error("from a library %s")
logging.getLogger("grpc").error("with too many", "arguments")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
warnings.warn("a warning")
print("printed", "x" * 100_000)
print("to standard error", file=sys.stderr)
print("on the way out", end="")
"""


@pytest.mark.parametrize(
    "shell",
    ['exec "$@" 2>&-', 'exec "$@" >&-', 'exec "$@" >&- 2>&-', 'exec "$@" >/dev/full 2>&1'],
)
def test_nothing_that_is_logged_or_printed_ends_a_process(shell: str) -> None:
    """Own lines, the libraries', warnings, tracebacks of threads and prints: without any of them it ends with 0."""
    done = run(_EVERYTHING, shell=shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode == 0


def test_a_closed_pipe_ends_no_process() -> None:
    """Nobody reads any more: the process goes on, and ends with 0."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run(_EVERYTHING, stdout=writing, stderr=writing).returncode == 0
    finally:
        os.close(writing)


def test_all_of_it_is_there_where_it_can_be_written() -> None:
    """The same, with room: every line arrives, and what cannot be shown is told as that."""
    done = run(_EVERYTHING, capture_output=True)
    assert done.returncode == 0
    assert "structured" in done.stderr
    assert "facts cannot be shown" in done.stderr
    for words in ("from a library", "in a thread", "a warning", "to standard error", "TypeError: not all arguments"):
        assert words in done.stderr
    assert done.stdout.endswith("on the way out")


_LIMITED = """
import json, logging, resource, sys
from cluster.process import LOG, configure_logging
configure_logging("tested", "info")
LOG.info("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(20): LOG.info("a line", number=number, filling="x" * 80)
logging.getLogger("paho").error("also lost")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
LOG.info("after")
"""


def test_a_file_that_was_full_tells_the_number_of_lost_lines(tmp_path: Path) -> None:
    """One structured line with the count stands before the first that fits again; the one that broke off is ended."""
    log = tmp_path / "log"
    with log.open("wb") as file:
        assert run(_LIMITED, stderr=file).returncode == 0
    *written, torn, told, last = log.read_text().splitlines()
    lines = [json.loads(line) for line in written]
    assert [lines[0]["event"], json.loads(last)["event"]] == ["before", "after"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    notice = json.loads(told)
    assert (notice["event"], notice["process"], notice["level"]) == ("log lines were lost", "tested", "warning")
    assert notice["count"] == 1 + 20 - len(lines[1:])
