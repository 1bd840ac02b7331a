"""The columns follow the nodes that they are told of."""

import numpy as np

from cluster.jobs import Resources
from scheduler.columns import Columns, NodeFacts

DOCKER = frozenset({("technology", "docker")})


def _node(name: str, **facts: object) -> NodeFacts:
    return NodeFacts(id=f"id-{name}", name=name, aliases=(name,), **facts)  # type: ignore[arg-type]


def test_rows_start_in_the_order_of_names() -> None:
    """A snapshot's nodes stand in the order of their names, whatever order they came in."""
    columns = Columns([_node("c"), _node("a"), _node("b")])
    assert [node.name for node in columns.nodes] == ["a", "b", "c"]


def test_unknown_amounts_are_infinite() -> None:
    """An amount that a node does not announce never runs out; GPUs that it does not announce are none."""
    columns = Columns([_node("a")])
    assert np.isinf([columns.free_cpu[0], columns.free_memory[0], columns.free_storage[0]]).all()
    assert columns.free_gpus[0] == 0


def test_overloaded_node_of_unknown_capacity_has_nothing_free() -> None:
    """From 95 % in use on, a node of unknown capacity takes nothing more."""
    columns = Columns([_node("a", cpu_percent=95.0), _node("b", memory_percent=94.9)])
    assert columns.free_cpu[0] == -np.inf
    assert columns.free_memory[1] == np.inf


def test_measured_load_does_not_matter_where_capacity_is_known() -> None:
    """What is free follows from what is allocated, not from what is measured."""
    columns = Columns([_node("a", capacity=Resources(cpu_millicores=1000), cpu_percent=99.0)])
    assert columns.free_cpu[0] == 1000


def test_unchanged_node_is_no_change() -> None:
    """Telling the same again leaves the version as it is."""
    columns = Columns([_node("a")])
    version = columns.version
    columns.upsert(_node("a"))
    assert columns.version == version


def test_changed_rows_are_told_since_a_version() -> None:
    """Readers learn which rows changed since they looked last."""
    columns = Columns([_node("a"), _node("b")])
    version = columns.version
    columns.upsert(_node("b", state="down"))
    assert columns.changed_since(version) == {1}


def test_changes_long_ago_are_not_told() -> None:
    """A reader that looked too long ago is told to look at everything."""
    columns = Columns([_node("a")])
    for count in range(10_000):
        columns.upsert(_node("a", instance_count=count))
    assert columns.changed_since(0) is None


def test_removed_node_is_gone_by_every_name() -> None:
    """After a removal neither id nor alias nor feature is left, and the last row fills the gap."""
    columns = Columns([_node("a", features=frozenset({("addons", "gpu-sharing")})), _node("b"), _node("c")])
    columns.remove("id-a")
    assert [node.name for node in columns.nodes] == ["c", "b"]
    assert columns.row_of("id-a") is None
    assert columns.rows_named(["a", "id-a"]) == []
    assert columns.feature(("addons", "gpu-sharing")) is None
    assert columns.row_of("id-c") == 0


def test_a_node_that_announces_something_else_is_known_by_that() -> None:
    """A runtime that is installed, and one that is gone, on a node that is known already."""
    wasm = ("technology", "wasm")
    columns = Columns([_node("a", features=DOCKER), _node("b", features=DOCKER)])
    columns.upsert(_node("a", features=frozenset({wasm})))
    told = {feature: columns.feature(feature) for feature in (*DOCKER, wasm)}
    assert {feature: list(row[:2]) for feature, row in told.items() if row is not None} == {
        ("technology", "docker"): [False, True],
        wasm: [True, False],
    }
    columns.upsert(_node("b", features=frozenset()))
    assert columns.feature(("technology", "docker")) is None


def test_removing_an_unknown_node_changes_nothing() -> None:
    """A removal that comes twice does no harm."""
    columns = Columns([_node("a")])
    columns.remove("id-b")
    assert len(columns) == 1


def test_columns_grow() -> None:
    """More nodes than there is room for keep their values, features and assumptions."""
    columns = Columns(length=2)
    for index in range(9):
        columns.upsert(_node(str(index), capacity=Resources(cpu_millicores=index), features=DOCKER))
    columns.assume(3, Resources(cpu_millicores=1), 1)
    docker = columns.feature(("technology", "docker"))
    assert docker is not None
    assert docker[:9].all()
    assert list(columns.free_cpu[:9]) == [0, 1, 2, 2, 4, 5, 6, 7, 8]


def test_assumptions_move_with_their_node() -> None:
    """A node that takes another row keeps what was assumed of it."""
    columns = Columns([_node("a"), _node("b", capacity=Resources(memory_bytes=100))])
    columns.assume(1, Resources(memory_bytes=30), 1)
    columns.remove("id-a")
    assert columns.free_memory[0] == 70
    assert columns.instance_count[0] == 1


def test_assumptions_add_to_what_is_allocated() -> None:
    """A node's new facts and what was assumed of it both count."""
    columns = Columns([_node("a", capacity=Resources(cpu_millicores=1000))])
    columns.assume(0, Resources(cpu_millicores=200), 1)
    columns.upsert(
        _node("a", capacity=Resources(cpu_millicores=1000), allocated=Resources(cpu_millicores=300), instance_count=2)
    )
    assert columns.free_cpu[0] == 500
    assert columns.instance_count[0] == 3


def test_renamed_node_is_found_by_its_new_name_alone() -> None:
    """Aliases follow the node's newest facts."""
    columns = Columns([_node("a")])
    columns.upsert(NodeFacts(id="id-a", name="z", aliases=("z",)))
    assert columns.rows_named(["a"]) == []
    assert columns.rows_named(["z"]) == [0]
