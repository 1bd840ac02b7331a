"""What a specification asks of a node, without all that does not decide where it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.jobs import Resources
from scheduler.columns import Feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Specifications with equal queries share one ranking of the nodes.

    `direct` holds the node names or ids of each direct constraint, of which one is taken; `features` must all be there;
    `unjudged` are types of hard constraints that this cluster cannot judge.
    """

    technology: str
    demand: Resources = field(default_factory=Resources)
    architectures: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()
    direct: tuple[frozenset[str], ...] = ()
    unjudged: tuple[str, ...] = ()
