"""Which of the nodes that fit is best."""

from cluster.jobs import Resources
from scheduler.columns import Columns, NodeFacts
from scheduler.query import Query
from scheduler.scorers import Scorer, least_allocated, pack

FULL = Resources(cpu_millicores=1000, memory_bytes=1000 * 2**20)
ASKED = Query(technology="docker", demand=Resources(cpu_millicores=100))


def _node(name: str, **facts: object) -> NodeFacts:
    return NodeFacts(id=name, name=name, **facts)  # type: ignore[arg-type]


def _best(scorer: Scorer, query: Query, *nodes: NodeFacts) -> str:
    columns = Columns(nodes)
    return columns.nodes[int(scorer(columns, query, slice(0, len(columns))).argmin())].name


def test_least_allocated_takes_the_emptiest() -> None:
    """The node with the smallest allocated share is best."""
    busy = _node("a", capacity=FULL, allocated=Resources(cpu_millicores=500))
    idle = _node("b", capacity=FULL, allocated=Resources(cpu_millicores=400))
    assert _best(least_allocated, ASKED, busy, idle) == "b"


def test_least_allocated_weighs_shares_and_not_amounts() -> None:
    """A demand weighs less on a larger node."""
    large = Resources(cpu_millicores=8000, memory_bytes=8000 * 2**20)
    assert _best(least_allocated, ASKED, _node("a", capacity=FULL), _node("b", capacity=large)) == "b"


def test_pack_takes_the_fullest() -> None:
    """The node with the largest allocated share is best."""
    busy = _node("b", capacity=FULL, allocated=Resources(cpu_millicores=500))
    assert _best(pack, ASKED, _node("a", capacity=FULL), busy) == "b"


def test_known_capacity_is_preferred_to_unknown() -> None:
    """A busy node that is known to fit is better than an idle one of which nothing is known."""
    busy = _node("b", capacity=FULL, allocated=Resources(cpu_millicores=900), instance_count=9)
    for scorer in (least_allocated, pack):
        assert _best(scorer, ASKED, _node("a"), busy) == "b"


def test_partly_known_capacity_counts_as_known_where_it_covers_the_demand() -> None:
    """Only amounts that are asked for need to be known."""
    only_cpu = _node("b", capacity=Resources(cpu_millicores=1000))
    only_memory = _node("a", capacity=Resources(memory_bytes=1000))
    assert _best(least_allocated, ASKED, only_memory, only_cpu) == "b"


def test_unknown_architecture_is_second_choice() -> None:
    """Where the image needs an architecture, a node that tells its own is better."""
    query = Query(technology="docker", architectures=("arm64",))
    told = _node("b", capacity=FULL, instance_count=5, features=frozenset({("architecture", "arm64")}))
    assert _best(least_allocated, query, _node("a", capacity=FULL), told) == "b"


def test_unknown_nodes_take_turns() -> None:
    """Among nodes of unknown capacity the one with the fewest instances is best, under either scorer."""
    nodes = _node("a", instance_count=3), _node("b", instance_count=2), _node("c", instance_count=2)
    for scorer in (least_allocated, pack):
        assert _best(scorer, ASKED, *nodes) == "b"


def test_instances_without_demand_still_weigh() -> None:
    """Jobs that ask for nothing are spread, too."""
    nothing = Query(technology="docker")
    assert (
        _best(least_allocated, nothing, _node("a", capacity=FULL, instance_count=1), _node("b", capacity=FULL)) == "b"
    )


def test_ties_go_to_the_first_name() -> None:
    """Equal nodes are taken in the order of their names, whatever order they came in."""
    assert _best(least_allocated, ASKED, _node("b", capacity=FULL), _node("a", capacity=FULL)) == "a"
