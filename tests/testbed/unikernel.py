"""A real one-file unikernel (see unikernel.c), compiled with the host's gcc and booted by QEMU under TCG."""

import contextlib
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testbed.commands import find, lacking
from testbed.processes import REPOSITORY, Process, process

_SOURCE = Path(__file__).with_name("unikernel.c")
_CACHE = REPOSITORY / ".cache" / "unikernel"
_COMPILE = shlex.split(
    "-m32 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -fno-pic -fno-pie -no-pie "
    "-fno-stack-protector -fno-asynchronous-unwind-tables "
    "-Wl,--build-id=none,-Ttext=0x100000,-n,--no-warn-rwx-segments"
)
_MACHINE = shlex.split("-M microvm -accel tcg -m 16 -nodefaults -display none -no-reboot -serial stdio")
_EXIT_DEVICE = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]


def unavailable() -> str:
    """Why the unikernel cannot be built and booted here; empty when it can."""
    return lacking("gcc", "qemu-system-x86_64")


def build() -> Path:
    """Compile the unikernel once per version of its source; returns the path of the ELF."""
    fingerprint = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_COMPILE).encode()).hexdigest()[:12]
    image = _CACHE / f"unikernel-{fingerprint}.elf"
    if not image.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            fresh = Path(folder) / "unikernel.elf"
            subprocess.run([find("gcc") or "gcc", *_COMPILE, "-o", str(fresh), str(_SOURCE)], check=True)
            fresh.replace(image)
    return image


def exit_code_of(status: int) -> int:
    """The code that the guest asked for by `exit=N`, from QEMU's exit status `(N << 1) | 1`."""
    if not status & 1:
        raise ValueError(f"QEMU ended with {status}, which is not an exit through isa-debug-exit")
    return status >> 1


def argv(image: Path, command_line: str, *more: str) -> list[str]:
    """QEMU's command line for booting `image` with the guest's `command_line`; `more` is appended."""
    qemu = find("qemu-system-x86_64") or "qemu-system-x86_64"
    return [qemu, *_MACHINE, *_EXIT_DEVICE, "-kernel", str(image), "-append", command_line, *more]


@contextlib.contextmanager
def unikernel(command_line: str = "", *more: str) -> Iterator[Process]:
    """A booted unikernel for the time of the block; its serial output is the process's output."""
    with process(argv(build(), command_line, *more), os.environ) as guest:
        yield guest
