"""Rankings of all nodes for one query, kept between plans and mended only where rows changed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np

from scheduler.columns import Columns, Numbers, Rows
from scheduler.filters import filters_of, passing
from scheduler.query import Query
from scheduler.scorers import Scorer, shut_out

_KEPT: Final = 48
# From this share of changed rows on, judging all rows at once is cheaper than picking some.
_WHOLESALE: Final = 8


class Ranking:
    """The key of every node for one query: lower is better, infinite does not fit. Peers are not counted in."""

    def __init__(self, query: Query, scorer: Scorer) -> None:
        self.query = query
        self.filters = filters_of(query)
        self._scorer = scorer
        self._keys: Numbers = np.empty(0)
        self._version = -1

    def keys(self, columns: Columns) -> Numbers:
        """The keys of all rows as the columns stand now; to be read only, and only until the next change."""
        if self._version == columns.version:
            return self._keys
        changed = columns.changed_since(self._version)
        count = len(columns)
        if changed is None or count != len(self._keys) or len(changed) * _WHOLESALE > count:
            self._keys = self._judge(columns, slice(0, count))
        else:
            rows = np.fromiter((row for row in changed if row < count), np.intp)
            self._keys[rows] = self._judge(columns, rows)
        self._version = columns.version
        return self._keys

    def _judge(self, columns: Columns, rows: Rows) -> Numbers:
        return shut_out(self._scorer(columns, self.query, rows), passing(self.filters, columns, rows))


class Rankings:
    """The rankings of the queries that were asked last."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._kept: OrderedDict[Query, Ranking] = OrderedDict()

    def of(self, query: Query) -> Ranking:
        """The ranking for a query, made where it is new."""
        ranking = self._kept.get(query)
        if ranking is None:
            ranking = self._kept[query] = Ranking(query, self._scorer)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(query)
        return ranking
