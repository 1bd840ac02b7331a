"""WatchNodes: a chunked snapshot, then the latest view of each changed node, never more than one per node waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from cluster.v1 import manager_pb2
from manager.core import Core
from manager.rpc.reading import Reader

CHUNK: Final = 200


async def watch_nodes(core: Core, reader: Reader) -> AsyncIterator[manager_pb2.WatchNodesResponse]:
    """Stream views until the caller ends it."""
    changed: dict[str, None] = {}
    woken = asyncio.Event()

    def on_change(node_ids: Iterable[str]) -> None:
        changed.update(dict.fromkeys(node_ids))
        woken.set()

    stop = core.listen_views(on_change)
    try:
        for response in _snapshot(core, reader):
            yield response
        core.look_for_room()  # whoever planned on what he knew before may have refused in vain
        while True:
            await woken.wait()
            woken.clear()
            batch, changed, sequence = changed, {}, core.view_sequence
            for chunk, is_last in _chunks(list(batch)):
                response = _deltas(core, reader, chunk)
                response.view_sequence = sequence if is_last else 0
                yield response
    finally:
        stop()


def _chunks(node_ids: list[str]) -> Iterable[tuple[list[str], bool]]:
    """Each with whether it is the last."""
    for start in range(0, len(node_ids), CHUNK):
        yield node_ids[start : start + CHUNK], start + CHUNK >= len(node_ids)


def _snapshot(core: Core, reader: Reader) -> Iterable[manager_pb2.WatchNodesResponse]:
    """At least one message; the nodes are read when their chunk is sent."""
    sequence = core.view_sequence
    for position, (chunk, is_last) in enumerate(list(_chunks(list(core.state.nodes))) or [([], True)]):
        response = _deltas(core, reader, chunk)
        response.is_snapshot_start = position == 0
        response.is_snapshot_end = is_last
        response.view_sequence = sequence if is_last else 0
        yield response


def _deltas(core: Core, reader: Reader, node_ids: list[str]) -> manager_pb2.WatchNodesResponse:
    nodes = core.state.nodes
    return manager_pb2.WatchNodesResponse(
        nodes=[reader.node(nodes[node_id]) for node_id in node_ids if node_id in nodes],
        removed_node_ids=[node_id for node_id in node_ids if node_id not in nodes],
    )
