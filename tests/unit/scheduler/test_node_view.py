"""The view of the nodes follows the stream."""

from cluster.v1 import manager_pb2, node_pb2
from scheduler.ledger import Ledger
from scheduler.node_view import BROKEN_AFTER_S, NodeView


class Viewer:
    """A view on a clock that tests turn."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.ledger = Ledger()
        self.view = NodeView(self.ledger, clock=lambda: self.now_s)
        self.view.begin()

    def tell(self, *names: str, removed: tuple[str, ...] = (), **flags: bool) -> None:
        nodes = [node_pb2.Node(id=name, registration=node_pb2.NodeRegistration(name=name)) for name in names]
        self.view.apply(manager_pb2.WatchNodesResponse(nodes=nodes, removed_node_ids=removed, **flags))

    def is_ready(self) -> bool:
        return self.view.is_ready

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.ledger.columns.nodes]


def test_a_snapshot_is_applied_as_a_whole() -> None:
    """Until its last chunk nothing of it is seen."""
    viewer = Viewer()
    viewer.tell("a", "b", is_snapshot_start=True)
    assert (viewer.names, viewer.view.is_ready, viewer.view.has_snapshot) == ([], False, False)
    viewer.tell("c", removed=("b",), is_snapshot_end=True)
    assert viewer.names == ["a", "c"]
    assert viewer.view.is_ready


def test_an_empty_cluster_is_a_snapshot() -> None:
    """A first message that starts and ends the snapshot makes the view ready."""
    viewer = Viewer()
    viewer.tell(is_snapshot_start=True, is_snapshot_end=True)
    assert viewer.view.is_ready


def test_deltas_add_change_and_remove() -> None:
    """After the snapshot each message changes what it names."""
    viewer = Viewer()
    viewer.tell("a", "b", is_snapshot_start=True, is_snapshot_end=True)
    viewer.tell("c", removed=("a",))
    assert sorted(viewer.names) == ["b", "c"]


def test_a_new_snapshot_replaces_the_old_view() -> None:
    """Nodes that the new snapshot does not name are gone, and not before it is complete."""
    viewer = Viewer()
    viewer.tell("a", is_snapshot_start=True, is_snapshot_end=True)
    viewer.tell("b", is_snapshot_start=True)
    assert viewer.names == ["a"]
    viewer.tell(is_snapshot_end=True)
    assert viewer.names == ["b"]


def test_a_broken_stream_is_forgiven_for_some_seconds() -> None:
    """The view stays ready for a short break, and its nodes stay known for a long one."""
    viewer = Viewer()
    viewer.tell("a", is_snapshot_start=True, is_snapshot_end=True)
    viewer.view.broke()
    viewer.now_s += BROKEN_AFTER_S
    viewer.view.broke()
    assert viewer.is_ready()
    viewer.now_s += 0.1
    assert not viewer.is_ready()
    assert viewer.view.has_snapshot
    assert viewer.names == ["a"]


def test_only_a_complete_snapshot_mends_a_broken_stream() -> None:
    """A stream that breaks again before its snapshot is complete changes nothing."""
    viewer = Viewer()
    viewer.tell("a", is_snapshot_start=True, is_snapshot_end=True)
    viewer.view.broke()
    viewer.now_s += BROKEN_AFTER_S + 1
    viewer.view.begin()
    viewer.tell("b", is_snapshot_start=True)
    viewer.view.broke()
    assert viewer.names == ["a"]
    assert not viewer.is_ready()
    viewer.view.begin()
    viewer.tell("b", is_snapshot_start=True, is_snapshot_end=True)
    assert viewer.is_ready()
