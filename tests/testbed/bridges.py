"""Network bridges of the host, one for each private container engine, so that engines share no addresses."""

import dataclasses
import json
import os
import subprocess

from testbed.commands import find


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bridge:
    """A bridge that may or may not exist yet."""

    name: str
    address: str

    def create(self) -> None:
        """Make it and bring it up; a no-op when it is there."""
        if self.name in _addresses():
            return
        _ip("link", "add", self.name, "type", "bridge")
        _ip("address", "add", self.address, "dev", self.name)
        _ip("link", "set", self.name, "up")

    def delete(self) -> None:
        """Remove it; a no-op when it is gone."""
        if self.name in _addresses():
            _ip("link", "delete", self.name)


def free_bridge() -> Bridge:
    """A bridge named after this process in a 10.231.N.0/24 network that no interface of the host uses."""
    taken = _addresses()
    used = {address for addresses in taken.values() for address in addresses}
    start = os.getpid() % 250
    for offset in range(250):
        third = 1 + (start + offset) % 250
        name = f"tb{os.getpid() % 1_000_000}-{third}"
        if f"10.231.{third}.1" not in used and name not in taken:
            return Bridge(name=name, address=f"10.231.{third}.1/24")
    raise RuntimeError("no free network for a bridge in 10.231.0.0/16")


def _addresses() -> dict[str, list[str]]:
    links = json.loads(_ip("-json", "address", "show"))
    return {link["ifname"]: [info["local"] for info in link["addr_info"]] for link in links}


def _ip(*arguments: str) -> str:
    command = [find("ip") or "ip", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
