"""No sequence of plans and deltas gives capacity out twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.jobs import Resources
from scheduler.columns import NodeFacts
from scheduler.ledger import Ledger
from scheduler.plan import Ask, Choice, Item, Planner
from scheduler.query import Query
from scheduler.scorers import SCORERS

NAMES = ("n0", "n1", "n2", "n3")
DOCKER = frozenset({("technology", "docker")})
DEMANDS = tuple(Resources(cpu_millicores=cpu, memory_bytes=memory) for cpu, memory in ((1, 3), (2, 0), (3, 2), (0, 1)))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("plan"), st.lists(st.sampled_from(DEMANDS), min_size=1, max_size=6)),
        st.tuples(st.just("settle"), st.sampled_from(NAMES)),
        st.tuples(st.just("stale"), st.sampled_from(NAMES)),
        st.tuples(st.just("free"), st.sampled_from(NAMES)),
        st.tuples(st.just("cordon"), st.sampled_from(NAMES)),
        st.tuples(st.just("snapshot"), st.none()),
    ),
    max_size=30,
)


class Manager:
    """Takes every plan at once, and tells the scheduler of it late, or never."""

    def __init__(self, capacities: list[int], scorer: str) -> None:
        self.ledger = Ledger()
        self.planner = Planner(self.ledger, SCORERS[scorer])
        self.capacity = {
            name: Resources(cpu_millicores=each, memory_bytes=9) for name, each in zip(NAMES, capacities, strict=True)
        }
        self.placed: dict[str, list[tuple[int, Resources]]] = {name: [] for name in NAMES}
        self.cordoned: set[str] = set()
        self.told: dict[str, tuple[NodeFacts, int]] = {}
        self.sequence = 0
        self.snapshot(None)

    def facts(self, name: str) -> NodeFacts:
        allocated = sum((demand for _, demand in self.placed[name]), Resources())
        return NodeFacts(
            id=name,
            name=name,
            capacity=self.capacity[name],
            allocated=allocated,
            instance_count=len(self.placed[name]),
            features=DOCKER,
            is_cordoned=name in self.cordoned,
        )

    def plan(self, demands: list[Resources]) -> None:
        self.sequence += 1
        asks = [Ask(query=Query(technology="docker", demand=demand)) for demand in demands]
        items = [Item(ask=index, job_id="job", number=index) for index in range(len(demands))]
        choices = self.planner.plan(asks, items, sequence=self.sequence, now_s=0.0)
        for choice, demand in zip(choices, demands, strict=True):
            self.check(choice)
            if choice.node_id:
                self.placed[choice.node_id].append((self.sequence, demand))

    def check(self, choice: Choice) -> None:
        if choice.node_id:
            assert choice.node_id not in {name for name, (facts, _) in self.told.items() if facts.is_cordoned}
            assert not choice.refusals
        else:
            assert sum(refusal.node_count for refusal in choice.refusals) == len(NAMES)

    def settle(self, name: str) -> None:
        self.told[name] = (self.facts(name), self.sequence)
        self.ledger.upsert(*self.told[name])

    def stale(self, name: str) -> None:
        self.ledger.upsert(*self.told[name])

    def free(self, name: str) -> None:
        self.placed[name] = self.placed[name][1:]

    def cordon(self, name: str) -> None:
        self.cordoned ^= {name}
        self.settle(name)

    def snapshot(self, _: None) -> None:
        self.told = {name: (self.facts(name), self.sequence) for name in NAMES}
        self.ledger.replace(self.told.values(), self.ledger.mark())

    def check_no_node_is_oversubscribed(self) -> None:
        for name in NAMES:
            assert self.capacity[name].fits(Resources(), self.facts(name).allocated) == ""
            used = self.facts(name).allocated
            assert (used.cpu_millicores or 0) <= (self.capacity[name].cpu_millicores or 0)
            assert (used.memory_bytes or 0) <= (self.capacity[name].memory_bytes or 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.sampled_from(sorted(SCORERS)), STEPS)
def test_no_node_is_ever_oversubscribed(capacities: list[int], scorer: str, steps: list[tuple[str, object]]) -> None:
    """Whatever is planned, confirmed late or never, told twice or restarted: allocated stays within capacity."""
    manager = Manager(capacities, scorer)
    for step, argument in steps:
        getattr(manager, step)(argument)
        manager.check_no_node_is_oversubscribed()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), STEPS, st.sampled_from(DEMANDS))
def test_kept_rankings_equal_fresh_ones(
    capacities: list[int], steps: list[tuple[str, object]], demand: Resources
) -> None:
    """Mending a ranking row by row gives what judging all nodes anew gives, and every node is counted once."""
    manager = Manager(capacities, "least_allocated")
    ask = Ask(query=Query(technology="docker", demand=demand))
    for step, argument in steps:
        getattr(manager, step)(argument)
        kept = manager.planner.explain(ask, Item(), now_s=0.0)
        fresh = Planner(manager.ledger, SCORERS["least_allocated"]).explain(ask, Item(), now_s=0.0)
        assert kept == fresh
        assert sum(refusal.node_count for refusal in kept.refusals) + kept.fitting_count == kept.node_count
