"""Which instances the root has yet to hear of: what changed since it acknowledged them, ended ones included. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from manager.domain.model import Instance, InstanceKey, InstanceState, Job
from manager.domain.replicas import FIRST_OWN_NUMBER, ROOT

OBJECT_ID: Final = re.compile("[0-9a-fA-F]{24}")
_ENDED: Final = (InstanceState.STOPPED, InstanceState.COMPLETED, InstanceState.FAILED, InstanceState.LOST)
Fingerprint = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the root last acknowledged of an instance, and when, by the monotonic clock."""

    fingerprint: Fingerprint
    at_mono_s: float


def fingerprint_of(instance: Instance) -> Fingerprint:
    """What makes a report of an instance another one; measurements do not."""
    return (instance.state, instance.detail, instance.node_id, instance.generation)


def is_over(instance: Instance) -> bool:
    """Whether nothing more will happen to it by itself."""
    return instance.state in _ENDED and instance.current is None and instance.retry_at_ms is None


class Ledger:
    """Remembers what was acknowledged. `acknowledged_ms` is up to when everything was, before this start."""

    def __init__(self, acknowledged_ms: int) -> None:
        self.acknowledged_ms = acknowledged_ms
        self._told: dict[InstanceKey, Told] = {}
        self._set_aside: dict[InstanceKey, Fingerprint] = {}

    def forget_all(self) -> None:
        """Another root: it knows nothing yet."""
        self._told.clear()
        self._set_aside.clear()

    def is_settled(self, instance: Instance) -> bool:
        """Whether the root has heard the last of it."""
        fingerprint, told = fingerprint_of(instance), self._told.get(instance.key)
        if self._set_aside.get(instance.key) == fingerprint:
            return True
        if told is None:
            return is_over(instance) and instance.updated_at_ms <= self.acknowledged_ms
        return told.fingerprint == fingerprint

    def due(self, instances: Iterable[Instance], now_mono_s: float, refresh_s: float) -> list[Instance]:
        """The changed ones, longest ago first, then those alive that were not told of for `refresh_s`."""
        changed: list[Instance] = []
        stale: list[tuple[float, Instance]] = []
        for instance in instances:
            told = self._told.get(instance.key)
            if not self.is_settled(instance):
                changed.append(instance)
            elif told and not is_over(instance) and now_mono_s - told.at_mono_s >= refresh_s:
                stale.append((told.at_mono_s, instance))
        changed.sort(key=lambda item: item.updated_at_ms)
        stale.sort(key=lambda pair: pair[0])
        return changed + [instance for _, instance in stale]

    def acknowledge(self, instances: Iterable[Instance], now_mono_s: float) -> None:
        """The root took a report of these, as they were then."""
        for instance in instances:
            self._told[instance.key] = Told(fingerprint=fingerprint_of(instance), at_mono_s=now_mono_s)
            self._set_aside.pop(instance.key, None)

    def set_aside(self, instances: Iterable[Instance]) -> None:
        """The root fails on a report of these: leave them out until they change."""
        for instance in instances:
            self._set_aside[instance.key] = fingerprint_of(instance)
            self._told.pop(instance.key, None)

    def prune(self, keys: Collection[InstanceKey]) -> None:
        """Forget all but these."""
        for known in (self._told, self._set_aside):
            for key in [key for key in known if key not in keys]:
                del known[key]


def reportable(
    instances: Iterable[Instance], jobs: Mapping[str, Job], unknown_to_root: Collection[str]
) -> list[Instance]:
    """The instances of the root's own jobs.

    Not those of jobs made here or with an id that no root gives: a root orders jobs that it does not know deleted, and
    fails on such ids. Not replicas made here: it knows no such number.
    """
    return [item for item in instances if _is_of_root(item, jobs.get(item.key.job_id), unknown_to_root)]


def _is_of_root(instance: Instance, job: Job | None, unknown_to_root: Collection[str]) -> bool:
    if job is None or job.owner != ROOT or job.id in unknown_to_root:
        return False
    return instance.key.number < FIRST_OWN_NUMBER and OBJECT_ID.fullmatch(job.id) is not None


def by_job(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """Instances by their job, in order."""
    groups: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[instance.key.job_id].append(instance)
    return dict(groups)
