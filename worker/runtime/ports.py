"""The `port` string of a job, read as published ports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedPort:
    """A port of the host that leads to one of the workload; `host` 0: the runtime chooses."""

    host: int
    inside: int
    protocol: str


def parse_ports(text: str) -> tuple[PublishedPort, ...]:
    """`"8080:80/tcp;53:53/udp;9000"`; a port alone is published under its own number. The text was checked before."""
    ports = []
    for part in text.split(";"):
        numbers, _, protocol = part.strip().partition("/")
        if numbers:
            host, _, inside = numbers.partition(":")
            ports.append(PublishedPort(int(host), int(inside or host), protocol or "tcp"))
    return tuple(ports)


def published_address(text: str, ip: str, port: int) -> tuple[str, int] | None:
    """Where a port inside the workload was published, on the node's `ip`; None where it was not."""
    for published in parse_ports(text):
        if published.protocol == "tcp" and port == published.inside:
            return (ip, published.host)
    return None
