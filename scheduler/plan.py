"""Plans: which node each item of a batch gets. Every choice counts at once, so no capacity is given out twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from cluster.jobs import Resources
from scheduler.columns import Columns, Numbers
from scheduler.explain import Explanation, ReasonCount, explain, refusals
from scheduler.filters import Filter, Named, NotExcluded, NotOfKind
from scheduler.ledger import Ledger, PlanKey
from scheduler.query import Query
from scheduler.ranking import Ranking, Rankings
from scheduler.scorers import PEER_STEP, SCORER_WORDS, UNKNOWN_STEP, Scorer

_NOTHING = Resources()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A specification of a batch; `peers` tells how many instances of its job each node id already has."""

    query: Query
    job_id: str = ""
    peers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One placement that is wanted, for the specification at index `ask`.

    `excluded` are ids of nodes, `excluded_kinds` kinds of them. `released_node_id` has a reservation of `released` (by
    default the demand) for this instance, which does not count.
    """

    ask: int = 0
    job_id: str = ""
    number: int = 0
    excluded: frozenset[str] = frozenset()
    excluded_kinds: frozenset[str] = frozenset()
    target: str = ""
    released_node_id: str = ""
    released: Resources | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The node that an item gets, and why in words; "" where none fits, and then why not."""

    node_id: str
    refusals: tuple[ReasonCount, ...] = ()
    cause: str = ""


class Planner:
    """Plans on a ledger and writes its promises there."""

    def __init__(self, ledger: Ledger, scorer: Scorer) -> None:
        self._ledger = ledger
        self._scorer = scorer
        self._rankings = Rankings(scorer)

    def plan(
        self, asks: Sequence[Ask], items: Sequence[Item], *, sequence: int, now_s: float, is_dry_run: bool = False
    ) -> list[Choice]:
        """One choice for each item, in order. A dry run leaves no promise; a repeated plan replaces its own."""
        self._ledger.expire(now_s)
        keys = [PlanKey(sequence, item.job_id, item.number) for item in items]
        if not is_dry_run:
            for key in keys:
                self._ledger.withdraw(key)
        columns = self._ledger.columns
        batch = _Batch(columns, [_Contest(columns, ask, self._rankings.of(ask.query)) for ask in asks])
        choices = []
        for key, item in zip(keys, items, strict=True):
            row, why = batch.choose(item)
            if row is None:
                choices.append(Choice("", why))
                continue
            choices.append(Choice(columns.nodes[row].id, cause=batch.cause(item, row, SCORER_WORDS[self._scorer])))
            amounts, count = batch.cost(item, row)
            if is_dry_run:
                batch.try_out(row, amounts, count)
            else:
                self._ledger.hold(key, row, amounts, count, now_s)
        batch.undo()
        return choices

    def explain(self, ask: Ask, item: Item, *, now_s: float) -> Explanation:
        """What every filter thinks of every node. Changes nothing."""
        self._ledger.expire(now_s)
        contest = _Contest(self._ledger.columns, ask, self._rankings.of(ask.query))
        with contest.releasing(item):
            return explain(contest.columns, contest.filters(item), contest.keys(item).copy())


class _Contest:
    """All nodes compete for the items of one specification of a batch."""

    def __init__(self, columns: Columns, ask: Ask, ranking: Ranking) -> None:
        self.columns = columns
        self.query = ask.query
        self._ranking = ranking
        self._penalties = np.zeros(len(columns))
        self._scratch = np.empty(len(columns))
        self._refused: tuple[object, tuple[ReasonCount, ...]] = (None, ())
        for node_id, count in ask.peers.items():
            if (row := columns.row_of(node_id)) is not None:
                self._penalties[row] = count * PEER_STEP

    def keys(self, item: Item) -> Numbers:
        """The keys of all nodes for an item, its peers counted in; valid until the next call."""
        keys = np.add(self._ranking.keys(self.columns), self._penalties, out=self._scratch)
        if item.target:
            rows = self.columns.rows_named((item.target,))
            kept = keys[rows]
            keys.fill(np.inf)
            keys[rows] = kept
        for node_id in item.excluded:
            if (row := self.columns.row_of(node_id)) is not None:
                keys[row] = np.inf
        for kind in item.excluded_kinds:
            if (mask := self.columns.feature(("kind", kind))) is not None:
                keys[mask[: len(keys)]] = np.inf
        return keys

    def best(self, item: Item) -> int | None:
        """The best row for an item; None where no node fits."""
        if not len(self.columns):
            return None
        keys = self.keys(item)
        row = int(keys.argmin())
        return row if keys[row] != np.inf else None

    def cause(self, item: Item, row: int, scorer_words: str) -> str:
        """Why `best` has just answered that row."""
        if item.target:
            return "it was asked for by name"
        keys = self._scratch
        fitting = int(np.count_nonzero(keys != np.inf))
        if fitting == 1:
            return "the only node" if len(self.columns) == 1 else f"the only one of {len(self.columns)} nodes that fits"
        words = scorer_words
        if keys[row] >= UNKNOWN_STEP:
            words = "fewest instances"
        if self._penalties.any():
            words = f"fewest instances of this job, then {words},"
        unknown = ", none of which says what it has" if keys[row] >= UNKNOWN_STEP else ""
        return f"{words} of {fitting} nodes that fit{unknown}"

    def filters(self, item: Item) -> tuple[Filter, ...]:
        """All that is asked for an item: the caller's own choice of nodes comes before the specification."""
        own: list[Filter] = []
        if item.target:
            own.append(Named("target", frozenset((item.target,))))
        if item.excluded:
            own.append(NotExcluded(item.excluded))
        if item.excluded_kinds:
            own.append(NotOfKind(item.excluded_kinds))
        return (*own, *self._ranking.filters)

    def refusals(self, item: Item) -> tuple[ReasonCount, ...]:
        """Why no node fits an item; asked again while nothing changed, it is not worked out again."""
        excluded = (item.excluded, item.excluded_kinds)
        asked = (self.columns.version, excluded, item.target, item.released_node_id, item.released)
        if self._refused[0] != asked:
            self._refused = (asked, refusals(self.columns, self.filters(item)))
        return self._refused[1]

    def add_peer(self, row: int, count: int) -> None:
        """Make a row less attractive by `count` instances of the job."""
        self._penalties[row] = max(self._penalties[row] + count * PEER_STEP, 0.0)

    @contextmanager
    def releasing(self, item: Item) -> Iterator[None]:
        """Judge as if the item's old reservation were gone."""
        row = self.columns.row_of(item.released_node_id) if item.released_node_id else None
        if row is None:
            yield
            return
        amounts, penalty = self.released(item), self._penalties[row]
        self.columns.assume(row, _NOTHING - amounts, -1)
        self.add_peer(row, -1)
        try:
            yield
        finally:
            self.columns.assume(row, amounts, 1)
            self._penalties[row] = penalty

    def released(self, item: Item) -> Resources:
        """What the item's old reservation holds."""
        return self.query.demand if item.released is None else item.released


class _Batch:
    """The contests of one batch and what a dry run has taken."""

    def __init__(self, columns: Columns, contests: Sequence[_Contest]) -> None:
        self._columns = columns
        self._contests = contests
        self._tried: list[tuple[int, Resources, int]] = []

    def choose(self, item: Item) -> tuple[int | None, tuple[ReasonCount, ...]]:
        """The row that an item gets, or why it gets none."""
        contest = self._contests[item.ask]
        if not item.released_node_id:
            row = contest.best(item)
            return row, () if row is not None else contest.refusals(item)
        with contest.releasing(item):
            row = contest.best(item)
            return row, () if row is not None else contest.refusals(item)

    def cost(self, item: Item, row: int) -> tuple[Resources, int]:
        """What the choice takes beside what is allocated: on its old node only what exceeds the old reservation."""
        contest = self._contests[item.ask]
        demand = contest.query.demand
        if self._columns.nodes[row].id != item.released_node_id:
            contest.add_peer(row, 1)
            return demand, 1
        return _excess(demand, contest.released(item)), 0

    def try_out(self, row: int, amounts: Resources, count: int) -> None:
        """Take capacity until `undo`."""
        self._columns.assume(row, amounts, count)
        self._tried.append((row, amounts, count))

    def cause(self, item: Item, row: int, scorer_words: str) -> str:
        """Why `choose` has just answered that row."""
        return self._contests[item.ask].cause(item, row, scorer_words)

    def undo(self) -> None:
        """Give back what was tried out."""
        for row, amounts, count in self._tried:
            self._columns.assume(row, _NOTHING - amounts, -count)


def _excess(demand: Resources, held: Resources) -> Resources:
    more = demand - held
    return Resources(
        cpu_millicores=max(more.cpu_millicores or 0, 0),
        memory_bytes=max(more.memory_bytes or 0, 0),
        storage_bytes=max(more.storage_bytes or 0, 0),
        gpus=max(more.gpus or 0, 0),
    )
