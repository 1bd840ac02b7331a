"""Why nodes were ruled out, in an operator's words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

_ONE_AND_MORE: Final = {
    "ready": ("is not ready", "are not ready"),
    "cordoned": ("is cordoned", "are cordoned"),
    "direct": ("is not named by the job", "are not named by the job"),
    "target": ("is not the one that was asked for", "are not the one that was asked for"),
    "taken": ("was taken meanwhile", "were taken meanwhile"),
    "excluded": ("is ruled out for this instance", "are ruled out for this instance"),
    "kind": ("is of a kind that cannot take it", "are of kinds that cannot take it"),
    "container_name": ("cannot take a container of that name", "cannot take a container of that name"),
    "older_copy": ("still has an older copy of it", "still have an older copy of it"),
    "technology": ("lacks the runtime", "lack the runtime"),
    "architecture": ("has another architecture", "have another architecture"),
    "addons": ("lacks an add-on", "lack an add-on"),
    "csi_driver": ("lacks the storage driver", "lack the storage driver"),
    "gpu": ("has too few GPUs free", "have too few GPUs free"),
    "cpu": ("has too little cpu free", "have too little cpu free"),
    "memory": ("has too little memory free", "have too little memory free"),
    "storage": ("has too little storage free", "have too little storage free"),
}


class Counted(Protocol):
    """A reason, how many nodes it ruled out, and a word about one of them."""

    @property
    def reason(self) -> str:
        """A stable word of the scheduler's."""
        ...

    @property
    def node_count(self) -> int:
        """How many."""
        ...

    @property
    def detail(self) -> str:
        """About the one that comes nearest."""
        ...


def phrase(refusal: Counted) -> str:
    """Such as `3 nodes are not ready (edge-1 is down)`."""
    count = refusal.node_count
    by = f"ruled out by {refusal.reason}"
    one, more = _ONE_AND_MORE.get(refusal.reason, (f"is {by}", f"are {by}"))
    detail = f" ({refusal.detail})" if refusal.detail else ""
    return f"1 node {one}{detail}" if count == 1 else f"{count} nodes {more}{detail}"


def no_node(refusals: Iterable[Counted]) -> str:
    """Why there is no node for an instance."""
    return "no node can take it: " + (", ".join(map(phrase, refusals)) or "none is registered")
