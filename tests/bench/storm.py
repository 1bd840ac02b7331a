"""Everything comes back at once: all nodes of a large cluster are silent for 13 s, and then all of them speak again.

Real broker (mosquitto), manager (SQLite) and scheduler; the nodes are a crowd. Scenarios: all are `back`; 29 % are
really `gone`; all are back while a job that is on every node is rolled over to a new image (`rolling`); or 29 % are
`lost` while the others are heard all the time.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.big_plane import BigPlane, OwnGaps, Sight, big_plane, dropped, filled_store, running, since, until
from bench.crowd import Command, Crowd
from bench.figures import Figure
from bench.loop_probe import LoopProbe, probing

from cluster.convert import spec_to_proto
from cluster.v1 import job_pb2, manager_pb2
from manager.ports import Contents
from testbed.full_store import GENERATION, WIDE_JOB, Layout

SIZES: Final = (1_000, 10_000)
LIMIT_READY_S: Final = 10.0
LIMIT_REPLACED_S: Final = 240.0
LIMIT_GAP_MS: Final = 250.0
LIMIT_RSS_MB: Final = 1024.0
SILENCE_S: Final = 13.0
GONE_SHARE: Final = 0.29
_ROLLING_SHARE: Final = 0.05
_STEADY_S: Final = 10.0
_SETTLE_S: Final = 15.0
_WATCH_S: Final = 60.0
_REPLACE_S: Final = 300.0
_REPLACE_PAUSE_S: Final = 5.0
_START_S: Final = 60.0
_SCENARIOS: Final = ("back", "gone", "rolling", "lost")
_BURIED: Final = ("gone", "lost")


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long each part of a storm lasts, in seconds.

    `watch_s` bounds the wait until all are READY, `replace_s` until what was on nodes that are gone runs elsewhere;
    what follows is watched for `settle_s` more.
    """

    steady_s: float = _STEADY_S
    silence_s: float = SILENCE_S
    watch_s: float = _WATCH_S
    replace_s: float = _REPLACE_S
    settle_s: float = _SETTLE_S


DEFAULT_TIMES: Final = Times()


def run(
    *,
    sizes: Sequence[int] = SIZES,
    scenarios: Sequence[str] = _SCENARIOS,
    times: Times = DEFAULT_TIMES,
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What each scenario does to clusters of these sizes, with 10 instances per node; `settings` are the parts'."""
    found: dict[str, Any] = {}
    for nodes in sizes:
        layout = Layout(nodes=nodes)
        with filled_store(layout) as filled:
            found[str(nodes)] = {name: _Storm(layout, name, times).run(filled, settings or {}) for name in scenarios}
    return {"sizes": found}


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits."""
    return [
        figure
        for nodes, scenarios in result["sizes"].items()
        for name, storm in scenarios.items()
        for figure in _figures(f"storm {int(nodes):,}, {name}:", storm)
    ]


def _figures(what: str, storm: dict[str, Any]) -> list[Figure]:
    gap_ms = storm["storm"]["gaps"]["max_ms"]
    own_ms = [] if storm["own_gap_s"] is None else [storm["own_gap_s"] * 1e3]
    return [
        Figure(name=f"{what} READY again after", value=storm["ready_s"], unit="s", limit=LIMIT_READY_S),
        Figure(name=f"{what} still not READY", value=storm["unready"], unit="nodes", limit=0),
        Figure(name=f"{what} all is placed anew after", value=storm["replaced_s"], unit="s", limit=LIMIT_REPLACED_S),
        Figure(name=f"{what} largest gap of the loop", value=gap_ms, unit="ms", limit=LIMIT_GAP_MS),
        *(Figure(name=f"{what} by its own account", value=ms, unit="ms", limit=LIMIT_GAP_MS) for ms in own_ms),
        Figure(name=f"{what} of it the machine's", value=storm["storm"]["gaps"]["machine_ms"], unit="ms"),
        Figure(name=f"{what} largest gap before it", value=storm["steady"]["gaps"]["max_ms"], unit="ms"),
        Figure(name=f"{what} healthy instances touched", value=storm["touched"], unit="", limit=0),
        Figure(name=f"{what} messages dropped", value=storm["dropped"], unit="msg", limit=0),
        Figure(name=f"{what} manager's memory at most", value=storm["rss_peak_mb"], unit="MB", limit=LIMIT_RSS_MB),
        Figure(name=f"{what} manager's cpu", value=storm["storm"]["cpu_share"], unit="cores"),
        Figure(name=f"{what} the crowd was late by (p99)", value=storm["storm"]["pace"]["late_p99_s"], unit="s"),
    ]


class _Storm:
    """One scenario on one cluster."""

    def __init__(self, layout: Layout, name: str, times: Times) -> None:
        self._layout = layout
        self._name = name
        self._times = times
        self._gone = round(layout.nodes * GONE_SHARE) if name in _BURIED else 0
        self._living = layout.nodes - self._gone

    def run(self, filled: Path, settings: Mapping[str, str]) -> dict[str, Any]:
        load_before = os.getloadavg()[0]
        with big_plane(filled, **settings) as plane:
            with running(plane, self._layout) as crowd, probing(plane) as probe:
                seen = self._watch(plane, crowd, probe)
                commands = crowd.commands()
            touched = self._touched(commands, plane.saved())
        return {"load_before": load_before, **seen, **touched}

    # On the living cluster

    def _watch(self, plane: BigPlane, crowd: Crowd, probe: LoopProbe) -> dict[str, Any]:
        times = self._times
        was_ready = until(lambda: plane.first_unready() == "", _START_S)
        phase = _Phase(plane, crowd, probe)
        time.sleep(times.steady_s)
        steady = phase.end()
        if self._name == "rolling":
            self._roll(plane)
        before = plane.sight()
        phase = _Phase(plane, crowd, probe)
        if self._name != "lost":
            crowd.silence()
            time.sleep(times.silence_s)
        silence = phase.end()
        phase = _Phase(plane, crowd, probe)
        with OwnGaps(plane) as own_gaps:
            spoke_s = crowd.speak(self._gone)
            are_back = until(lambda: self._are_back(plane), times.watch_s)
            ready_s = time.monotonic() - spoke_s
            is_replaced = are_back and until(
                lambda: self._is_replaced(plane, before), times.replace_s, _REPLACE_PAUSE_S
            )
            replaced_s = time.monotonic() - spoke_s
            time.sleep(times.settle_s)
        storm = phase.end()
        after = plane.sight()
        return {
            "was_ready": was_ready,
            "ready_s": round(ready_s, 2),
            "is_replaced": is_replaced,
            "replaced_s": round(replaced_s, 1),
            "unready": 0 if are_back else self._living - after.ready,
            "steady": steady,
            "silence": silence,
            "storm": storm,
            "own_gap_s": own_gaps.largest_s,
            "rss_peak_mb": plane.rss_mb("manager", "VmHWM"),
            "rss_mb": plane.rss_mb("manager"),
            "dropped": dropped(after.counters) + storm["pace"]["dropped_by_broker"],
            "counters": since(before, after),
            "nodes": dict(after.nodes),
            "instances": dict(after.instances),
        }

    def _are_back(self, plane: BigPlane) -> bool:
        """The nodes that are gone come last by name: everybody before them is READY."""
        name = plane.first_unready()
        return name == "" or name >= self._layout.node_name(self._living)

    def _is_replaced(self, plane: BigPlane, before: Sight) -> bool:
        """Those that are gone are DOWN, and all of their instances were sent elsewhere and run there."""
        if not self._gone:
            return True
        seen = plane.sight()
        sent = since(before, seen).get("commands_deploy", 0)
        return (
            sent >= self._gone * self._layout.per_node
            and seen.nodes.get("DOWN") == self._gone
            and seen.instances.get("RUNNING") == self._layout.instances
        )

    def _roll(self, plane: BigPlane) -> None:
        spec = replace(self._layout.spec(WIDE_JOB), image="registry.example/demo/web:2.0")
        batch_size = max(1, round(self._layout.nodes * _ROLLING_SHARE))
        strategy = job_pb2.UpdateStrategy(batch_size=batch_size, rollback_on_failure=True)
        strategy.health_deadline.FromSeconds(300)
        plane.call(
            "UpdateJob", manager_pb2.UpdateJobRequest(job_id=WIDE_JOB, spec=spec_to_proto(spec), strategy=strategy)
        )

    # What was done to the instances

    def _touched(self, commands: Sequence[Command], saved: Contents) -> dict[str, Any]:
        """Healthy ones that were commanded or have another generation, beyond what a rolling update asks for."""
        lost = {key for node in range(self._living, self._layout.nodes) for key in self._layout.keys_on(node)}
        commanded = Counter((item.job_id, item.number) for item in commands if item.verb != "move")
        generations: dict[tuple[str, int], set[int]] = {}
        for item in commands:
            generations.setdefault((item.job_id, item.number), set()).add(item.generation)
        changed = {item.key for item in saved.instances if item.generation != GENERATION}
        touched = {key for key in {*commanded, *changed} if key not in lost}
        if self._name == "rolling":
            touched = {
                key for key in touched if key[0] != WIDE_JOB or len(generations.get(key, set()) - {GENERATION}) > 1
            }
        return {
            "touched": len(touched),
            "lost": len(lost),
            "replaced": len(lost & changed),
            "saved": sum(1 for item in saved.instances if item.version > 1),
            "commands": Counter(item.verb for item in commands),
            "rolled": sum(1 for key in changed if key[0] == WIDE_JOB),
        }


class _Phase:
    """What happens between two moments."""

    def __init__(self, plane: BigPlane, crowd: Crowd, probe: LoopProbe) -> None:
        self._plane, self._crowd, self._probe = plane, crowd, probe
        crowd.pace()
        probe.take()
        self._began_s, self._cpu_s = time.monotonic(), plane.cpu_s("manager")

    def end(self) -> dict[str, Any]:
        """Round trips, what the crowd sent, and the manager's share of a core."""
        took_s = time.monotonic() - self._began_s
        cpu_s = self._plane.cpu_s("manager") - self._cpu_s
        return {
            "took_s": round(took_s, 1),
            "cpu_share": round(cpu_s / took_s, 2),
            "rss_mb": self._plane.rss_mb("manager"),
            "gaps": asdict(self._probe.take()),
            "pace": asdict(self._crowd.pace()),
        }
