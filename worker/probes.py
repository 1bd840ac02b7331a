"""One check of a running workload: an HTTP request, a TCP connection, or a command inside it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cluster.jobs import Probe
from worker.runtime.base import Runtime, RuntimeFailure, Workload


@dataclass(frozen=True)
class Verdict:
    """Whether a check passed, and in words why not."""

    is_passed: bool
    detail: str = ""


async def check(probe: Probe, runtime: Runtime, workload: Workload) -> Verdict:
    """Run the check once, within its time-out. A port that accepts and says nothing fails an HTTP check in time."""
    try:
        if probe.command:
            status, output = await runtime.execute(workload.ref, probe.command, probe.timeout_s)
            return Verdict(status == 0, f"status {status} {output.strip()[:200]}".strip())
        async with asyncio.timeout(probe.timeout_s):
            host, port = await runtime.address(workload, probe.port)
            return await _http(host, port, probe.http_path) if probe.http_path else await _tcp(host, port)
    except RuntimeFailure as error:
        return Verdict(is_passed=False, detail=error.reason)
    except TimeoutError:
        return Verdict(is_passed=False, detail=f"no answer within {probe.timeout_s:g} s")
    except (OSError, EOFError, ValueError) as error:
        return Verdict(is_passed=False, detail=str(error) or type(error).__name__)


async def _tcp(host: str, port: int) -> Verdict:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return Verdict(is_passed=True)


async def _http(host: str, port: int, path: str) -> Verdict:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        line = (await reader.readline()).decode("latin-1").split(" ", 2)
        status = int(line[1]) if len(line) > 1 and line[0].startswith("HTTP/") else 0
        return Verdict(200 <= status < 400, f"HTTP {status}" if status else "the answer is not HTTP")
    finally:
        writer.close()
