"""What rules a node out. Each filter judges all nodes at once and can say in words what one of them lacks.

The order of `filters_of` decides which reason counts as the first one of a node that lacks several things.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from scheduler.amounts import Amount
from scheduler.columns import Columns, Feature, Mask, Numbers, Rows
from scheduler.miss import Miss
from scheduler.query import Query

_STATES: Final = {
    "registered": "has sent no telemetry yet",
    "suspect": "let its lease run out",
    "down": "is down",
}
_UNJUDGED: Final = {
    "latency": "nodes announce no network coordinates",
    "geo": "nodes announce no location",
}


class Filter(Protocol):
    """One thing that is asked of every node."""

    @property
    def reason(self) -> str:
        """A stable word for what this filter rules out."""
        ...

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """True for each of `rows` that passes."""
        ...

    def gap(self, columns: Columns) -> Numbers:
        """How far each node that does not pass is from passing, above 0 up to 1; meaningless for the others."""
        ...

    def miss(self, columns: Columns, row: int) -> Miss:
        """What a node that does not pass lacks."""
        ...


class _Whole:
    """A filter that a node passes or not, with nothing in between."""

    __slots__ = ()

    def gap(self, columns: Columns) -> Numbers:
        """All equally far."""
        return np.ones(len(columns))


@dataclass(frozen=True, slots=True)
class Ready(_Whole):
    """The node sends telemetry in time."""

    reason = "ready"

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """READY nodes."""
        return columns.is_ready[rows]

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says its state."""
        node = columns.nodes[row]
        return Miss(f"{node.name} {_STATES.get(node.state, 'is ' + node.state)}", f"bring {node.name} back")


@dataclass(frozen=True, slots=True)
class Uncordoned(_Whole):
    """No operator has closed the node for new placements."""

    reason = "cordoned"

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """Nodes that are open."""
        return columns.is_uncordoned[rows]

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says that it is cordoned."""
        name = columns.nodes[row].name
        return Miss(f"{name} is cordoned", f"uncordon {name}")


@dataclass(frozen=True, slots=True)
class Has(_Whole):
    """The node announced one of `features`; they are all of one kind."""

    features: tuple[Feature, ...]
    admits_unknown_architecture: bool = False

    @property
    def reason(self) -> str:
        """The kind of the features."""
        return self.features[0][0]

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """Nodes with at least one of the features."""
        masks = [mask for feature in self.features if (mask := columns.feature(feature)) is not None]
        if self.admits_unknown_architecture:
            masks.append(columns.is_architecture_unknown)
        if not masks:
            return np.zeros(len(columns), np.bool_)[rows]
        passing = masks[0][rows]
        for mask in masks[1:]:
            passing = passing | mask[rows]
        return passing

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says what is wanted and what is there."""
        node, kind = columns.nodes[row], self.reason
        wanted = " or ".join(value for _, value in self.features)
        there = ", ".join(sorted(value for other, value in node.features if other == kind)) or "none"
        noun = _NOUNS[kind]
        return Miss(f"needs {noun} {wanted}; {node.name} has {there}", f"give {node.name} {noun} {wanted}")


_NOUNS: Final = {
    "technology": "the runtime",
    "architecture": "the architecture",
    "addons": "the add-on",
    "csi_driver": "the storage driver",
}


@dataclass(frozen=True, slots=True)
class Named(_Whole):
    """The node is one of those that a constraint or a caller names by id, name or alias."""

    reason: str
    names: frozenset[str]

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """The named nodes."""
        return _marked(columns, columns.rows_named(self.names))[rows]

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says which nodes were asked for."""
        node, names = columns.nodes[row], ", ".join(sorted(self.names))
        return Miss(f"only {names} may be chosen; {node.name} is not", f"admit {node.name} as well")


@dataclass(frozen=True, slots=True)
class NotExcluded(_Whole):
    """The caller did not rule the node out by id."""

    node_ids: frozenset[str]
    reason = "excluded"

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """All other nodes."""
        found = [row for node_id in self.node_ids if (row := columns.row_of(node_id)) is not None]
        return ~_marked(columns, found)[rows]

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says that it was ruled out."""
        name = columns.nodes[row].name
        return Miss(f"{name} was ruled out for this instance", f"admit {name} again")


@dataclass(frozen=True, slots=True)
class NotOfKind(_Whole):
    """The caller did not rule nodes of this kind out."""

    kinds: frozenset[str]
    reason = "kind"

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """All others."""
        found = np.zeros(columns.length, np.bool_)
        for kind in self.kinds:
            if (mask := columns.feature(("kind", kind))) is not None:
                found |= mask
        return ~found[: len(columns)][rows]

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says that its kind was ruled out."""
        name = columns.nodes[row].name
        return Miss(f"{name} is of a kind that was ruled out for this instance", f"admit {name} again")


@dataclass(frozen=True, slots=True)
class Unjudged(_Whole):
    """A hard constraint that nothing known of any node can fulfil."""

    kind: str

    @property
    def reason(self) -> str:
        """The type of the constraint where it is a documented one."""
        return self.kind if self.kind in _UNJUDGED else "constraint"

    def mask(self, columns: Columns, rows: Rows) -> Mask:
        """No node."""
        return np.zeros(len(columns), np.bool_)[rows]

    def miss(self, columns: Columns, row: int) -> Miss:
        """Says why it cannot be judged."""
        why = _UNJUDGED.get(self.kind, "this cluster does not know such constraints")
        return Miss(
            f"the {self.kind} constraint cannot be judged: {why}",
            f"remove the {self.kind} constraint or give it the rigidness 0",
        )


def filters_of(query: Query) -> tuple[Filter, ...]:
    """All that a query asks, in the order in which reasons are told."""
    demand = query.demand
    found: list[Filter] = [Ready(), Uncordoned()]
    found += [Named("direct", names) for names in query.direct]
    found.append(Has((("technology", query.technology),)))
    if query.architectures:
        wanted = tuple(("architecture", value) for value in query.architectures)
        found.append(Has(wanted, admits_unknown_architecture=True))
    found += [Has((feature,)) for feature in query.features]
    found += [Unjudged(kind) for kind in query.unjudged]
    if demand.gpus:
        found.append(Amount("gpu", demand.gpus))
    found += [Amount("cpu", demand.cpu_millicores or 0), Amount("memory", demand.memory_bytes or 0)]
    if demand.storage_bytes:
        found.append(Amount("storage", demand.storage_bytes))
    return tuple(found)


def passing(filters: Iterable[Filter], columns: Columns, rows: Rows) -> Mask:
    """True for each of `rows` that passes every filter."""
    masks = iter(filters)
    result = next(masks).mask(columns, rows).copy()
    for each in masks:
        result &= each.mask(columns, rows)
    return result


def _marked(columns: Columns, rows: list[int]) -> Mask:
    mask = np.zeros(len(columns), np.bool_)
    mask[rows] = True
    return mask
