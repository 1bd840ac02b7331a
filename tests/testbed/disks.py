"""A disk of a few megabytes that a test can fill."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testbed.commands import find


def unavailable() -> str:
    """Why a small disk cannot be made here; empty when it can."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    try:
        with tempfile.TemporaryDirectory(prefix="disk-") as folder, small_disk(Path(folder) / "probe", 1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"{error.cmd}: {error.stderr}"


@contextlib.contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """A tmpfs of that size at `folder` for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


def fill(disk: Path) -> Path:
    """Write until there is no room for another byte; answers the file whose removal makes room again."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return filler


def _run(program: str, *arguments: str) -> None:
    subprocess.run([find(program) or program, *arguments], check=True, capture_output=True, text=True)
