"""How fast the stores save: `PYTHONPATH=.:tests python -m bench.store_writes`."""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from manager.domain.model import Event, Instance, InstanceState, Placement
from manager.ports import Store
from manager.store.factory import open_store
from testbed.records import change, instance, spec
from testbed.requirement import available
from testbed.stores import mongo_address, scratch_database, sqlite_url

BATCHES = (1, 10, 100)
LOADED = 20_000
_SECONDS = 1.5
_EVENTS = 8


def run() -> dict[str, Any]:
    """Writes per second and milliseconds per batch of each store, what one fsync takes here, and loading."""
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        figures: dict[str, Any] = {"fsync_ms": _fsync_ms(Path(folder))}
        with contextlib.closing(open_store(sqlite_url(Path(folder)))) as store:
            figures["sqlite"] = {**_writes(store), **_load(store)}
    if available("mongo") or os.environ.get("STORE_URL", "").startswith("mongodb://"):
        with mongo_address() as address, scratch_database(address) as url, contextlib.closing(open_store(url)) as store:
            figures["mongo"] = _writes(store)
    return figures


def _writes(store: Store) -> dict[str, Any]:
    return {f"batch_{size}": _writes_in_batches(store, size) for size in BATCHES}


def _writes_in_batches(store: Store, size: int) -> dict[str, float]:
    """Change the same records again and again, each with a short history."""
    made = list(_instances(f"batch-{size}", size))
    store.write([change(record) for record in made])
    taken: list[float] = []
    while sum(taken) < _SECONDS:
        version = made[0].version + 1
        made = [replace(record, version=version) for record in made]
        start = time.perf_counter()
        conflicts = store.write([change(record, expected=version - 1) for record in made])
        taken.append(time.perf_counter() - start)
        if conflicts:
            raise RuntimeError(f"{len(conflicts)} changes did not hold")
    return {
        "writes_per_s": round(size * len(taken) / sum(taken)),
        "median_ms": round(statistics.median(taken) * 1000, 2),
        "p99_ms": round(sorted(taken)[int(len(taken) * 0.99)] * 1000, 2),
    }


def _load(store: Store) -> dict[str, float]:
    store.write([change(record) for record in _instances("load", LOADED)])
    start = time.perf_counter()
    count = len(store.load(0).instances)
    return {"loaded_instances_per_s": round(count / (time.perf_counter() - start))}


def _instances(job_id: str, count: int) -> Iterator[Instance]:
    of = spec(document='{"job_name": "web"}' + " " * 500)
    states = ("REQUESTED", "SCHEDULED", "STARTING", "RUNNING") * (_EVENTS // 4)
    history = tuple(Event(at_ms=1, actor="manager", kind="changed", state=state, cause="report") for state in states)
    placement = Placement(node_id="n", generation=1, spec=of, state=InstanceState.RUNNING, since_ms=1)
    for number in range(count):
        record = instance(number, spec=of, current=placement, events=history)
        yield replace(record, key=record.key._replace(job_id=job_id))


def _fsync_ms(folder: Path) -> float:
    taken = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            start = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return round(statistics.median(taken) * 1000, 3)


if __name__ == "__main__":
    print(orjson.dumps(run(), option=orjson.OPT_INDENT_2).decode())
