"""What a measurement answers, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_HEAD: Final = ("measured", "figure", "limit", "")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value. `limit` None: for information; `is_floor`: the value must not be below the limit."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    is_floor: bool = False

    @property
    def is_missed(self) -> bool:
        """Whether the value is on the wrong side of the limit."""
        if self.limit is None:
            return False
        return self.value < self.limit if self.is_floor else self.value > self.limit

    @property
    def verdict(self) -> str:
        """`ok`, `MISS`, or nothing where there is no limit."""
        return "" if self.limit is None else "MISS" if self.is_missed else "ok"


def table(figures: Sequence[Figure]) -> str:
    """One line per figure."""
    rows = [_HEAD, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(figure: Figure) -> tuple[str, str, str, str]:
    sign = ">=" if figure.is_floor else "<="
    limit = "" if figure.limit is None else f"{sign} {_number(figure.limit)} {figure.unit}"
    return figure.name, f"{_number(figure.value)} {figure.unit}", limit, figure.verdict


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, value, limit, verdict = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
    return f"{name}  {value.strip():>{widths[1]}}  {limit}  {verdict}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
