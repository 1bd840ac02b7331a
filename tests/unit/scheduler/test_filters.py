"""What rules a node out, and in which words."""

import numpy as np
import pytest

from cluster.jobs import Resources
from scheduler.amounts import Amount
from scheduler.columns import Columns, NodeFacts
from scheduler.filters import Filter, Has, Named, NotExcluded, NotOfKind, Ready, Uncordoned, Unjudged, filters_of
from scheduler.query import Query

GIB = 1024**3


def _node(name: str, **facts: object) -> NodeFacts:
    return NodeFacts(id=f"id-{name}", name=name, aliases=(name, f"alias-{name}"), **facts)  # type: ignore[arg-type]


def _passes(each: Filter, *nodes: NodeFacts) -> list[bool]:
    columns = Columns(nodes)
    whole = each.mask(columns, slice(0, len(columns)))
    picked = each.mask(columns, np.arange(len(columns)))
    assert (whole == picked).all()
    return [bool(value) for value in whole]


def _words(each: Filter, node: NodeFacts) -> tuple[str, str]:
    miss = each.miss(Columns([node]), 0)
    return miss.shortfall, miss.change


@pytest.mark.parametrize("state", ["registered", "suspect", "down"])
def test_only_ready_nodes_pass(state: str) -> None:
    """A node that does not send telemetry in time gets nothing."""
    assert _passes(Ready(), _node("a"), _node("b", state=state)) == [True, False]
    assert "b " in _words(Ready(), _node("b", state=state))[0]


def test_cordoned_nodes_are_ruled_out() -> None:
    """A node that the operator closed gets nothing."""
    assert _passes(Uncordoned(), _node("a"), _node("b", is_cordoned=True)) == [True, False]
    assert _words(Uncordoned(), _node("b", is_cordoned=True)) == ("b is cordoned", "uncordon b")


def test_runtime_must_be_announced() -> None:
    """A technology that a node does not announce is not there."""
    wasm = Has((("technology", "wasm"),))
    nodes = [_node("a", features=frozenset({("technology", "wasm")})), _node("b")]
    assert _passes(wasm, *nodes) == [True, False]
    assert _passes(wasm, _node("b")) == [False]
    assert _words(wasm, _node("b"))[0] == "needs the runtime wasm; b has none"


def test_any_of_the_architectures_will_do() -> None:
    """An image for several architectures runs on each; on a node that does not tell its own, perhaps."""
    either = Has((("architecture", "amd64"), ("architecture", "arm64")), admits_unknown_architecture=True)
    nodes = [_node(word, features=frozenset({("architecture", word)})) for word in ("amd64", "arm64", "riscv64")]
    assert _passes(either, *nodes, _node("unknown")) == [True, True, False, True]


@pytest.mark.parametrize(
    ("names", "passing"),
    [({"a"}, [True, False]), ({"id-b"}, [False, True]), ({"a", "alias-b"}, [True, True]), ({"x"}, [False, False])],
)
def test_direct_names_nodes_by_any_of_their_names(names: set[str], passing: list[bool]) -> None:
    """One of the named nodes is taken, named by id, name or alias."""
    assert _passes(Named("direct", frozenset(names)), _node("a"), _node("b")) == passing


def test_excluded_nodes_are_ruled_out_by_id() -> None:
    """What the caller excludes is not chosen; unknown ids do no harm."""
    assert _passes(NotExcluded(frozenset({"id-a", "id-x"})), _node("a"), _node("b")) == [False, True]


def test_whole_kinds_of_nodes_can_be_ruled_out() -> None:
    """All of them, and nobody else; a kind that no node is of rules out none."""
    kinds = {"a": "worker", "b": "mute", "c": "engine_a", "d": "engine_c"}
    nodes = [_node(name, features=frozenset({("kind", kind)})) for name, kind in kinds.items()]
    either = NotOfKind(frozenset({"mute", "engine_a"}))
    assert _passes(either, *nodes, _node("e")) == [True, False, False, True, True]
    assert _passes(NotOfKind(frozenset({"seed", ""})), *nodes) == [True] * 4
    assert either.reason == "kind"
    assert "b is of a kind that was ruled out" in _words(either, nodes[1])[0]


@pytest.mark.parametrize(("kind", "reason"), [("latency", "latency"), ("geo", "geo"), ("colour", "constraint")])
def test_constraints_that_cannot_be_judged_refuse_every_node(kind: str, reason: str) -> None:
    """A hard constraint is never ignored in silence."""
    assert _passes(Unjudged(kind), _node("a")) == [False]
    assert Unjudged(kind).reason == reason
    assert kind in _words(Unjudged(kind), _node("a"))[0]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("latency", "nodes announce no network coordinates"),
        ("geo", "nodes announce no location"),
        ("colour", "this cluster does not know such constraints"),
    ],
)
def test_words_say_why_a_constraint_cannot_be_judged(kind: str, why: str) -> None:
    """And what to do about it."""
    shortfall, change = _words(Unjudged(kind), _node("a"))
    assert shortfall == f"the {kind} constraint cannot be judged: {why}"
    assert change == f"remove the {kind} constraint or give it the rigidness 0"


@pytest.mark.parametrize(
    ("reason", "field", "unit", "words"),
    [
        ("cpu", "cpu_millicores", 1, "millicores"),
        ("memory", "memory_bytes", 1024**2, "MiB"),
        ("storage", "storage_bytes", 1024**2, "MiB"),
        ("gpu", "gpus", 1, "GPUs"),
    ],
)
def test_words_tell_the_amount_that_is_short(reason: str, field: str, unit: int, words: str) -> None:
    """Of each resource its own capacity, and not another's."""
    node = _node("a", capacity=Resources(**{field: 8 * unit}), allocated=Resources(**{field: 5 * unit}))
    assert _words(Amount(reason, 7 * unit), node) == (
        f"needs 7 {words}; a has 3 {words} free of 8 {words}",
        f"lower the {reason} demand by 4 {words} or free as much on a",
    )


@pytest.mark.parametrize("reason", ["cpu", "memory", "storage", "gpu"])
def test_amounts_fit_beside_what_is_allocated(reason: str) -> None:
    """What is needed must be free; exactly enough is enough."""
    field = {"cpu": "cpu_millicores", "memory": "memory_bytes", "storage": "storage_bytes", "gpu": "gpus"}[reason]
    node = _node("a", capacity=Resources(**{field: 10}), allocated=Resources(**{field: 4}))
    assert _passes(Amount(reason, 6), node) == [True]
    assert _passes(Amount(reason, 7), node) == [False]


def test_unknown_amounts_exclude_nothing_but_gpus() -> None:
    """What a node does not announce is unknown; a GPU is not there."""
    assert [_passes(Amount(kind, 1), _node("a"))[0] for kind in ("cpu", "memory", "storage")] == [True] * 3
    assert _passes(Amount("gpu", 1), _node("a")) == [False]


@pytest.mark.parametrize("percents", [{"cpu_percent": 95.0}, {"memory_percent": 100.0}])
def test_overloaded_node_of_unknown_capacity_is_ruled_out(percents: dict[str, float]) -> None:
    """Where capacity is unknown the measured percentages judge, even a job that asks for nothing."""
    node = _node("a", features=frozenset({("technology", "docker")}), **percents)
    verdicts = [_passes(each, node)[0] for each in filters_of(Query(technology="docker"))]
    assert verdicts.count(False) == 1


def test_nothing_asked_fits_a_full_node() -> None:
    """A job without a demand is not ruled out by what others have taken."""
    node = _node("a", capacity=Resources(cpu_millicores=10), allocated=Resources(cpu_millicores=20))
    assert _passes(Amount("cpu", 0), node) == [True]


def test_words_name_the_smallest_change_of_an_amount() -> None:
    """The shortfall says what is needed and free, the change by how much to alter either."""
    node = _node("edge-7", capacity=Resources(cpu_millicores=4000), allocated=Resources(cpu_millicores=2500))
    assert _words(Amount("cpu", 2000), node) == (
        "needs 2000 millicores; edge-7 has 1500 millicores free of 4000 millicores",
        "lower the cpu demand by 500 millicores or free as much on edge-7",
    )


def test_freeing_is_not_advised_where_it_cannot_help() -> None:
    """A demand beyond the whole node can only be lowered; bytes are rounded so that the advice suffices."""
    node = _node("a", capacity=Resources(memory_bytes=GIB))
    assert _words(Amount("memory", GIB + 1), node)[1] == "lower the memory demand by 1 MiB"


def test_words_for_an_overloaded_node_name_the_percentage() -> None:
    """Where the capacity is unknown the words tell what was measured."""
    assert "97.5 %" in _words(Amount("memory", 0), _node("a", memory_percent=97.5))[0]


def test_gap_grows_with_what_is_missing() -> None:
    """The gap is the missing share of the demand."""
    columns = Columns([_node("a", capacity=Resources(gpus=1)), _node("b", capacity=Resources(gpus=3)), _node("c")])
    assert list(Amount("gpu", 4).gap(columns)) == [0.75, 0.25, 1.0]


def test_a_query_asks_only_what_matters() -> None:
    """Amounts that are not asked for, and that nothing can rule out, cost nothing."""
    reasons = [each.reason for each in filters_of(Query(technology="docker"))]
    assert reasons == ["ready", "cordoned", "technology", "cpu", "memory"]


def test_a_query_asks_all_that_is_wanted() -> None:
    """Every part of a specification that restricts nodes becomes a filter, in a fixed order."""
    query = Query(
        technology="docker",
        demand=Resources(cpu_millicores=1, memory_bytes=1, storage_bytes=1, gpus=1),
        architectures=("amd64",),
        features=(("addons", "a"), ("csi_driver", "d")),
        direct=(frozenset({"n"}),),
        unjudged=("geo",),
    )
    reasons = "ready cordoned direct technology architecture addons csi_driver geo gpu cpu memory storage"
    assert [each.reason for each in filters_of(query)] == reasons.split()
