"""What the root has yet to hear of: what changed since it acknowledged it, and what lives, least recently told first.

Pure. The cost of everything here follows what changed or is told, not how much there is.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from manager.domain.model import Instance, InstanceKey, InstanceState, Job
from manager.domain.replicas import FIRST_OWN_NUMBER, ROOT

OBJECT_ID: Final = re.compile("[0-9a-fA-F]{24}")
BEFORE: Final = float("-inf")
_ENDED: Final = (InstanceState.STOPPED, InstanceState.COMPLETED, InstanceState.FAILED, InstanceState.LOST)
Fingerprint = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the root last acknowledged of an instance, and of which moment, by the monotonic clock."""

    fingerprint: Fingerprint
    at_mono_s: float


def fingerprint_of(instance: Instance) -> Fingerprint:
    """What makes a report of an instance another one; measurements do not."""
    return (instance.state, instance.detail, instance.node_id, instance.generation)


def is_over(instance: Instance) -> bool:
    """Whether nothing more will happen to it by itself."""
    return instance.state in _ENDED and instance.current is None and instance.retry_at_ms is None


def is_of_root(instance: Instance, job: Job | None, unknown_to_root: Collection[str]) -> bool:
    """Whether the root knows an instance.

    Not those of jobs made here or with an id that no root gives: a root orders jobs that it does not know deleted, and
    fails on such ids. Not replicas made here: it knows no such number.
    """
    if job is None or job.owner != ROOT or job.id in unknown_to_root:
        return False
    return instance.key.number < FIRST_OWN_NUMBER and OBJECT_ID.fullmatch(job.id) is not None


class Ledger:
    """Remembers what was acknowledged. `acknowledged_ms` is up to when everything was, before this start."""

    def __init__(self, acknowledged_ms: int) -> None:
        self.acknowledged_ms = acknowledged_ms
        self._is_same_root = True
        self._told: dict[InstanceKey, Told] = {}
        self._changed: OrderedDict[InstanceKey, None] = OrderedDict()
        self._running: OrderedDict[InstanceKey, None] = OrderedDict()
        self._waiting: OrderedDict[InstanceKey, None] = OrderedDict()

    @property
    def has_changes(self) -> bool:
        """Whether something waits to be told for the first time."""
        return bool(self._changed)

    def forget_all(self) -> None:
        """Another root: it knows nothing yet. What had ended before is none of its business."""
        self._is_same_root = False
        for known in (self._told, self._changed, self._running, self._waiting):
            known.clear()

    def is_settled(self, instance: Instance) -> bool:
        """Whether the root has heard the last of it."""
        told = self._told.get(instance.key)
        if told is not None:
            return told.fingerprint == fingerprint_of(instance)
        return instance.updated_at_ms <= self.acknowledged_ms and (self._is_same_root or is_over(instance))

    def note(self, instance: Instance) -> None:
        """An instance may have changed."""
        key = instance.key
        if not self.is_settled(instance):
            self._unqueue(key)
            self._changed.setdefault(key)
            return
        self._changed.pop(key, None)
        if key not in self._told and not is_over(instance):
            self._told[key] = Told(fingerprint=fingerprint_of(instance), at_mono_s=BEFORE)
        if key not in self._running and key not in self._waiting:
            self._queue(instance, is_last=False)

    def drop(self, key: InstanceKey) -> None:
        """An instance is gone, or the root's no longer."""
        self._told.pop(key, None)
        self.leave_out(key)

    def leave_out(self, key: InstanceKey) -> None:
        """Tell of an instance no more, until it is noted again."""
        self._changed.pop(key, None)
        self._unqueue(key)

    def changes(self) -> Iterator[InstanceKey]:
        """The changed ones, the one that waits longest first."""
        return iter(self._changed)

    def refreshes(self, running_before_mono_s: float, waiting_before_mono_s: float) -> Iterator[InstanceKey]:
        """Those alive, least recently told first: what runs and was told before a time, then the rest likewise."""
        for queue, before_mono_s in ((self._running, running_before_mono_s), (self._waiting, waiting_before_mono_s)):
            for key in queue:
                if self._told[key].at_mono_s >= before_mono_s:
                    break
                yield key

    def acknowledge(self, instance: Instance, latest: Mapping[InstanceKey, Instance], composed_mono_s: float) -> None:
        """The root took a report of an instance, as it was when the report was composed."""
        key = instance.key
        if key not in latest:
            self.drop(key)
            return
        self._told[key] = Told(fingerprint=fingerprint_of(instance), at_mono_s=composed_mono_s)
        self.leave_out(key)
        if self.is_settled(latest[key]):
            self._queue(instance, is_last=True)
        else:
            self._changed[key] = None

    def _queue(self, instance: Instance, *, is_last: bool) -> None:
        if is_over(instance):
            return
        queue = self._running if instance.state is InstanceState.RUNNING else self._waiting
        queue[instance.key] = None
        queue.move_to_end(instance.key, last=is_last)

    def _unqueue(self, key: InstanceKey) -> None:
        self._running.pop(key, None)
        self._waiting.pop(key, None)
