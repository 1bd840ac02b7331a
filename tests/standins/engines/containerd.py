"""The containers of one machine: they outlive their engine."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from standins.engines.service import Service


@dataclass
class Container:
    """A running container. `is_forgotten`: a restarted containerd still lists it, and nothing can touch it any more."""

    service: Service
    is_forgotten: bool = False


@dataclass
class Containerd:
    """What runs on the machine by container name, how often each was started, and when (generation by generation)."""

    containers: dict[str, Container] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def running(self) -> list[str]:
        """The names of what runs."""
        with self.lock:
            return sorted(self.containers)

    def living(self) -> list[str]:
        """The names of what runs and can still be touched."""
        with self.lock:
            return sorted(name for name, item in self.containers.items() if not item.is_forgotten)

    def start(self, service: Service) -> None:
        """Start a container."""
        with self.lock:
            self.containers[service.container] = Container(service)
            self.starts[service.container] += 1

    def remove(self, name: str) -> None:
        """Remove a container."""
        with self.lock:
            self.containers.pop(name, None)

    def remove_all(self) -> None:
        """What an engine does when it starts."""
        with self.lock:
            self.containers.clear()
