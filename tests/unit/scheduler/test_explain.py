"""Why nodes do not fit."""

from cluster.jobs import Resources
from scheduler.columns import NodeFacts
from scheduler.explain import MAX_VERDICTS, Explanation
from scheduler.ledger import Ledger
from scheduler.plan import Ask, Item, Planner
from scheduler.query import Query
from scheduler.scorers import least_allocated

DOCKER = frozenset({("technology", "docker")})
QUERY = Query(technology="docker", demand=Resources(cpu_millicores=2000))


def _node(name: str, cpu: int = 4000, used: int = 0, **facts: object) -> NodeFacts:
    known: dict[str, object] = {
        "capacity": Resources(cpu_millicores=cpu),
        "allocated": Resources(cpu_millicores=used),
        "features": DOCKER,
        **facts,
    }
    return NodeFacts(id=f"id-{name}", name=name, aliases=(name,), **known)  # type: ignore[arg-type]


def _explain(*nodes: NodeFacts, query: Query = QUERY, item: Item | None = None, **peers: int) -> Explanation:
    ledger = Ledger()
    ledger.replace([(node, 0) for node in nodes], ledger.mark())
    ask = Ask(query=query, peers={f"id-{name}": count for name, count in peers.items()})
    return Planner(ledger, least_allocated).explain(ask, item or Item(), now_s=0.0)


def test_the_best_node_that_fits_is_nearest() -> None:
    """Where nodes fit, they come first, best first, and no change is needed."""
    explained = _explain(_node("a", used=1000), _node("b"), _node("c", state="down"))
    assert (explained.node_count, explained.fitting_count, explained.smallest_change) == (3, 2, "")
    assert [each.node_id for each in explained.verdicts] == ["id-b", "id-a", "id-c"]
    assert explained.verdicts[0].score > explained.verdicts[1].score
    assert [(each.reason, each.node_count) for each in explained.refusals] == [("ready", 1)]


def test_the_nearest_miss_fails_least() -> None:
    """A node that lacks one thing is nearer than one that lacks two, and a small lack nearer than a large one."""
    explained = _explain(
        _node("a", cpu=1900, is_cordoned=True), _node("b", used=3000), _node("edge-7", used=2500), _node("d", cpu=100)
    )
    assert explained.nearest is not None
    assert explained.nearest.node_id == "id-edge-7"
    assert explained.nearest.reasons == ("cpu",)
    assert explained.smallest_change == (
        "edge-7 would fit: lower the cpu demand by 500 millicores or free as much on edge-7"
    )


def test_all_that_is_missing_is_told() -> None:
    """A verdict names every filter that rules the node out, and the change mends all of them."""
    explained = _explain(_node("a", cpu=500, features=frozenset(), is_cordoned=True))
    assert explained.verdicts[0].reasons == ("cordoned", "technology", "cpu")
    for words in ("uncordon a", "give a the runtime docker", "lower the cpu demand by 1500 millicores"):
        assert words in explained.smallest_change


def test_no_nodes_are_explained() -> None:
    """An empty cluster has no nearest node and says what to do."""
    explained = _explain()
    assert (explained.node_count, explained.nearest) == (0, None)
    assert explained.smallest_change == "no node is registered: register one"


def test_peers_count_in_the_order() -> None:
    """The verdicts show the order in which the planner would choose."""
    assert [each.node_id for each in _explain(_node("a"), _node("b"), a=1).verdicts] == ["id-b", "id-a"]


def test_a_released_reservation_does_not_count_in_explanations() -> None:
    """The explanation judges as the plan does."""
    full = _node("a", cpu=2000, used=2000)
    assert _explain(full).fitting_count == 0
    assert _explain(full, item=Item(released_node_id="id-a")).fitting_count == 1


def test_verdicts_are_bounded() -> None:
    """A large cluster gets the first hundred verdicts and the counts of all."""
    explained = _explain(*(_node(f"n{index}", state="down") for index in range(250)))
    assert len(explained.verdicts) == MAX_VERDICTS
    assert explained.refusals[0].node_count == 250
