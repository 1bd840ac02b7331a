"""Which changes of nodes wake a report."""

from __future__ import annotations

from dataclasses import replace

from cluster.jobs import Resources
from manager.domain.model import Node, NodeState
from manager.root.node_watch import NodeWatch
from testbed.records import node


def _news(watch: NodeWatch, *nodes: Node, gone: str = "", is_heard: bool = True) -> bool:
    ids = [item.id for item in nodes] or [gone]
    known = {item.id: item for item in nodes}
    return watch.has_news(ids, known, lambda node_id: is_heard and known[node_id].state is NodeState.READY)


def test_what_a_root_schedules_by_is_news() -> None:
    """A node that comes, becomes ready, has other facts, ceases to be ready, or goes."""
    watch, registered = NodeWatch(), node()
    ready = replace(registered, state=NodeState.READY)
    larger = replace(ready, registration=replace(ready.registration, capacity=Resources(cpu_millicores=8000)))
    for item in (registered, ready, larger, replace(larger, state=NodeState.DOWN)):
        assert _news(watch, item)
        assert not _news(watch, item)
    assert _news(watch, ready)
    assert _news(watch, ready, is_heard=False), "SUSPECT is never saved, and news nevertheless"
    assert _news(watch, gone=ready.id)
    assert not _news(watch, gone=ready.id)


def test_what_a_node_measures_is_no_news() -> None:
    """Views change with every telemetry, and with what is cordoned or placed: the period is soon enough for that."""
    watch, ready = NodeWatch(), replace(node(), state=NodeState.READY)
    assert _news(watch, ready)
    assert not _news(watch, replace(ready, detail="other", is_cordoned=True, sequence=7))


def test_every_node_of_a_batch_is_remembered() -> None:
    """News about one node hides none about another."""
    watch, nodes = NodeWatch(), [replace(node(name), state=NodeState.READY) for name in "abc"]
    assert _news(watch, *nodes)
    assert not _news(watch, *nodes)
