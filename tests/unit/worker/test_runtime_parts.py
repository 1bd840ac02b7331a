"""The pure and the small parts of the runtimes."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import log_files
from testbed.machines import REF
from testbed.runtimes import ignore, workload
from worker.runtime import cgroups
from worker.runtime.base import RuntimeFailure
from worker.runtime.docker import _split_tag
from worker.runtime.docker_options import create_options, exit_of, is_running
from worker.runtime.images import ImageCache
from worker.runtime.logfiles import follow_file
from worker.runtime.ports import PublishedPort, parse_ports, published_address
from worker.runtime.qemu import Guest, command_line


def test_ports() -> None:
    """Host, inside and protocol; a number alone stands for both."""
    assert parse_ports("8080:80/tcp; 53:53/udp;9000") == (
        PublishedPort(8080, 80, "tcp"),
        PublishedPort(53, 53, "udp"),
        PublishedPort(9000, 9000, "tcp"),
    )
    assert parse_ports("") == ()
    assert published_address("8080:80", "127.0.0.2", 80) == ("127.0.0.2", 8080)
    assert published_address("8080:80", "127.0.0.2", 81) is None


def test_container_options() -> None:
    """Limits, ports on the worker's address, labels; nothing where nothing was asked."""
    options = create_options(
        workload(memory=64, vcpus=0.5, port="8080:80", cmd=["run"], environment=["A=1"], ip="127.0.0.2"), "i"
    )
    assert options["mem_limit"] == options["memswap_limit"] == 64 * 1024 * 1024
    assert options["nano_cpus"] == 500_000_000
    assert options["ports"] == {"80/tcp": [("127.0.0.2", 8080)]}
    assert options["labels"]["cluster.ref"] == "job.0.1"
    assert options["command"] == ["run"]
    plain = create_options(workload(port="8080:80", ip="0.0.0.0"), "i")
    assert plain["ports"] == {"80/tcp": [8080]}
    assert not {"mem_limit", "nano_cpus", "command"} & set(plain)


def test_volumes_without_a_driver_are_the_engines() -> None:
    """A CSI driver that is not there is a reason to place the job elsewhere."""
    volume = {"volume_id": "data", "mount_path": "/data"}
    assert create_options(workload(volumes=[volume]), "i")["volumes"] == {"data": {"bind": "/data", "mode": "rw"}}
    with pytest.raises(RuntimeFailure, match="CSI") as failure:
        create_options(workload(volumes=[volume | {"csi_driver": "nfs"}]), "i")
    assert failure.value.is_final


def state(**more: object) -> dict[str, object]:
    times = {"StartedAt": "2026-01-01T00:00:00.123456789Z", "FinishedAt": "2026-01-01T01:00:00Z"}
    return {"State": {"Status": "exited", "ExitCode": 3} | times | more}


def test_container_exits() -> None:
    """The engine's record is the outcome, unless the machine went down in between."""
    assert exit_of(state(), boot_time=0.0).code == 3
    assert exit_of(state(OOMKilled=True), boot_time=0.0).reason == "out of memory"
    between = 1767225600.0 + 1800
    assert not exit_of(state(), boot_time=between).is_outcome_known
    assert not exit_of(state(Status="created"), boot_time=0.0).is_outcome_known
    assert is_running(state(Status="running"))
    assert not is_running(state())


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("nginx", ("nginx", "latest")),
        ("nginx:1.25", ("nginx", "1.25")),
        ("host:5000/nginx", ("host:5000/nginx", "latest")),
        ("nginx@sha256:abc", ("nginx@sha256:abc", None)),
    ],
)
def test_image_tags(image: str, parts: tuple[str, str | None]) -> None:
    """Without a tag the engine would pull every tag that there is."""
    assert _split_tag(image) == parts


def guest(image: str, **document: object) -> Guest:
    job = workload(technology="unikernel", **document)
    more = tuple(Path(name) for name in job.spec.vm_images)
    return Guest(
        binary="qemu-system-x86_64", accelerator="tcg", image=Path(image), further_images=more, spec=job.spec, ip="::1"
    )


def test_kernel_guests_get_the_smallest_machine() -> None:
    """Command line, memory in MB, cpus rounded up, ports forwarded from the worker's address."""
    line = " ".join(
        command_line(guest("/k.elf", cmd=["a=1", "b"], memory=128, vcpus=1.5, port="80:8080", vm_images=["/i.cpio"]))
    )
    for part in (
        "-S -M microvm -accel tcg -m 128 -smp 2",
        "-kernel /k.elf -append a=1 b -initrd /i.cpio",
        "hostfwd=tcp:[::1]:80-:8080 -device virtio-net-device",
        "isa-debug-exit",
    ):
        assert part in line


def test_disk_guests_boot_from_their_disk() -> None:
    """On a machine with firmware; the image itself is never written to."""
    line = " ".join(command_line(guest("/d,1.qcow2", vm_images=["/e.raw"])))
    assert "-M pc" in line
    assert "file=/d,,1.qcow2,format=qcow2,if=none,id=disk0,snapshot=on -device virtio-blk-pci,drive=disk0" in line
    assert "file=/e.raw,format=raw,if=none,id=disk1" in line
    assert "-kernel" not in line
    assert "-netdev" not in line


@pytest.mark.parametrize(
    ("text", "tail", "expected"),
    [
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\nb\n", 9, "a\nb\n"),
        ("a\nb\n", None, "a\nb\n"),
        ("", 3, ""),
        ("x" * 100_000 + "\nlast\n", 1, "last\n"),
        ("é\r\n\nü\n", 2, "\nü\n"),
    ],
)
async def test_tail(tmp_path: Path, text: str, tail: int | None, expected: str) -> None:
    """The last lines, whatever the file's end looks like."""
    log = tmp_path / "log"
    log.write_bytes(text.encode())
    found = b"".join([piece async for piece in follow_file(log, tail, lambda: False)])
    assert found.decode() == expected


async def test_logs_are_bounded(tmp_path: Path) -> None:
    """Two files of the bound at most; a reader of all gets both."""
    log = tmp_path / "log"
    with log.open("ab") as writer:
        writer.write(b"old\n" * 30)
        writer.flush()
        log_files.bound(log, 100)
        writer.write(b"new\n")
    log_files.bound(log, 100)
    assert log.read_bytes() == b"new\n"
    assert b"".join([piece async for piece in follow_file(log, None, lambda: False)]) == b"old\n" * 30 + b"new\n"


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "image.wasm").write_bytes(b"x" * 1000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_an_image_is_downloaded_once(tmp_path: Path, server: str) -> None:
    """A second job, also after a restart, takes what is there."""
    first = await ImageCache(tmp_path / "images").fetch(f"{server}/image.wasm", ignore)
    assert first.read_bytes() == b"x" * 1000
    assert first.suffix == ".wasm"
    unreachable = f"{server}/image.wasm"
    assert await ImageCache(tmp_path / "images").fetch(unreachable, ignore) == first


async def test_downloads_are_bounded_and_leave_nothing_half(tmp_path: Path, server: str) -> None:
    """Too large is final; not found may be tried again; neither leaves an image behind."""
    cache = ImageCache(tmp_path / "images", max_bytes=10)
    for name, is_final in (("image.wasm", True), ("none.wasm", False)):
        with pytest.raises(RuntimeFailure) as failure:
            await cache.fetch(f"{server}/{name}", ignore)
        assert failure.value.is_final is is_final
    assert not list((tmp_path / "images").glob("*.wasm"))


def test_cgroups_of_version_2(tmp_path: Path) -> None:
    """A quota of the period, and the figures of a process's group."""
    (tmp_path / "cgroup.controllers").write_text("cpu")
    (group,) = cgroups.limit_cpu("job", 250, tmp_path)
    assert (group / "cpu.max").read_text() == "25000 100000"


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    """The same in two files; where nothing can be written there is no group."""
    (group,) = cgroups.limit_cpu("job", 250, tmp_path)
    assert (group / "cpu.cfs_quota_us").read_text() == "25000"
    assert cgroups.limit_cpu("job", 250, Path("/proc/no/such")) == ()
    assert cgroups.figures_of(2**22 + 1) is None


def test_refs_order_by_generation() -> None:
    """What `by_slot` relies on."""
    assert str(REF) == "j1.0.100"
