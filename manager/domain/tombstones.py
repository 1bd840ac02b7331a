"""Closed placements, and which of them their nodes have not confirmed yet: those are tombstones. Pure.

What is acknowledged as deleted, or was replaced elsewhere, may still run on a node that was away. Its tombstone stays
until the node itself has said that nothing of it is left, or the node is removed; whatever is found running of it
meanwhile is deleted again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

MAX_ENDED: Final = 10


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A closed placement: what its node still runs of this generation, or of an older one, is to be deleted there.

    `is_confirmed`: the node itself said that nothing of it is left.
    """

    node_id: str
    generation: int
    at_ms: int
    is_confirmed: bool = False


def buried(ended: tuple[Ended, ...], fresh: Ended) -> tuple[Ended, ...]:
    """The closed placements with one more. A node that confirms one confirms all that was there before it.

    Of the confirmed ones the last ten are kept; of the unconfirmed, none is lost, but a node owes only its newest:
    deleting that deletes all before it.
    """
    if fresh.is_confirmed:
        ended = confirmed(ended, fresh.node_id, fresh.generation)
    newest: dict[str, Ended] = {}
    for item in (*ended, fresh):
        if not item.is_confirmed:
            newest[item.node_id] = _newer(newest.get(item.node_id, item), item)
    settled = [item for item in (*ended, fresh) if item.is_confirmed][-MAX_ENDED:]
    return tuple(sorted((*settled, *newest.values()), key=lambda item: (item.at_ms, item.generation)))


def _newer(one: Ended, other: Ended) -> Ended:
    """The one of the greater generation, closed when the later one was: engines are fenced by that time."""
    newer = max(one, other, key=lambda item: item.generation)
    return replace(newer, at_ms=max(one.at_ms, other.at_ms))


def confirmed(ended: tuple[Ended, ...], node_id: str, generation: int | None) -> tuple[Ended, ...]:
    """A node said that nothing up to a generation (None: of any) is left there; the same object where that is known."""

    def is_settled_by_that(item: Ended) -> bool:
        return item.node_id == node_id and (generation is None or item.generation <= generation)

    if not any(is_settled_by_that(item) and not item.is_confirmed for item in ended):
        return ended
    return tuple(replace(item, is_confirmed=True) if is_settled_by_that(item) else item for item in ended)


def reopened(ended: tuple[Ended, ...], node_id: str, generation: int, now_ms: int) -> tuple[Ended, ...]:
    """A node runs what had ended there: it owes a confirmation anew; the same object where it does already."""
    if any(item.node_id == node_id and not item.is_confirmed and item.generation >= generation for item in ended):
        return ended
    rest = tuple(item for item in ended if (item.node_id, item.generation) != (node_id, generation))
    return buried(rest, Ended(node_id=node_id, generation=generation, at_ms=now_ms))


def owing(ended: tuple[Ended, ...]) -> tuple[Ended, ...]:
    """Those that their nodes have not confirmed."""
    return tuple(item for item in ended if not item.is_confirmed)


def without_node(ended: tuple[Ended, ...], node_id: str) -> tuple[Ended, ...]:
    """A node was removed: nothing is owed there any more."""
    return tuple(item for item in ended if item.node_id != node_id or item.is_confirmed)
