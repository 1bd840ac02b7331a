"""Clocks of running processes that a test sets: a small library in each shifts what the kernel answers."""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from testbed.commands import find, lacking
from testbed.processes import REPOSITORY

_SOURCE = Path(__file__).with_name("clock.c")
_CACHE = REPOSITORY / ".cache" / "clock"


def unavailable() -> str:
    """Why the library cannot be built here; empty when it can."""
    if missing := lacking("gcc"):
        return missing
    try:
        _library()
    except subprocess.CalledProcessError as error:
        return f"gcc cannot build it: {error.stderr.decode(errors='replace')[:300]}"
    return ""


class Clock:
    """The clocks of every process that was started with `environment`; several may share one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set()

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with."""
        return {"LD_PRELOAD": str(_library()), "CLOCK_FILE": str(self._file)}

    def set(self, *, wall_s: int = 0, boot_s: int = 0) -> None:
        """Be so many seconds ahead of the truth from now on: the wall clock, and the clocks since boot."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{wall_s} {boot_s}\n")
        fresh.replace(self._file)


def _library() -> Path:
    fingerprint = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    library = _CACHE / f"clock-{fingerprint}.so"
    if not library.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            fresh = Path(folder) / "clock.so"
            compiler = [find("gcc") or "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            subprocess.run([*compiler, "-o", str(fresh), str(_SOURCE)], check=True, capture_output=True)
            fresh.replace(library)
    return library
