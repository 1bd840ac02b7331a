"""What clients may expect of one job: the wishes that reached the manager, in order, and all states that they allow.

A wish that was answered counts; one that was refused does not; of one whose answer was lost, or is on its way, nobody
knows: both are allowed. While the store has not taken a refused write back yet, a crash may make it count after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

Marks = frozenset[str]
GONE: Marks = frozenset()


@dataclass(frozen=True)
class Expected:
    """Which instances are to be there, by number, with the marks that each may have; `marks` are all of the job so far.

    A job that is scaled has no fixed numbers: only their `count`, from least to most, and the marks are known.
    """

    numbers: tuple[tuple[int, Marks], ...] = ()
    count: tuple[int, int] | None = None
    marks: Marks = GONE

    def of(self, number: int) -> Marks:
        """The marks of one instance; empty where it is to be gone."""
        return dict(self.numbers).get(number, GONE)

    def put(self, number: int, marks: Marks) -> Expected:
        """With one instance changed."""
        numbers = {**dict(self.numbers), number: marks}
        return replace(self, numbers=tuple(sorted((key, value) for key, value in numbers.items() if value)))


class Outcome(StrEnum):
    """What the client knows of a wish."""

    OPEN = "on its way"
    DONE = "answered"
    REFUSED = "refused"
    IN_LIMBO = "refused, and perhaps written"
    UNKNOWN = "never answered"


@dataclass(eq=False)
class Wish:
    """One call. `change` makes the expected state of the former one."""

    words: str
    change: Callable[[Expected], Expected]
    at_s: float
    outcome: Outcome = Outcome.OPEN

    def __str__(self) -> str:
        return f"{self.words} at {self.at_s:.1f} s ({self.outcome})"


class Book:
    """The wishes about one job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._settled: frozenset[Expected] = frozenset({Expected()})
        self._open: list[Wish] = []
        self.history: list[Wish] = []

    def arrive(self, wish: Wish) -> None:
        """It reached the manager."""
        self._open.append(wish)
        self.history.append(wish)

    def settle(self, wish: Wish, outcome: Outcome) -> None:
        """The client, or nobody, learned what became of it."""
        if wish.outcome in (Outcome.OPEN, Outcome.IN_LIMBO):
            wish.outcome = outcome
        while self._open and self._open[0].outcome not in (Outcome.OPEN, Outcome.IN_LIMBO):
            self._settled = _after(self._settled, self._open.pop(0), may_limbo=False)

    def end_limbo(self, outcome: Outcome) -> None:
        """The store works again (REFUSED), or the manager died before it did (UNKNOWN)."""
        for wish in [item for item in self._open if item.outcome is Outcome.IN_LIMBO]:
            self.settle(wish, outcome)

    def allowed(self, *, may_limbo: bool) -> frozenset[Expected]:
        """All states that may be; with `may_limbo` those of a write that is to be taken back, too."""
        states = self._settled
        for wish in self._open:
            states = _after(states, wish, may_limbo=may_limbo)
        return states

    def story(self) -> str:
        """The last wishes."""
        return "; ".join(map(str, self.history[-6:]))


def _after(states: Iterable[Expected], wish: Wish, *, may_limbo: bool) -> frozenset[Expected]:
    found = set(states)
    changed = {wish.change(state) for state in found}
    match wish.outcome:
        case Outcome.DONE:
            return frozenset(changed)
        case Outcome.REFUSED:
            return frozenset(found)
        case Outcome.IN_LIMBO:
            return frozenset(found | changed if may_limbo else found)
        case _:
            return frozenset(found | changed)


# The wishes


def deployed(number: int, mark: str) -> Callable[[Expected], Expected]:
    """Deploy one instance."""

    def change(state: Expected) -> Expected:
        if state.count is not None:
            least, most = state.count
            return replace(state, count=(max(least, 1), most + 1), marks=state.marks | {mark})
        return replace(state.put(number, frozenset({mark})), marks=state.marks | {mark})

    return change


def deleted(number: int) -> Callable[[Expected], Expected]:
    """Delete one instance, or all of them (-1)."""

    def change(state: Expected) -> Expected:
        if number == -1:
            return Expected(count=(0, 0) if state.count is not None else None, marks=state.marks)
        return state.put(number, GONE)

    return change


def updated(mark: str) -> Callable[[Expected], Expected]:
    """A rolling change: each instance will run the new specification, or one of the job's older ones again."""

    def change(state: Expected) -> Expected:
        marks = state.marks | {mark}
        return replace(state, numbers=tuple((number, marks) for number, _ in state.numbers), marks=marks)

    return change


def scaled(count: int) -> Callable[[Expected], Expected]:
    """Set the number of instances."""

    def change(state: Expected) -> Expected:
        return Expected(count=(count, count), marks=state.marks)

    return change


def mismatch(state: Expected, seen: dict[int, str]) -> str:
    """Why the desired instances, number -> mark, are not that state; "" where they are."""
    if state.count is not None:
        least, most = state.count
        if not least <= len(seen) <= most:
            return f"{len(seen)} instances instead of {least} to {most}"
        strange = set(seen.values()) - state.marks
        return f"marks {sorted(strange)} instead of {sorted(state.marks)}" if strange else ""
    wanted = dict(state.numbers)
    if wanted.keys() != seen.keys():
        return f"instances {sorted(seen)} instead of {sorted(wanted)}"
    wrong = {number: mark for number, mark in seen.items() if mark not in wanted[number]}
    return f"{wrong} instead of {[(number, sorted(wanted[number])) for number in wrong]}" if wrong else ""
