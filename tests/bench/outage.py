"""The store is away for a minute: another connection holds SQLite's write lock while the nodes go on speaking.

Twice a second an instance says something new, so that there is something to save; all of it must be saved in the end.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.big_plane import BigPlane, Sight, big_plane, dropped, filled_store, running, since, until
from bench.crowd import Command, Crowd
from bench.figures import Figure

from manager.domain.model import InstanceKey
from manager.ports import Contents
from testbed.full_store import GENERATION, WIDE_JOB, Layout

SIZES: Final = (1_000,)
AWAY_S: Final = 60.0
LIMIT_READY_S: Final = 10.0
LIMIT_GROWTH_MB: Final = 20.0
_STEADY_S: Final = 10.0
_SETTLE_S: Final = 15.0
_WATCH_S: Final = 120.0
_HEARD_S: Final = 60.0
_SAY_PERIOD_S: Final = 0.5
_LOCK_S: Final = 30.0


def run(
    *,
    sizes: Sequence[int] = SIZES,
    away_s: float = AWAY_S,
    steady_s: float = _STEADY_S,
    settle_s: float = _SETTLE_S,
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Memory, nodes READY, messages dropped, states lost and instances touched when the store is away for `away_s`."""
    found: dict[str, Any] = {}
    for nodes in sizes:
        layout = Layout(nodes=nodes)
        load_before = os.getloadavg()[0]
        with filled_store(layout) as filled, big_plane(filled, **(settings or {})) as plane:
            with running(plane, layout) as crowd:
                time.sleep(steady_s)
                looking = _Looking(plane, crowd, layout)
                seen = _watch(plane, crowd, looking, away_s, settle_s)
                commands = crowd.commands()
            kept = _kept(looking.said, commands, plane.saved())
        found[str(nodes)] = {"load_before": load_before, **seen, **kept}
    return {"sizes": found}


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    return [
        figure
        for nodes, outage in result["sizes"].items()
        for figure in _figures(f"store away {outage['away_s']:g} s, {int(nodes):,}:", int(nodes), outage)
    ]


def _figures(what: str, nodes: int, outage: dict[str, Any]) -> list[Figure]:
    grown_mb = outage["rss_end_mb"] - outage["rss_begin_mb"]
    return [
        Figure(name=f"{what} READY at the least", value=outage["ready_min"], unit="nodes", limit=nodes, is_floor=True),
        Figure(name=f"{what} all READY after its return", value=outage["ready_s"], unit="s", limit=LIMIT_READY_S),
        Figure(name=f"{what} memory grown by", value=grown_mb, unit="MB", limit=LIMIT_GROWTH_MB),
        Figure(name=f"{what} messages dropped", value=outage["dropped"], unit="msg", limit=0),
        Figure(name=f"{what} states lost", value=outage["lost_states"], unit="", limit=0),
        Figure(name=f"{what} instances touched", value=outage["touched"], unit="", limit=0),
    ]


class _Looking:
    """Looks once a second how it stands; between two looks one instance after the other says something new."""

    def __init__(self, plane: BigPlane, crowd: Crowd, layout: Layout) -> None:
        self._plane, self._crowd, self._layout = plane, crowd, layout
        self.said: list[tuple[int, str]] = []

    def look(self, seconds: float) -> list[Sight]:
        """How it stood meanwhile; at least one look."""
        seen: list[Sight] = []
        began_s = time.monotonic()
        while not seen or time.monotonic() - began_s < seconds:
            self._say()
            time.sleep(_SAY_PERIOD_S)
            self._say()
            seen.append(self._plane.sight())
            time.sleep(_SAY_PERIOD_S)
        return seen

    def is_heard(self) -> bool:
        """Whether the last that was said is known."""
        node, words = self.said[-1]
        return any(event.cause == words for event in self._plane.instance(WIDE_JOB, node).events)

    def _say(self) -> None:
        node, words = len(self.said) % self._layout.nodes, f"word {len(self.said)}"
        self._crowd.say(node, words)
        self.said.append((node, words))


def _watch(plane: BigPlane, crowd: Crowd, looking: _Looking, away_s: float, settle_s: float) -> dict[str, Any]:
    before, rss_begin_mb = plane.sight(), plane.rss_mb("manager")
    crowd.pace()
    with _locked(plane.store):
        away = looking.look(away_s)
    rss_end_mb, returned_s = plane.rss_mb("manager"), time.monotonic()
    returning: list[Sight] = []
    is_ready = until(lambda: _is_well(plane, returning), _WATCH_S)
    ready_s = time.monotonic() - returned_s
    settled = looking.look(settle_s)
    until(looking.is_heard, _HEARD_S)
    pace, after = crowd.pace(), plane.sight()
    return {
        "away_s": away_s,
        "ready_min": min(seen.ready for seen in (*away, *returning, *settled)),
        "ready_away": [seen.ready for seen in away],
        "is_ready": is_ready,
        "ready_s": round(ready_s, 2),
        "rss_begin_mb": rss_begin_mb,
        "rss_end_mb": rss_end_mb,
        "rss_after_mb": plane.rss_mb("manager"),
        "pace": asdict(pace),
        "dropped": dropped(after.counters) + pace.dropped_by_broker,
        "counters": since(before, after),
        "instances": dict(after.instances),
    }


def _is_well(plane: BigPlane, seen: list[Sight]) -> bool:
    """Whether store, broker and scheduler work and every node is READY; what is seen is added."""
    seen.append(plane.sight())
    return plane.is_ready() and seen[-1].ready == sum(seen[-1].nodes.values())


def _kept(said: Sequence[tuple[int, str]], commands: Sequence[Command], saved: Contents) -> dict[str, Any]:
    """What of all that was said is not in the store, and whose instances were commanded or placed anew."""
    words = {item.key: {event.cause for event in item.events} for item in saved.instances}
    lost = [text for node, text in said if text not in words[InstanceKey(WIDE_JOB, node)]]
    touched = {item.key for item in saved.instances if item.generation != GENERATION}
    touched |= {InstanceKey(item.job_id, item.number) for item in commands}
    return {"said": len(said), "lost_states": len(lost), "lost_words": lost, "touched": len(touched)}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else can write to the store for the time of the block."""
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_S, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
