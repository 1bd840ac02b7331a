"""The schema of saved documents and the steps from each version to the next.

A store has a schema number, and so has each document, so that a migration that was interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from manager.ports import Kind, StoreTooNewError
from manager.store.shapes import Document

Step = Callable[[Kind, Document], Document]


def check(schema: int) -> None:
    """Raise StoreTooNewError where this program is too old for a store of that schema."""
    if schema > SCHEMA:
        raise StoreTooNewError(
            f"the store has schema {schema}, and this program knows {SCHEMA} at most: "
            "run the newer version that wrote it, or restore a backup from before the upgrade"
        )


def upgraded(kind: Kind, document: Document, schema: int) -> Document:
    """The document in today's schema. Raises StoreTooNewError where it is newer."""
    check(schema)
    for step in MIGRATIONS[schema:]:
        document = step(kind, document)
    return document


def _specifications_into_a_table(_kind: Kind, document: Document) -> Document:
    """0 → 1: each record and placement held its own copy of the specification."""
    table: Document = {}
    document = _with_keys(document, table)
    return {**document, "specs": table} if table else document


def _with_keys(document: Document, table: Document) -> Document:
    changed = dict(document)
    for name, value in document.items():
        if name in ("spec", "old"):
            changed[name] = _key(value, table)
        elif name in ("current", "successor", "retiring", "update") and value is not None:
            changed[name] = _with_keys(value, table)
    return changed


def _key(spec: Any, table: Document) -> str:
    text = orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)
    for key, known in table.items():
        if orjson.dumps(known, option=orjson.OPT_SORT_KEYS) == text:
            return key
    key = f"migrated-{len(table)}"
    table[key] = spec
    return key


def _specifications_and_history_out_of_the_document(kind: Kind, document: Document) -> Document:
    """1 → 2: the adapters move a document's own table and its longer history out; the rest can be read as it is.

    That a node is late is not saved any more: one that was had been READY, and counts as that where it is judged.
    """
    if kind is Kind.NODE and document.get("state") == "SUSPECT":
        return {**document, "state": "READY"}
    return document


MIGRATIONS: Final[tuple[Step, ...]] = (
    _specifications_into_a_table,
    _specifications_and_history_out_of_the_document,
)
SCHEMA: Final = len(MIGRATIONS)
