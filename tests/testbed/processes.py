"""Child processes of a test: own process group, output in a file, always reaped."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from testbed.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


class Process:
    """A restartable child process that leads its own group; its output goes to `log_path`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log_path: Path, cwd: Path = REPOSITORY) -> None:
        self.argv = list(argv)
        self.env = dict(env)
        self.log_path = log_path
        self.cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        if self._child is None:
            raise RuntimeError(f"{self.argv} was never started")
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit status of the last start; None while it runs."""
        return self._child.poll() if self._child else None

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> "Process":
        """Start the process; a no-op while it runs."""
        if not self.is_running:
            with self.log_path.open("ab") as log:
                self._child = subprocess.Popen(
                    self.argv,
                    env=self.env,
                    cwd=self.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the process alone, not to its group."""
        if self.is_running:
            os.kill(self.pid, number)

    def stop(self, timeout: float = 20.0) -> int:
        """End it with SIGTERM, after `timeout` seconds with SIGKILL; returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """`kill -9` of the process alone, as a crash would; what it started lives on until `reap`."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end; returns the exit status; raises subprocess.TimeoutExpired."""
        if self._child is None:
            raise RuntimeError(f"{self.argv} was never started")
        return self._child.wait(timeout)

    def restart(self) -> "Process":
        """Kill -9 and start again."""
        self.kill()
        return self.start()

    def reap(self) -> None:
        """Kill the whole group, whatever is left of it."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def output(self) -> str:
        """Everything that it printed so far, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_for_output(self, text: str, timeout: float = 30.0) -> str:
        """Wait until the output contains `text`; returns the output so far."""

        def seen() -> bool:
            if text not in self.output() and not self.is_running:
                raise RuntimeError(f"{self.argv} ended with {self.returncode}:\n{self.output()}")
            return text in self.output()

        wait_until(seen, timeout, what=f"{text!r} in the output of {self.argv}")
        return self.output()


@contextlib.contextmanager
def process(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    log_path: Path | None = None,
    cwd: Path = REPOSITORY,
) -> Iterator[Process]:
    """Run `argv` (the caller's environment plus `env`) for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="process-") as folder:
        child = Process(argv, {**os.environ, **(env or {})}, log_path or Path(folder) / "output.log", cwd)
        child.start()
        try:
            yield child
        finally:
            child.stop(timeout=5.0)
            child.reap()


@contextlib.contextmanager
def module(
    name: str, *arguments: str, env: Mapping[str, str] | None = None, log_path: Path | None = None
) -> Iterator[Process]:
    """Run one of our processes, `python -m name arguments…`, for the time of the block."""
    with process([sys.executable, "-m", name, *arguments], env, log_path) as child:
        yield child
