"""The output of instances on nodes that do not run this project's worker: what they tell, or where they keep it."""

from __future__ import annotations

import orjson

from cluster.errors import NotFoundError
from cluster.nodes import Dialect
from manager.domain.model import Instance, Node, Usage


def told_output(node: Node, instance: Instance, usage: Usage | None) -> bytes:
    """The last words that an engine sends with its lists. Raises NotFoundError that tells where the output is."""
    if usage is not None and usage.logs:
        return usage.logs.encode()
    raise NotFoundError(f"{_words(node.registration.dialect)} {_place(node, instance)}", field="key")


def _words(dialect: Dialect) -> str:
    if dialect is Dialect.ENGINE_C:
        return "this engine has sent no output of it yet; all of it is"
    if dialect is Dialect.ENGINE_A:
        return "engines of this generation send no output, they keep it"
    return "this node speaks the documented contract, which has no logs; its output is"


def _place(node: Node, instance: Instance) -> str:
    name = f"{instance.job_name}.instance.{instance.key.number}"
    registration = node.registration
    folder = orjson.loads(registration.document).get("LogDirectory")
    where = f"on {node.name}" + (f" ({registration.ip})" if registration.ip else "")
    if isinstance(folder, str) and folder:
        return f"{where}, in {folder}/{name}"
    return f"{where}, as container {name}" if registration.dialect.is_engine else where
