"""`--watch`: a list that is read again and shown when it changed, and events as they happen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from clusterctl import reading
from clusterctl.client import Manager
from clusterctl.columns import EVENTS
from clusterctl.exits import UnreachableError
from clusterctl.formats import Output, note
from clusterctl.output import Column, console, printable, table, write_data

_INTERVAL_S: Final = 1.0
Read = Callable[[], list[dict[str, Any]]]


def watch(read: Read, columns: Sequence[Column], key: str, output: Output) -> None:
    """Show the list now and after each change, until interrupted; a manager that goes away is waited for."""
    records = read()
    if output is Output.TABLE and sys.stdout.isatty():
        _live(read, columns, records)
        return
    while True:
        _show(columns, records, key, output)
        records = _next_change(read, records)


def _show(columns: Sequence[Column], records: list[dict[str, Any]], key: str, output: Output) -> None:
    if output is Output.TABLE:
        console().print(table(columns, records))
    elif output is Output.JSON:
        sys.stdout.write(json.dumps({key: records}, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("---\n")
        write_data({key: records}, output)
    sys.stdout.flush()


def _next_change(read: Read, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    while True:
        time.sleep(_INTERVAL_S)
        if (now := _read_patiently(read)) != before:
            return now


def _read_patiently(read: Read) -> list[dict[str, Any]]:
    is_away = False
    while True:
        try:
            return read()
        except UnreachableError:
            if not is_away:
                note("the manager does not answer; waiting for it")
            is_away = True
            time.sleep(_INTERVAL_S)


def _live(read: Read, columns: Sequence[Column], records: list[dict[str, Any]]) -> None:
    from rich.live import Live

    with Live(table(columns, records), console=console(), auto_refresh=False, screen=True) as live:
        while True:
            live.update(table(columns, records), refresh=True)
            time.sleep(_INTERVAL_S)
            records = _read_patiently(read)


def follow_events(manager: Manager, *, job: str, node: str, limit: int, output: Output) -> None:
    """Show the newest events, then each as it happens."""
    past = reading.events(manager, job=job, node=node, limit=limit)
    for record in past:
        _show_event(record, output)
    last = past[-1]["id"] if past else 0
    for record in reading.new_events(manager, job=job, node=node, after_id=last):
        _show_event(record, output)


def _show_event(record: dict[str, Any], output: Output) -> None:
    if output is Output.TABLE:
        line = "  ".join(printable(column.cell(record)) or "-" for column in EVENTS)
    elif output is Output.JSON:
        line = json.dumps(record, ensure_ascii=False)
    else:
        sys.stdout.write("---\n")
        write_data(record, output)
        return
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
