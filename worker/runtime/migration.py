"""Live migration between two QEMUs, in QMP commands; `Ask` sends one and answers its result.

With `return-path` the source takes its guest back unless the target confirms that it has all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from worker.runtime.base import Progress, RuntimeFailure

ARRIVAL_S: Final = 20.0
TRANSFER_S: Final = 120.0
POLL_S: Final = 0.01
_CAPABILITIES: Final = ("return-path", "auto-converge")
_PARAMETERS: Final = {"downtime-limit": 300, "max-bandwidth": 1 << 30}
_UNDER_WAY: Final = ("setup", "active", "device", "pre-switchover", "cancelling")
_MEBIBYTE: Final = 1024 * 1024

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


async def incoming_uri(ask: Ask, ip: str) -> str:
    """Where a QEMU that was started with port 0 waits."""
    answer = await ask("query-migrate", {})
    host = f"[{ip}]" if ":" in ip else ip
    return f"tcp:{host}:{answer['socket-address'][0]['port']}"


async def begin(ask: Ask, uri: str) -> None:
    """Let the running guest go to `uri`."""
    capabilities = [{"capability": name, "state": True} for name in _CAPABILITIES]
    await ask("migrate-set-capabilities", {"capabilities": capabilities})
    await ask("migrate-set-parameters", _PARAMETERS)
    with contextlib.suppress(TimeoutError):  # it may have begun: `outcome` tells
        await ask("migrate", {"uri": uri})


async def outcome(ask: Ask, progress: Progress) -> int:
    """Follow the guest on its way; answers its pause in ms. Raises RuntimeFailure where it stays, and runs."""
    deadline = time.monotonic() + TRANSFER_S
    reason = ""
    while (answer := await _patiently(ask, deadline + TRANSFER_S)).get("status") in _UNDER_WAY:
        if "ram" in answer:
            sent, total = (answer["ram"][key] // _MEBIBYTE for key in ("transferred", "total"))
            progress(f"moving live: {sent} of {total} MB sent")
        if time.monotonic() > deadline and not reason:
            reason = f"not done within {TRANSFER_S:g} s"
            await ask("migrate_cancel", {})
        await asyncio.sleep(POLL_S)
    if answer.get("status") == "completed":
        return int(answer["downtime"])
    await _insist_on_running(ask)
    raise RuntimeFailure(reason or answer.get("error-desc") or f"migration {answer.get('status', 'never began')}")


async def is_leaving(ask: Ask) -> bool:
    """Whether the guest is on its way to another node, or has gone there."""
    if (await ask("query-status", {}))["status"] == "postmigrate":
        return True
    return (await ask("query-migrate", {})).get("status") in _UNDER_WAY


async def arrival(ask: Ask, patience_s: float) -> None:
    """Return once the guest runs here. Raises RuntimeFailure where none is coming within `patience_s`."""
    began = time.monotonic()
    while (status := (await ask("query-status", {}))["status"]) == "inmigrate":
        waited_s = time.monotonic() - began
        is_coming = (await ask("query-migrate", {})).get("status") == "active"
        if waited_s > (TRANSFER_S if is_coming else patience_s):
            raise RuntimeFailure(f"no running guest came within {patience_s:g} s")
        await asyncio.sleep(POLL_S)
    if status != "running":
        raise RuntimeFailure(f"the guest arrived, but is {status}")


async def _patiently(ask: Ask, until: float) -> Any:
    """How the migration is; a QEMU too busy to answer is still at it, for a while."""
    try:
        return await ask("query-migrate", {})
    except TimeoutError:
        if time.monotonic() > until:
            raise
        return {"status": "active"}


async def _insist_on_running(ask: Ask) -> None:
    if not (await ask("query-status", {}))["running"]:
        await ask("cont", {})
