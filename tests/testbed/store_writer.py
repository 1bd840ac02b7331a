"""A program for tests of durability: `python -m testbed.store_writer URL NAME COUNT [BATCH]`.

Raises the settings NAME-0 … NAME-(BATCH-1) from version to version together, COUNT times; after each answer of the
store it prints the version that is saved now. With BATCH 1 and other writers about it retries until it has counted.
"""

import sys

from manager.domain.model import Setting
from manager.ports import Change, Kind, Store
from manager.store.factory import open_store


def increment(store: Store, names: list[str]) -> int:
    """Add 1 to each setting, by compare-and-set until all are done; returns the last version."""
    version = 0
    while names:
        saved = {item.name: item for item in store.load(0).settings}
        batch = [_next(saved.get(name), name) for name in names]
        names = [item.id for item in store.write(batch)]
        version = batch[-1].expected + 1
    return version


def _next(saved: Setting | None, name: str) -> Change:
    count, expected = (int(saved.value), saved.version) if saved else (0, 0)
    record = Setting(name=name, value=str(count + 1), version=expected + 1)
    return Change(kind=Kind.SETTING, id=name, expected=expected, record=record)


def main(url: str, name: str, count: int, batch: int = 1) -> None:
    """Count."""
    store = open_store(url)
    names = [f"{name}-{number}" for number in range(batch)]
    for _ in range(count):
        sys.stdout.write(f"{increment(store, names)}\n")
        sys.stdout.flush()
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(argument) for argument in sys.argv[3:]))
