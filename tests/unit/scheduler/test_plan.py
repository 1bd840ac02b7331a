"""Batches of placements on the columns."""

from collections import Counter
from dataclasses import replace

import pytest

from cluster.jobs import Resources
from scheduler.columns import NodeFacts
from scheduler.ledger import Ledger
from scheduler.plan import Ask, Choice, Item, Planner
from scheduler.query import Query
from scheduler.scorers import least_allocated, pack

DOCKER = frozenset({("technology", "docker")})
HUNDRED = Query(technology="docker", demand=Resources(cpu_millicores=100))


def _node(name: str, cpu: int | None = 1000, **facts: object) -> NodeFacts:
    capacity = Resources(cpu_millicores=cpu)
    return NodeFacts(id=name, name=name, aliases=(name,), capacity=capacity, features=DOCKER, **facts)  # type: ignore[arg-type]


class Bench:
    """A planner over some nodes; each plan gets the next sequence."""

    def __init__(self, *nodes: NodeFacts, scorer: object = least_allocated) -> None:
        self.ledger = Ledger()
        self.ledger.replace([(node, 0) for node in nodes], self.ledger.mark())
        self.planner = Planner(self.ledger, scorer)  # type: ignore[arg-type]
        self.sequence = 0

    def plan(self, *items: Item, asks: tuple[Ask, ...] = (Ask(query=HUNDRED),), **options: object) -> list[Choice]:
        self.sequence += 1
        settings: dict[str, object] = {"sequence": self.sequence, "now_s": 0.0, **options}
        return self.planner.plan(asks, items, **settings)  # type: ignore[arg-type]

    def nodes(self, *items: Item, **options: object) -> list[str]:
        return [choice.node_id for choice in self.plan(*items, **options)]  # type: ignore[arg-type]


def _items(count: int, **fields: object) -> list[Item]:
    return [Item(job_id="job", number=number, **fields) for number in range(count)]  # type: ignore[arg-type]


def test_a_batch_never_takes_the_same_capacity_twice() -> None:
    """Items of one batch see what the ones before them took."""
    chosen = Bench(_node("a", cpu=250), _node("b", cpu=150)).nodes(*_items(4))
    assert Counter(chosen) == {"a": 2, "b": 1, "": 1}


def test_two_batches_never_take_the_same_capacity() -> None:
    """A plan holds until the manager's delta settles it."""
    bench = Bench(_node("a", cpu=100))
    assert bench.nodes(Item(job_id="one")) == ["a"]
    assert bench.nodes(Item(job_id="two")) == [""]


def test_a_confirmed_plan_counts_once() -> None:
    """A delta that accounts for a plan replaces what was assumed of it."""
    bench = Bench(_node("a", cpu=300))
    bench.plan(Item(job_id="one"))
    bench.ledger.upsert(_node("a", cpu=300, allocated=Resources(cpu_millicores=100), instance_count=1), 1)
    assert bench.nodes(*_items(3)) == ["a", "a", ""]


def test_an_old_delta_does_not_free_what_was_promised() -> None:
    """A delta from before a plan leaves its assumption as it is."""
    bench = Bench(_node("a", cpu=100))
    bench.plan(Item(job_id="one"))
    bench.ledger.upsert(_node("a", cpu=100, instance_count=0, cpu_percent=1.0), 0)
    assert bench.nodes(Item(job_id="two")) == [""]


def test_a_denied_plan_gives_its_capacity_back() -> None:
    """A delta with the plan's sequence and nothing allocated frees the node."""
    bench = Bench(_node("a", cpu=100))
    bench.plan(Item(job_id="one"))
    bench.ledger.upsert(_node("a", cpu=100), 1)
    assert bench.nodes(Item(job_id="two")) == ["a"]


def test_a_plan_that_is_never_settled_ends() -> None:
    """Half a minute later an unsettled assumption is gone."""
    bench = Bench(_node("a", cpu=100))
    bench.plan(Item(job_id="one"), now_s=100.0)
    assert bench.nodes(Item(job_id="two"), now_s=129.9) == [""]
    assert bench.nodes(Item(job_id="two"), now_s=130.0) == ["a"]


def test_a_repeated_plan_replaces_itself() -> None:
    """A plan that is asked again under its sequence does not stand in its own way."""
    bench = Bench(_node("a", cpu=100))
    assert bench.nodes(Item(job_id="one"), sequence=7) == ["a"]
    assert bench.nodes(Item(job_id="one"), sequence=7) == ["a"]
    assert bench.ledger.open_count == 1


def test_a_dry_run_takes_nothing() -> None:
    """A dry run sees its own choices while it lasts and leaves none."""
    bench = Bench(_node("a", cpu=100))
    assert bench.nodes(Item(), Item(), is_dry_run=True) == ["a", ""]
    assert bench.nodes(Item(), Item(), is_dry_run=True) == ["a", ""]
    assert bench.ledger.open_count == 0


@pytest.mark.parametrize("scorer", [least_allocated, pack])
def test_replicas_spread(scorer: object) -> None:
    """Instances of one job go to different nodes first, whatever the scorer."""
    bench = Bench(*(_node(name) for name in "abc"), scorer=scorer)
    assert Counter(bench.nodes(*_items(6))) == {"a": 2, "b": 2, "c": 2}


def test_peers_that_run_already_count() -> None:
    """Nodes that hold instances of the job come after those that hold none, however loaded these are."""
    asks = (Ask(query=HUNDRED, peers={"a": 2, "b": 1, "gone": 5}),)
    loaded = _node("c", allocated=Resources(cpu_millicores=800))
    assert Bench(_node("a"), _node("b"), loaded).nodes(*_items(3), asks=asks) == ["c", "b", "c"]


def test_unknown_nodes_with_fewest_of_the_job_come_first() -> None:
    """Without capacities the fewest instances of this job decide, then the fewest of all."""
    nodes = _node("a", None, instance_count=5), _node("b", None, instance_count=1), _node("c", None)
    asks = (Ask(query=HUNDRED, peers={"c": 1}),)
    assert Bench(*nodes).nodes(*_items(2), asks=asks) == ["b", "a"]


def test_jobs_of_equal_shape_do_not_spread_from_each_other() -> None:
    """Only instances of the same job are peers."""
    bench = Bench(_node("a"), _node("b", allocated=Resources(cpu_millicores=500)))
    asks = Ask(query=HUNDRED, job_id="x"), Ask(query=HUNDRED, job_id="y")
    assert bench.nodes(Item(ask=0, job_id="x"), Item(ask=1, job_id="y"), asks=asks) == ["a", "a"]


def test_excluded_nodes_are_not_chosen() -> None:
    """What an item excludes holds for that item alone."""
    bench = Bench(_node("a"), _node("b"))
    items = Item(job_id="x", excluded=frozenset({"a", "nowhere"})), Item(job_id="y")
    assert bench.nodes(*items) == ["b", "a"]


def test_a_target_is_the_only_candidate() -> None:
    """A target is taken where it fits and refused with its own reason where it does not."""
    bench = Bench(_node("a"), _node("b"), _node("c", is_cordoned=True))
    assert bench.nodes(Item(job_id="x", target="b")) == ["b"]
    refused = bench.plan(Item(job_id="x", target="c"))[0]
    assert {each.reason: each.node_count for each in refused.refusals} == {"target": 2, "cordoned": 1}


def test_an_unknown_target_is_refused() -> None:
    """A target that is not in view rules every node out."""
    refused = Bench(_node("a")).plan(Item(job_id="x", target="nowhere"))[0]
    assert [(each.reason, each.node_count) for each in refused.refusals] == [("target", 1)]


def test_a_released_reservation_does_not_count() -> None:
    """An instance fits where its own old reservation fills the node."""
    bench = Bench(_node("a", cpu=100, allocated=Resources(cpu_millicores=100), instance_count=1))
    assert bench.nodes(Item(job_id="x")) == [""]
    assert bench.nodes(Item(job_id="x", released_node_id="a")) == ["a"]


def test_a_released_reservation_is_taken_over_and_not_doubled() -> None:
    """Taking its own old place costs only what exceeds it."""
    bench = Bench(_node("a", cpu=300, allocated=Resources(cpu_millicores=60), instance_count=1))
    released = Item(job_id="x", released_node_id="a", released=Resources(cpu_millicores=60))
    assert bench.nodes(released) == ["a"]
    assert bench.ledger.columns.free_cpu[0] == 200
    assert bench.ledger.columns.instance_count[0] == 1


def test_a_larger_demand_does_not_fit_because_of_a_smaller_old_reservation() -> None:
    """Only what the old reservation really holds is given back."""
    bench = Bench(_node("a", cpu=100, allocated=Resources(cpu_millicores=90)))
    assert bench.nodes(Item(job_id="x", released_node_id="a", released=Resources(cpu_millicores=50))) == [""]
    assert bench.ledger.columns.free_cpu[0] == 10


def test_a_refusal_beside_an_old_reservation_has_its_reasons() -> None:
    """What an instance gives back counts, and where that is not enough it is told what is short."""
    bench = Bench(_node("a", cpu=100, allocated=Resources(cpu_millicores=90)))
    released = Resources(cpu_millicores=50)
    [choice] = bench.plan(Item(job_id="x", released_node_id="a", released=released))
    assert [(each.reason, each.node_count) for each in choice.refusals] == [("cpu", 1)]


@pytest.mark.parametrize("field", ["cpu_millicores", "memory_bytes", "storage_bytes", "gpus"])
def test_of_each_resource_only_what_exceeds_the_old_reservation_is_taken(field: str) -> None:
    """Two in place of one, where three are: one is left, and no more."""
    capacity = replace(Resources(cpu_millicores=0, memory_bytes=0, storage_bytes=0, gpus=0), **{field: 3})
    one, two = Resources(**{field: 1}), Resources(**{field: 2})
    bench = Bench(replace(_node("a", allocated=one), capacity=capacity))
    asks = tuple(Ask(query=Query(technology="docker", demand=demand)) for demand in (two, one))
    released = Item(job_id="x", released_node_id="a", released=one)
    assert bench.nodes(released, Item(ask=1, job_id="y"), Item(ask=1, job_id="z"), asks=asks) == ["a", "a", ""]


def test_an_instance_is_no_peer_of_its_own_old_place() -> None:
    """Moving on may end where it began: the old copy does not push the new one away."""
    bench = Bench(_node("a"), _node("b", allocated=Resources(cpu_millicores=500)))
    asks = (Ask(query=HUNDRED, peers={"a": 1}),)
    assert bench.nodes(Item(job_id="job", released_node_id="a"), asks=asks) == ["a"]


def test_refusals_count_each_node_once() -> None:
    """Each node counts under the first reason that rules it out, with words about the nearest."""
    bench = Bench(_node("a", state="down"), _node("b", is_cordoned=True), _node("c", cpu=50), _node("d", cpu=90))
    refusals = bench.plan(Item(job_id="x"))[0].refusals
    assert [(each.reason, each.node_count) for each in refusals] == [("ready", 1), ("cordoned", 1), ("cpu", 2)]
    assert refusals[2].detail == "needs 100 millicores; d has 90 millicores free of 90 millicores"


def test_refusals_follow_what_the_batch_takes() -> None:
    """A refusal is not repeated from before the batch changed the nodes."""
    bench = Bench(_node("a", cpu=150), _node("b", cpu=100))
    first, *_, last = bench.plan(
        Item(job_id="x", target="nowhere"), Item(job_id="y"), Item(job_id="z"), Item(job_id="x", number=1)
    )
    assert [each.reason for each in first.refusals] == ["target"]
    assert [(each.reason, each.node_count) for each in last.refusals] == [("cpu", 2)]


def test_no_nodes_is_an_answer() -> None:
    """An empty cluster refuses without reasons."""
    assert Bench().plan(Item(job_id="x")) == [Choice("")]


def test_nodes_that_come_and_go_between_plans_are_seen() -> None:
    """A kept ranking follows additions, removals and whole snapshots."""
    bench = Bench(_node("a"))
    assert bench.nodes(Item(job_id="1")) == ["a"]
    bench.ledger.upsert(_node("b"), 0)
    assert bench.nodes(Item(job_id="2")) == ["b"]
    bench.ledger.remove("b")
    assert bench.nodes(Item(job_id="3")) == ["a"]
    bench.ledger.replace([(_node("c"), 0)], bench.ledger.mark())
    assert bench.nodes(Item(job_id="4")) == ["c"]


def test_plans_are_reproducible() -> None:
    """The same nodes and items give the same plan."""
    nodes = [_node(f"n{index}", cpu=200 + index % 3) for index in range(20)]
    assert Bench(*nodes).nodes(*_items(50)) == Bench(*reversed(nodes)).nodes(*_items(50))


def test_many_queries_share_the_planner() -> None:
    """More kinds of jobs than rankings are kept still get right answers."""
    bench = Bench(_node("a", cpu=100_000))
    for cpu in range(1, 100):
        ask = Ask(query=Query(technology="docker", demand=Resources(cpu_millicores=cpu)))
        assert bench.nodes(Item(job_id=str(cpu)), asks=(ask,)) == ["a"]
    assert bench.ledger.columns.free_cpu[0] == 100_000 - sum(range(1, 100))


@pytest.mark.parametrize(
    ("nodes", "item", "ask", "scorer", "cause"),
    [
        ("a", Item(), Ask(query=HUNDRED), least_allocated, "the only node"),
        ("a,full,full2", Item(), Ask(query=HUNDRED), least_allocated, "the only one of 3 nodes that fits"),
        ("a,b,full", Item(), Ask(query=HUNDRED), least_allocated, "least allocated of 2 nodes that fit"),
        ("a,b", Item(), Ask(query=HUNDRED), pack, "fullest of 2 nodes that fit"),
        (
            "a,b",
            Item(),
            Ask(query=HUNDRED, peers={"a": 1}),
            least_allocated,
            "fewest instances of this job, then least allocated, of 2 nodes that fit",
        ),
        (
            "silent,silent2,full",
            Item(),
            Ask(query=HUNDRED),
            least_allocated,
            "fewest instances of 2 nodes that fit, none of which says what it has",
        ),
        ("a,b", Item(target="b"), Ask(query=HUNDRED), least_allocated, "it was asked for by name"),
    ],
)
def test_a_choice_says_why(nodes: str, item: Item, ask: Ask, scorer: object, cause: str) -> None:
    """The cause of a placement is told in an operator's words."""
    cpus = {"full": 50, "full2": 50, "silent": None, "silent2": None}
    bench = Bench(*(_node(name, cpu=cpus.get(name, 1000)) for name in nodes.split(",")), scorer=scorer)
    assert bench.plan(item, asks=(ask,))[0].cause == cause


def _of_kind(name: str, kind: str) -> NodeFacts:
    return replace(_node(name), features=DOCKER | {("kind", kind)})


def test_an_item_can_rule_out_whole_kinds() -> None:
    """However many nodes are of them, and however large the table has grown: the others are chosen, or none is."""
    nodes = [_of_kind(f"e{number:03}", "engine_a") for number in range(100)]
    bench = Bench(*nodes, _of_kind("w", "worker"), _of_kind("m", "mute"))
    kinds = frozenset({"engine_a", "mute"})
    assert set(bench.nodes(*_items(5, excluded_kinds=kinds))) == {"w"}
    [choice] = bench.plan(*_items(1, excluded_kinds=kinds | {"worker"}))
    assert (choice.node_id, [(item.reason, item.node_count) for item in choice.refusals]) == ("", [("kind", 102)])


def test_items_of_one_specification_keep_their_own_exclusions() -> None:
    """Why one finds no node is not told of another that may go elsewhere."""
    bench = Bench(_of_kind("e", "engine_a"), _of_kind("w", "worker"))
    items = [
        Item(job_id="job", number=0, excluded_kinds=frozenset({"engine_a"}), excluded=frozenset({"w"})),
        Item(job_id="job", number=1, excluded_kinds=frozenset({"engine_a", "worker"})),
        Item(job_id="job", number=2, excluded_kinds=frozenset({"engine_a"})),
    ]
    choices = bench.plan(*items)
    assert [choice.node_id for choice in choices] == ["", "", "w"]
    reasons = [[(item.reason, item.node_count) for item in choice.refusals] for choice in choices]
    assert reasons == [[("excluded", 1), ("kind", 1)], [("kind", 2)], []]
