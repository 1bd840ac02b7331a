"""Records on standard output: aligned columns for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clusterctl.formats import Output

_WIDE: Final = 100_000
_STYLES: Final = {
    "READY": "green",
    "RUNNING": "green",
    "COMPLETED": "green",
    "PENDING": "yellow",
    "RESTARTING": "yellow",
    "SUSPECT": "yellow",
    "UNKNOWN": "yellow",
    "FAILED": "red",
    "DOWN": "red",
    "LOST": "red",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its title and the text of its cell."""

    title: str
    cell: Callable[[Mapping[str, Any]], object]


def console() -> Console:
    """Standard output; never wrapped where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def printable(value: object) -> str:
    """A value as one line without control characters, which a workload may have put there."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else " " for char in text)


def table(columns: Sequence[Column], records: Iterable[Mapping[str, Any]]) -> Table:
    """Columns without borders; known state words are coloured on a terminal."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(column.title, no_wrap=column.title != "DETAIL", overflow="fold")
    for record in records:
        texts = [printable(column.cell(record)) or "-" for column in columns]
        shown.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    return shown


def write_data(data: object, output: Output) -> None:
    """Write data as JSON or YAML."""
    if output is Output.JSON:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        return
    import yaml

    yaml.safe_dump(data, sys.stdout, sort_keys=False, allow_unicode=True)
