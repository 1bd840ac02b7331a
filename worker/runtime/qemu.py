"""QEMU's command line for a unikernel, as pure functions, and the probe that shows whether KVM works here."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.jobs import JobSpec
from worker.runtime.ports import parse_ports

DEFAULT_MEMORY_BYTES: Final = 64 * 1024 * 1024
MEBIBYTE: Final = 1024 * 1024
QMP_SOCKET: Final = "qmp"
DISK_SUFFIXES: Final = {".qcow2": "qcow2", ".img": "raw", ".raw": "raw", ".vmdk": "vmdk", ".vdi": "vdi"}
_INITRD_SUFFIXES: Final = (".cpio", ".initrd", ".gz", ".xz")
PROBE_GUEST: Final = Path(__file__).with_name("probe.bin")
_PROBE_S: Final = 1.5
_PROBE_CODE: Final = 42


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Everything that decides how a guest is started; source and target of a live migration share all but `ip`."""

    binary: str
    accelerator: str
    image: Path
    further_images: tuple[Path, ...]
    spec: JobSpec
    ip: str

    @property
    def is_disk(self) -> bool:
        """Whether the image is a disk to boot from; else it is a kernel."""
        return self.image.suffix in DISK_SUFFIXES

    @property
    def machine(self) -> str:
        """The machine type: a kernel gets the smallest there is."""
        if not self.binary.endswith(("x86_64", "i386")):
            return "virt"
        return "pc" if self.is_disk else "microvm"


def binary_here() -> str:
    """The emulator of this machine's architecture; "" where it is not installed."""
    machine = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386"}.get(platform.machine(), platform.machine())
    return shutil.which(f"qemu-system-{machine}") or ""


def command_line(guest: Guest, *, is_incoming: bool = False) -> list[str]:
    """The guest, stopped before its first instruction, with its serial port on standard output.

    With `is_incoming` it waits for a guest on a free port instead, which runs as soon as it is there.
    """
    spec = guest.spec
    memory_mb = max(1, (spec.demand.memory_bytes or DEFAULT_MEMORY_BYTES) // MEBIBYTE)
    cpus = max(1, -(-(spec.demand.cpu_millicores or 1000) // 1000))
    begin = ["-incoming", f"tcp:{_bracketed(guest.ip)}:0"] if is_incoming else ["-S"]
    argv = [guest.binary, *begin, "-M", guest.machine, "-accel", guest.accelerator]
    argv += ["-m", str(memory_mb), "-smp", str(cpus), "-nodefaults", "-display", "none", "-no-reboot"]
    argv += ["-name", spec.name, "-serial", "stdio", "-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"]
    if guest.machine != "virt":
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    return [*argv, *_boot(guest), *_network(guest)]


def _boot(guest: Guest) -> list[str]:
    if guest.is_disk:
        disks, argv = (guest.image, *guest.further_images), []
    else:
        words = " ".join((*guest.spec.command, *guest.spec.environment))
        argv = ["-kernel", str(guest.image), *(["-append", words] if words else [])]
        initrds = [image for image in guest.further_images if image.name.endswith(_INITRD_SUFFIXES)]
        argv += [part for image in initrds[:1] for part in ("-initrd", str(image))]
        disks = tuple(image for image in guest.further_images if image not in initrds)
    device = "virtio-blk-pci" if guest.machine == "pc" else "virtio-blk-device"
    for number, disk in enumerate(disks):
        kind = DISK_SUFFIXES.get(disk.suffix, "raw")
        path = str(disk).replace(",", ",,")
        argv += ["-drive", f"file={path},format={kind},if=none,id=disk{number},snapshot=on"]
        argv += ["-device", f"{device},drive=disk{number}"]
    return argv


def _network(guest: Guest) -> list[str]:
    if not guest.spec.ports:
        return []
    ip = _bracketed(guest.ip)
    forwards = "".join(
        f",hostfwd={port.protocol}:{ip}:{port.host}-:{port.inside}" for port in parse_ports(guest.spec.ports)
    )
    device = "virtio-net-pci" if guest.machine == "pc" else "virtio-net-device"
    return ["-netdev", f"user,id=net{forwards}", "-device", f"{device},netdev=net"]


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


async def choose_accelerator(binary: str) -> str:
    """`kvm` where a bounded probe boot under it works, else `tcg`: /dev/kvm may exist and not work."""
    if not binary.endswith(("x86_64", "i386")):
        return "tcg"
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) and await boots(binary, "kvm") else "tcg"


async def boots(binary: str, accelerator: str) -> bool:
    """Whether the guest of `probe.S`, which needs interrupts and timers, really ran to its end, and soon."""
    argv = [binary, "-M", "microvm", "-accel", accelerator, "-m", "2", "-nodefaults", "-display", "none", "-no-reboot"]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(PROBE_GUEST)]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(_PROBE_S):
            return await process.wait() == (_PROBE_CODE << 1) | 1
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
