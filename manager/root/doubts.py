"""What a root fails on: narrowed down by halving, set aside where nothing smaller is left, and tried again by time.

Pure; times are passed in, by the monotonic clock. A root that says "later", or nothing, is away: that alone makes
nothing suspect. Blamed is a report that failed while an empty one is taken, and then

- a report of several instances is split in two, each half to be told on its own, in turn with all the others;
- one instance is set aside: at once where the root answered that it did not take it, else the third time. Two of one
  job: the job is, for roots check jobs as a whole;
- where one job after another is blamed and none is taken between them, the fault is the root's: nothing is told but the
  numbers of the cluster, for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manager.domain.model import InstanceKey

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 600.0
LONGEST_HOLD_S: Final = 60.0
TRIES_WITHOUT_ANSWER: Final = 3
JOBS_IN_A_ROW: Final = 3
GIVEN_UP: Final = 10
Scope = InstanceKey | str
Group = tuple[InstanceKey, ...]


@dataclass(slots=True)
class Aside:
    """An instance, or a whole job, that is left out for a while; `tries` is how often it failed."""

    tries: int = 0
    failed_mono_s: float = 0.0
    is_changed: bool = False

    @property
    def until_mono_s(self) -> float:
        """When it is tried again; what changed since does not wait longer than what failed once."""
        return self.failed_mono_s + pause_s(1 if self.is_changed else self.tries)


def pause_s(tries: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """How long after so many failures it is tried again."""
    return min(FIRST_PAUSE_S * 2.0 ** min(tries - 1, 30), longest_s)


class Doubts:
    """The groups that hold something a root fails on, and what is set aside, by instance or by the id of its job."""

    def __init__(self) -> None:
        self._groups: deque[Group] = deque()
        self._grouped: set[InstanceKey] = set()
        self._aside: dict[Scope, Aside] = {}
        self._without_answer: dict[InstanceKey, int] = {}
        self._in_a_row: set[str] = set()
        self._holds = 0
        self._held_until_mono_s = 0.0

    # What is known

    @property
    def aside(self) -> list[Scope]:
        """What is set aside."""
        return list(self._aside)

    @property
    def is_wary(self) -> bool:
        """Whether the root took nothing lately: it is tried with one instance at a time."""
        return self._holds > 0

    @property
    def is_calm(self) -> bool:
        """Whether nothing waits here that may still be told."""
        return not self._groups and all(item.tries >= GIVEN_UP for item in self._aside.values())

    def is_held(self, now_mono_s: float) -> bool:
        """Whether nothing should be told for now."""
        return now_mono_s < self._held_until_mono_s

    def holds(self, key: InstanceKey) -> bool:
        """Whether an instance waits here, and not among all others."""
        return key in self._grouped or key in self._aside or key.job_id in self._aside

    def has_given_up(self, key: InstanceKey) -> bool:
        """Whether an instance was tried so often that nobody needs to keep it for the root."""
        return any(scope in self._aside and self._aside[scope].tries >= GIVEN_UP for scope in (key, key.job_id))

    def next(self, now_mono_s: float) -> Group | str | None:
        """What to tell next on its own: some instances, or any one of a job."""
        if self._groups:
            return self._groups[0]
        for scope, item in self._aside.items():
            if item.until_mono_s <= now_mono_s:
                return scope if isinstance(scope, str) else (scope,)
        return None

    # What happens

    def blame(self, keys: Group, now_mono_s: float, *, was_answered: bool) -> Scope | None:
        """A report of these failed, and an empty one did not. Answers what is newly set aside."""
        self._ungroup(keys)
        if len(keys) > 1:
            self._group(keys[len(keys) // 2 :], is_next=True)
            self._group(keys[: len(keys) // 2], is_next=True)
            return None
        [key] = keys
        if not was_answered and not self.holds(key):
            self._without_answer[key] = self._without_answer.get(key, 0) + 1
            if self._without_answer[key] < TRIES_WITHOUT_ANSWER:
                self._group(keys, is_next=False)
                return None
        return self._set_aside(key, now_mono_s)

    def _group(self, keys: Group, *, is_next: bool) -> None:
        (self._groups.appendleft if is_next else self._groups.append)(keys)
        self._grouped.update(keys)

    def _ungroup(self, keys: Iterable[InstanceKey]) -> None:
        gone = self._grouped.intersection(keys)
        if gone:
            self._grouped -= gone
            rest = (tuple(key for key in group if key not in gone) for group in self._groups)
            self._groups = deque(group for group in rest if group)

    def _set_aside(self, key: InstanceKey, now_mono_s: float) -> Scope | None:
        self._without_answer.pop(key, None)
        scope = self._scope(key)
        is_new = scope not in self._aside
        item = self._aside.setdefault(scope, Aside())
        item.tries, item.failed_mono_s, item.is_changed = item.tries + 1, now_mono_s, False
        self._count(key.job_id, now_mono_s)
        return scope if is_new else None

    def _scope(self, key: InstanceKey) -> Scope:
        """The job where it, or another of its instances, is aside already; else the instance."""
        siblings = [scope for scope in self._aside if isinstance(scope, InstanceKey) and scope.job_id == key.job_id]
        if key.job_id in self._aside or set(siblings) - {key}:
            for sibling in siblings:
                del self._aside[sibling]
            self._ungroup([grouped for grouped in self._grouped if grouped.job_id == key.job_id])
            return key.job_id
        return key

    def _count(self, job_id: str, now_mono_s: float) -> None:
        self._in_a_row.add(job_id)
        if self._holds or len(self._in_a_row) >= JOBS_IN_A_ROW:
            self._holds += 1
            self._held_until_mono_s = now_mono_s + pause_s(self._holds, LONGEST_HOLD_S)

    def taken(self, keys: Group) -> list[Scope]:
        """A report of these was taken: the root is well. Answers what is no longer aside."""
        if not keys:
            return []
        self._in_a_row.clear()
        self._holds, self._held_until_mono_s = 0, 0.0
        self._ungroup(keys)
        for key in keys:
            self._without_answer.pop(key, None)
        scopes = dict.fromkeys(scope for key in keys for scope in (key, key.job_id))
        return [scope for scope in scopes if self._aside.pop(scope, None)]

    def changed(self, key: InstanceKey) -> None:
        """An instance that waits here is another one now: it is tried again soon, on its own."""
        if key in self._aside:
            self._aside[key].is_changed = True

    def forget(self, scope: Scope) -> None:
        """An instance, or all of a job, is gone."""
        self._aside.pop(scope, None)
        if not isinstance(scope, str):
            self._without_answer.pop(scope, None)
            self._ungroup([scope])

    def forget_all(self) -> None:
        """Another root."""
        self.__init__()  # type: ignore[misc]
