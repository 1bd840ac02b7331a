"""Instances that wait for a node, by what they ask for. Pure.

Where a node is too full for one of them it is for all that ask for the same: when something changes for the better one
of each class is tried, and the others follow as long as that succeeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from manager.domain.model import Instance, InstanceKey, InstanceState

LOOKED_AT: Final = 50


def is_waiting(instance: Instance | None) -> bool:
    """Whether it found no node so far."""
    return instance is not None and instance.state is InstanceState.PENDING and instance.is_desired


class WaitingRoom:
    """The PENDING instances, oldest first within each class."""

    def __init__(self) -> None:
        self._classes: dict[str, dict[InstanceKey, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._classes)

    def change(self, old: Instance | None, new: Instance | None) -> None:
        """An instance changed."""
        before = old.spec.digest if old is not None and is_waiting(old) else ""
        after = new.spec.digest if new is not None and is_waiting(new) else ""
        if old is not None and before and before != after:
            members = self._classes[before]
            del members[old.key]
            if not members:
                del self._classes[before]
        if new is not None and after and before != after:
            self._classes.setdefault(after, {})[new.key] = None

    def classes(self) -> Iterator[list[InstanceKey]]:
        """The first members of each class: enough to find one that nothing of its own keeps from a node."""
        for members in tuple(self._classes.values()):
            yield list(islice(members, LOOKED_AT))

    def others(self, instance: Instance, count: int) -> list[InstanceKey]:
        """Up to `count` further members of an instance's class."""
        members = self._classes.get(instance.spec.digest, {})
        return [key for key in islice(members, count + 1) if key != instance.key][:count]
