"""A disk of a few megabytes that a test can fill."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.commands import find, lacking


def ext4_unavailable() -> str:
    """Why no file can be mounted as a disk here; empty when it can."""
    if missing := lacking("mkfs.ext4"):
        return missing
    return _why_not(small_ext4)


def unavailable() -> str:
    """Why a small disk cannot be made here; empty when it can."""
    return _why_not(small_disk)


def _why_not(disk: Callable[[Path, int], contextlib.AbstractContextManager[Path]]) -> str:
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    try:
        with tempfile.TemporaryDirectory(prefix="disk-") as folder, disk(Path(folder) / "probe", 1):
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


@contextlib.contextmanager
def small_ext4(folder: Path, size_mb: int) -> Iterator[Path]:
    """An ext4 of about that size at `folder` for the time of the block, of which nothing is reserved for root."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate((size_mb + 8) * 1024 * 1024)  # its journal takes some
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))
        image.unlink()


@contextlib.contextmanager
def small_overlay(folder: Path, size_mb: int) -> Iterator[Path]:
    """An overlay, as containers have one, upon such an ext4."""
    with small_ext4(folder.with_name("beneath"), size_mb) as beneath:
        parts = {name: beneath / name for name in ("lower", "upper", "work")}
        for part in (folder, *parts.values()):
            part.mkdir(exist_ok=True)
        options = "lowerdir={lower},upperdir={upper},workdir={work}".format(**parts)
        _run("mount", "-t", "overlay", "-o", options, "overlay", str(folder))
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
