"""Which changes of nodes a root should hear of at once: what it schedules by, not what they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cluster.nodes import Registration
from manager.domain.model import Node

Facts = tuple[bool, Registration]


class NodeWatch:
    """Compares what is told of nodes with what was told last; the first word about a node is news as well."""

    def __init__(self) -> None:
        self._known: dict[str, Facts] = {}

    def has_news(self, node_ids: Iterable[str], nodes: Mapping[str, Node], is_ready: Callable[[str], bool]) -> bool:
        """Whether one of these came, went, became ready, ceased to be so, or has other facts."""
        news = [node_id for node_id in node_ids if self._is_news(node_id, nodes.get(node_id), is_ready)]
        return bool(news)

    def _is_news(self, node_id: str, node: Node | None, is_ready: Callable[[str], bool]) -> bool:
        if node is None:
            return self._known.pop(node_id, None) is not None
        facts = (is_ready(node_id), node.registration)
        before = self._known.get(node_id)
        self._known[node_id] = facts
        return before != facts
