"""How long single steps hold the manager's event loop, at two sizes: what grows with the cluster blocks it one day.

Told are microseconds at each size, with 10 instances per node, and by which factor they grow when the cluster does.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.figures import Figure
from bench.loop_parts import pieces
from bench.loop_rig import Rig, Step, layout_of, steps

SIZES: Final = (1_000, 10_000)
LIMIT_US: Final = 250_000.0
_BUDGET_S: Final = 0.3
_MOST: Final = 200
_LEAST: Final = 3


def run(*, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """The median microseconds of each step by size, and its growth from the first size to the last."""
    taken = {nodes: asyncio.run(_measure_all(nodes)) for nodes in sizes}
    first, last = taken[sizes[0]], taken[sizes[-1]]
    growth = {name: round(us / first[name], 2) for name, us in last.items()}
    return {"us": {str(nodes): found for nodes, found in taken.items()}, "growth": growth}


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures with their limits: at the largest size nothing holds the loop longer than it may."""
    nodes, largest = list(result["us"].items())[-1]
    return [
        figure
        for name, us in largest.items()
        for figure in (
            Figure(name=f"loop, {int(nodes):,}: {name}", value=us, unit="us", limit=LIMIT_US),
            Figure(name=f"loop, growth: {name}", value=result["growth"][name], unit="x"),
        )
    ]


async def _measure_all(nodes: int) -> dict[str, float]:
    rig = Rig(layout_of(nodes))
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # who waited for what a step did is gone
    gc.collect()
    gc.disable()
    try:
        return {name: _median_us(rig, step) for name, step in steps(rig).items()}
    finally:
        gc.enable()


def _median_us(rig: Rig, step: Step) -> float:
    """The first time warms up."""
    _taken_s(rig, step)
    taken: list[float] = []
    began_s = time.perf_counter()
    while len(taken) < _LEAST or (time.perf_counter() - began_s < _BUDGET_S and len(taken) < _MOST):
        taken.append(_taken_s(rig, step))
    return round(statistics.median(taken) * 1e6, 2)


def _taken_s(rig: Rig, step: Step) -> float:
    """The longest that it holds the loop, in processor time: whatever else the machine does is left out."""
    step.prepare()
    began_s = time.thread_time()
    done = step.do()
    taken_s = time.thread_time() - began_s
    if inspect.iscoroutine(done):
        taken_s = max(pieces(done, waits=step.waits))
    rig.undo()
    return taken_s
