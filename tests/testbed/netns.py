"""Several hosts on one machine: network namespaces on a bridge, and a cluster whose parts live in them.

The bridge is in a namespace of its own, so that nothing of the host's network is touched. Every fault (loss, partition)
is made inside the namespaces and goes with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from testbed import leftovers
from testbed.cluster import Answer, Cluster, Http
from testbed.commands import find, lacking
from testbed.mosquitto import Mosquitto
from testbed.processes import Process
from testbed.waiting import wait_until

NAMESPACES: Final = Path("/var/run/netns")
T = TypeVar("T")
_NETWORK: Final = "10.99.0"
_SERIAL = itertools.count()
_IPTABLES: Final = ("iptables-nft", "iptables", "iptables-legacy")


def unavailable() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = lacking("ip", "nsenter", "mosquitto")
    if missing:
        return missing
    probe = f"probe{os.getpid()}"
    try:
        _run("ip", "netns", "add", probe)
        try:
            _run("ip", "-n", probe, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
            return "" if _packet_filter(probe) else "no iptables with the statistic match works in a namespace"
        finally:
            _run("ip", "netns", "delete", probe)
    except subprocess.CalledProcessError as error:
        return f"{error.cmd}: {error.stderr}"


class Host:
    """A namespace with one address on the common bridge."""

    def __init__(self, name: str, address: str, hub: str, port: str) -> None:
        self.name = name
        self.address = address
        self._hub = hub
        self._port = port

    def command(self, *words: str) -> list[str]:
        """A command line that runs `words` in this namespace."""
        return [find("nsenter") or "nsenter", f"--net={NAMESPACES / self.name}", "--", *words]

    def cut(self) -> None:
        """Pull the cable."""
        _run("ip", "-n", self._hub, "link", "set", self._port, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _run("ip", "-n", self._hub, "link", "set", self._port, "up")

    def lose(self, share: float) -> None:
        """Drop that share of the packets that arrive and that leave."""
        program = _packet_filter(self.name)
        for chain, side in (("INPUT", "-i"), ("OUTPUT", "-o")):
            rule = [side, "eth0", "-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]
            subprocess.run(self.command(program, "-A", chain, *rule), check=True, capture_output=True)

    def lose_nothing(self) -> None:
        """Take the loss away."""
        for chain in ("INPUT", "OUTPUT"):
            subprocess.run(self.command(_packet_filter(self.name), "-F", chain), check=True, capture_output=True)

    def run(self, function: Callable[[], T]) -> T:
        """What `function` answers when its sockets are made in this namespace; it runs in a thread of its own."""
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self._enter).result()
            return pool.submit(function).result()

    def _enter(self) -> None:
        with (NAMESPACES / self.name).open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name}")


class Network:
    """A bridge in a namespace of its own, and the hosts on it."""

    def __init__(self) -> None:
        self._prefix = f"tb{os.getpid()}-{next(_SERIAL)}"
        self._hub = f"{self._prefix}-hub"
        self._count = 0
        self._made: list[str] = []

    def create(self) -> Network:
        """Make the bridge."""
        self._add(self._hub)
        _run("ip", "-n", self._hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._hub, "link", "set", "bridge", "up")
        return self

    def add_host(self) -> Host:
        """One more namespace on the bridge."""
        self._count += 1
        name, port = f"{self._prefix}-{self._count}", f"port{self._count}"
        self._add(name)
        _run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._hub)
        _run("ip", "-n", self._hub, "link", "set", port, "master", "bridge", "up")
        address = f"{_NETWORK}.{self._count}"
        _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        return Host(name, address, self._hub, port)

    def close(self) -> None:
        """Remove every namespace; links and packet filters go with them."""
        for name in reversed(self._made):
            subprocess.run([find("ip") or "ip", "netns", "delete", name], check=False, capture_output=True)
        self._made.clear()

    def _add(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        self._made.append(name)
        _run("ip", "-n", name, "link", "set", "lo", "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network for the time of the block."""
    made = Network()
    try:
        yield made.create()
    finally:
        made.close()


class SpreadHttp(Http):
    """The gateway as it is asked from inside the namespace of the manager's side."""

    def __init__(self, port: int, host: Host) -> None:
        super().__init__(port)
        self._host = host

    def request(self, method: str, path: str, body: object = None, timeout: float = 15.0) -> Answer:
        """Ask once; a refused, broken or late connection answers status 0."""
        return self._host.run(lambda: super(SpreadHttp, self).request(method, path, body, timeout))


class SpreadCluster(Cluster):
    """The manager's side in one namespace, each worker in another; nsenter replaces itself by the program."""

    def __init__(self, folder: Path, net: Network, settings: Mapping[str, str]) -> None:
        self._net = net
        self.control = net.add_host()
        self.hosts: dict[str, Host] = {}
        super().__init__(folder, settings=settings)
        self.http = SpreadHttp(self.ports["gateway"], self.control)

    def _addresses(self) -> dict[str, str]:
        gateway = f"http://{self.control.address}:{self.ports['gateway']}"
        return {**super()._addresses(), "BIND": "0.0.0.0", "GATEWAY_URL": gateway}

    def _make_broker(self, extra_configuration: str = "") -> None:
        (self.folder / "broker").mkdir()
        everywhere = f"{extra_configuration}listener {self.ports['broker']} 0.0.0.0\n"
        broker = Mosquitto(self.folder / "broker", self.ports["broker"], everywhere)
        configuration = self.folder / "broker" / "mosquitto.conf"
        lines = configuration.read_text().splitlines(keepends=True)
        configuration.write_text("".join(line for line in lines if not line.endswith(" 127.0.0.1\n")))
        self.parts["broker"] = self._inside(self.control, broker.process)

    def _python(self, module: str, settings: Mapping[str, str], name: str = "") -> Process:
        if module != "worker":
            return self._inside(self.control, super()._python(module, settings, name))
        host = self.hosts[name] = self._net.add_host()
        own = {"WORKER_IP": host.address, "BIND": host.address, "MQTT_BROKER_HOST": self.control.address}
        return self._inside(host, super()._python(module, {**settings, **own}, name))

    def _inside(self, host: Host, process: Process) -> Process:
        return Process(host.command(*process.argv), process.env, process.log_path, process.cwd)


@contextlib.contextmanager
def spread_cluster(workers: int, **settings: str) -> Iterator[SpreadCluster]:
    """A ready cluster with real workers `edge-0`, `edge-1` …, each host in a namespace of its own."""
    with network() as net, scratch_folder() as folder:
        made = SpreadCluster(folder, net, settings)
        try:
            made.start()
            for number in range(workers):
                made.add_worker(f"edge-{number}")
            for number in range(workers):
                made.wait_until_node_is(f"edge-{number}", "READY")
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder; what still runs in it or is mounted below it at the end is killed and unmounted."""
    with tempfile.TemporaryDirectory(prefix="netns-") as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            leftovers.kill_processes_mentioning(name)
            _kill_processes_in(folder)
            leftovers.unmount_below(folder)


def _kill_processes_in(folder: Path) -> None:
    """`kill -9` of whatever has its working folder in `folder`: workloads outlive their worker."""

    def living() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder.resolve()):
                    found.append(int(entry.name))
        return found

    def all_gone() -> bool:
        for pid in living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        return not living()

    wait_until(all_gone, what=f"nothing runs in {folder}")


def _packet_filter(namespace: str) -> str:
    """The first iptables that can drop at random in a namespace; "" where none can."""
    probe = ["-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP"]
    for program in filter(None, map(find, _IPTABLES)):
        enter = [find("nsenter") or "nsenter", f"--net={NAMESPACES / namespace}", "--", program]
        made = subprocess.run([*enter, "-A", "FORWARD", *probe], check=False, capture_output=True)
        if made.returncode == 0:
            subprocess.run([*enter, "-D", "FORWARD", *probe], check=False, capture_output=True)
            return program
    return ""


def _run(program: str, *arguments: str) -> Any:
    command = [find(program) or program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True)
