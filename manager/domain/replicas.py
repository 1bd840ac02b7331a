"""How many instances a job has: which ones to add, which ones to delete. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Final

from manager.domain.model import Instance, Job

FIRST_OWN_NUMBER: Final = 1_000_000
ROOT: Final = "root"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The numbers of instances to add and of those to delete."""

    added: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()


def scale(job: Job, instances: Sequence[Instance], wanted: int) -> Scaling:
    """From the present instances of a job to `wanted` of them: the newest go first, numbers are not used twice.

    Instances that are made here of a root's job are numbered from 1,000,000, away from the root's own.
    """
    desired = [item for item in instances if item.is_desired]
    if wanted <= len(desired):
        newest_first = sorted(desired, key=lambda item: (item.created_at_ms, item.key.number), reverse=True)
        surplus = newest_first[: len(desired) - wanted]
        return Scaling(deleted=tuple(item.key.number for item in surplus))
    first = FIRST_OWN_NUMBER if job.owner == ROOT else 0
    taken = {item.key.number for item in instances if any(item.placements()) or item.is_desired}
    free = (number for number in count(first) if number not in taken)
    return Scaling(added=tuple(islice(free, wanted - len(desired))))
