"""What a manager of 10,000 nodes and 100,000 instances takes when all histories are full, and what one change saves.

The histories are in the store before the manager starts. A change is one more event of such an instance.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.big_plane import big_plane, filled_store
from bench.figures import Figure

from manager.domain.model import KEPT_EVENTS, Event, Instance, Logged
from manager.store import codec
from manager.store.factory import open_store
from testbed.full_store import BORN_MS, Layout
from testbed.records import change
from testbed.stores import sqlite_url

SIZES: Final = (10_000,)
LIMIT_MB: Final = 1024.0
LIMIT_CHANGE_BYTES: Final = 2048.0
_REST_S: Final = 10.0
_CHANGES: Final = 200
_HOUR: Final = "3600"
_NUMBERS: Final = 4  # version and schema of the row, slot and number of the log's
_NUMBER_BYTES: Final = 8


def run(*, sizes: Sequence[int] = SIZES, events: int = KEPT_EVENTS, rest_s: float = _REST_S) -> dict[str, Any]:
    """Megabytes of a manager at rest and at most, and bytes per change: as encoded, and as written to the file."""
    found: dict[str, Any] = {}
    for nodes in sizes:
        layout = Layout(nodes=nodes, events=events)
        with filled_store(layout) as filled:
            store_mb = round(filled.stat().st_size / 2**20, 1)
            written = _bytes_written(layout, filled)
            with big_plane(filled, LEASE_S=_HOUR) as plane:  # nobody plays the nodes: none is to be judged
                began_s = time.monotonic()
                plane.start()
                started_s = round(time.monotonic() - began_s, 1)
                time.sleep(rest_s)
                rss_mb, peak_mb = plane.rss_mb("manager"), plane.rss_mb("manager", "VmHWM")
        found[str(nodes)] = {
            "instances": layout.instances,
            "store_mb": store_mb,
            "started_s": started_s,
            "rss_mb": rss_mb,
            "rss_peak_mb": peak_mb,
            **written,
        }
    return {"sizes": found}


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    return [figure for memory in result["sizes"].values() for figure in _figures(memory)]


def _figures(memory: dict[str, Any]) -> list[Figure]:
    what = f"memory {memory['instances']:,}, full histories:"
    change_bytes = memory["change_bytes"]
    return [
        Figure(name=f"{what} manager at rest", value=memory["rss_mb"], unit="MB", limit=LIMIT_MB),
        Figure(name=f"{what} manager at most", value=memory["rss_peak_mb"], unit="MB", limit=LIMIT_MB),
        Figure(name=f"{what} ready after", value=memory["started_s"], unit="s"),
        Figure(name=f"{what} a change, encoded", value=change_bytes, unit="bytes", limit=LIMIT_CHANGE_BYTES),
        Figure(name=f"{what} a change, written", value=memory["written_bytes"], unit="bytes"),
        Figure(name=f"{what} the store", value=memory["store_mb"], unit="MB"),
    ]


def _bytes_written(layout: Layout, filled: Path) -> dict[str, int]:
    """Change some instances of a copy one by one. `written_bytes` is what the kernel was given for one, log and all."""
    with tempfile.TemporaryDirectory(prefix="changed-") as folder:
        shutil.copy(filled, Path(folder) / "store.db")
        with closing(open_store(sqlite_url(Path(folder)))) as store:
            loaded = store.load(BORN_MS)
            changed = [_one_more(item) for item in loaded.instances[:_CHANGES]]
            before = _given_to_kernel()
            for old, (new, logged) in zip(loaded.instances, changed, strict=False):
                if store.write([change(new, expected=old.version, before=old)], [logged]):
                    raise RuntimeError(f"{new.key} was not changed")
            written = (_given_to_kernel() - before) // len(changed)
    return {"change_bytes": max(saved_bytes(*pair) for pair in changed), "written_bytes": written}


def saved_bytes(instance: Instance, logged: Logged) -> int:
    """How much a change of this instance saves: its row and that of the log. Its specification is saved already."""
    columns = (str(instance.key), *codec.columns(instance), codec.text(codec.encode(instance)))
    entry = (logged.subject, codec.text(codec.encode_event(logged.event)))
    return sum(len(str(value).encode()) for value in (*columns, *entry)) + _NUMBERS * _NUMBER_BYTES


def _one_more(instance: Instance) -> tuple[Instance, Logged]:
    last = instance.events[-1]
    event = Event(at_ms=last.at_ms + 1, actor=last.actor, kind="told", state=last.state, cause="something else")
    changed = replace(instance.recorded(event), version=instance.version + 1)
    return changed, Logged(subject=f"instance:{instance.key}", number=changed.event_count, event=event)


def _given_to_kernel() -> int:
    lines = Path(f"/proc/{os.getpid()}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))
