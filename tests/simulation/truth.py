"""What really runs where, known to nobody in the cluster: copies of instances, how they began and how they ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from cluster.jobs import JobSpec

Slot = tuple[str, int]


class End(StrEnum):
    """How a copy ended."""

    EXITED = "exited by itself"
    CRASHED = "crashed"
    COMMANDED = "was told to stop"
    CUT_OFF = "had no lease"
    LOST_POWER = "lost power with its machine"
    REMOVED = "was removed by its engine's start"


@dataclass(eq=False)
class Copy:
    """A workload that runs, or ran. `generation` is None on nodes that know none; `mark` tells specifications apart."""

    node: str
    slot: Slot
    generation: int | None
    mark: str
    spec: JobSpec | None
    began_s: float
    ended_s: float | None = None
    end: End | None = None

    def __str__(self) -> str:
        generation = f" generation {self.generation}" if self.generation is not None else ""
        return f"{self.slot[0]}/{self.slot[1]}{generation} {self.mark} on {self.node}"


class Copies:
    """Everything that runs; `on_begin` and `on_end` are told."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._of: dict[Slot, dict[Copy, None]] = {}
        self.begun: dict[Slot, int] = {}
        self.runs_of: dict[tuple[Slot, int | None], int] = {}
        self.last_end: dict[tuple[str, Slot], Copy] = {}
        self.on_begin: Callable[[Copy], None] = lambda _copy: None
        self.on_end: Callable[[Copy], None] = lambda _copy: None

    def begin(self, node: str, slot: Slot, generation: int | None, mark: str, spec: JobSpec | None = None) -> Copy:
        """A workload runs."""
        copy = Copy(node, slot, generation, mark, spec, self._now_s())
        self._of.setdefault(slot, {})[copy] = None
        self.begun[slot] = self.begun.get(slot, 0) + 1
        self.runs_of[slot, generation] = self.runs_of.get((slot, generation), 0) + 1
        self.on_begin(copy)
        return copy

    def end(self, copy: Copy, how: End) -> None:
        """It runs no more."""
        if copy.ended_s is None:
            copy.ended_s, copy.end = self._now_s(), how
            self._of[copy.slot].pop(copy)
            self.last_end[copy.node, copy.slot] = copy
            self.on_end(copy)

    def of(self, slot: Slot) -> list[Copy]:
        """The copies of an instance that run."""
        return list(self._of.get(slot, ()))

    def all(self) -> list[Copy]:
        """Whatever runs."""
        return [copy for copies in self._of.values() for copy in copies]


def mark_of(image: str) -> str:
    """The specification's mark: the tag of its image."""
    return image.rpartition(":")[2]
