"""The words for what a node lacks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Miss:
    """`shortfall` says what a node lacks, `change` the smallest change that would mend it."""

    shortfall: str
    change: str
