"""From the messages of the API to the records that the planner works on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import orjson

from cluster.convert import resources_from_proto
from cluster.errors import InvalidInputError
from cluster.v1 import job_pb2, node_pb2, scheduler_pb2
from scheduler.columns import Feature, NodeFacts
from scheduler.plan import Ask, Item
from scheduler.query import Query

MAX_ITEMS: Final = 10_000
_STATES: Final = {
    node_pb2.NODE_STATE_REGISTERED: "registered",
    node_pb2.NODE_STATE_READY: "ready",
    node_pb2.NODE_STATE_SUSPECT: "suspect",
    node_pb2.NODE_STATE_DOWN: "down",
}
_KINDS: Final = {
    node_pb2.NODE_KIND_WORKER: "worker",
    node_pb2.NODE_KIND_SEED: "seed",
    node_pb2.NODE_KIND_MUTE: "mute",
    node_pb2.NODE_KIND_ENGINE_A: "engine_a",
    node_pb2.NODE_KIND_ENGINE_C: "engine_c",
}
_GOARCH: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
# Decided by the root before the job came here.
_DECIDED_BY_ROOT: Final = ("clusters",)


def node_facts(node: node_pb2.Node) -> NodeFacts:
    """What decides about placements on a node."""
    said = node.registration
    capacity = resources_from_proto(said.capacity)
    usage = node.usage
    return NodeFacts(
        id=node.id,
        name=said.name or node.id,
        aliases=tuple({alias for alias in (said.name, said.given_id, node.topic_id) if alias}),
        state=_STATES.get(node.state, "registered"),
        is_cordoned=node.is_cordoned,
        capacity=capacity,
        allocated=resources_from_proto(node.allocated),
        instance_count=node.instance_count,
        features=_features(
            tuple(said.technologies),
            said.architecture,
            tuple(said.addons),
            tuple(said.csi_drivers),
            _KINDS.get(node.kind, ""),
        ),
        cpu_percent=usage.cpu_percent if capacity.cpu_millicores is None else 0.0,
        memory_percent=usage.memory_percent if capacity.memory_bytes is None else 0.0,
    )


@lru_cache(maxsize=1024)
def _features(
    technologies: tuple[str, ...], architecture: str, addons: tuple[str, ...], csi_drivers: tuple[str, ...], kind: str
) -> frozenset[Feature]:
    """Nodes of one kind share one set."""
    found = {("technology", value) for value in technologies}
    found |= {("addons", value) for value in addons}
    found |= {("csi_driver", value) for value in csi_drivers}
    if architecture:
        found.add(("architecture", _GOARCH.get(architecture, architecture)))
    if kind:
        found.add(("kind", kind))
    return frozenset(found)


def ask_of(spec: scheduler_pb2.PlanSpec, field: str) -> Ask:
    """A specification of a batch; `field` is where it stands in the request. Raises InvalidInputError."""
    peers = {peer.node_id: peer.count for peer in spec.peers if peer.count > 0}
    return Ask(query=query_of(spec.spec, f"{field}.spec"), job_id=spec.job_id, peers=peers)


def query_of(spec: job_pb2.JobSpec, field: str) -> Query:
    """What a specification asks of a node. Raises InvalidInputError."""
    if not spec.technology:
        raise InvalidInputError("a specification needs a technology", field=f"{field}.technology")
    demand = resources_from_proto(spec.demand)
    for name in ("cpu_millicores", "memory_bytes", "storage_bytes", "gpus"):
        if (getattr(demand, name) or 0) < 0:
            raise InvalidInputError(f"{name} must not be negative", field=f"{field}.demand.{name}")
    drivers = [("csi_driver", volume.csi_driver) for volume in spec.volumes if volume.csi_driver]
    addons = [("addons", need) for each in spec.constraints if each.type == "addons" for need in each.needs]
    return Query(
        technology=spec.technology,
        demand=demand,
        architectures=tuple(_GOARCH.get(word, word) for word in spec.architectures),
        features=tuple(dict.fromkeys(addons + drivers)),
        direct=tuple(frozenset(each.nodes) for each in spec.constraints if each.type == "direct" and each.nodes),
        unjudged=tuple(dict.fromkeys(each.type for each in spec.constraints if _is_unjudged(each))),
    )


def items_of(request: scheduler_pb2.PlanRequest) -> list[Item]:
    """The items of a batch, checked. Raises InvalidInputError that names the field."""
    if len(request.items) > MAX_ITEMS:
        raise InvalidInputError(f"at most {MAX_ITEMS} items are planned in one call", field="items")
    items = [_item(item, f"items[{index}]", len(request.specs)) for index, item in enumerate(request.items)]
    if not request.is_dry_run:
        _check_keys(items)
    return items


def _item(item: scheduler_pb2.PlanItem, field: str, spec_count: int) -> Item:
    if not 0 <= item.spec_index < spec_count:
        raise InvalidInputError(
            f"spec_index {item.spec_index} is not the position of one of the {spec_count} specifications",
            field=f"{field}.spec_index",
        )
    return Item(
        ask=item.spec_index,
        job_id=item.key.job_id,
        number=item.key.number,
        excluded=frozenset(item.excluded_node_ids),
        excluded_kinds=frozenset(_KINDS.get(kind, "") for kind in item.excluded_kinds),
        target=item.target_node_id,
        released_node_id=item.released_node_id,
        released=resources_from_proto(item.released) if item.HasField("released") else None,
    )


def _check_keys(items: list[Item]) -> None:
    seen = set()
    for index, item in enumerate(items):
        key = (item.job_id, item.number)
        if not item.job_id:
            raise InvalidInputError("an item needs the key of its instance", field=f"items[{index}].key.job_id")
        if key in seen:
            raise InvalidInputError("an instance is planned once in a batch", field=f"items[{index}].key")
        seen.add(key)


def _is_unjudged(constraint: job_pb2.Constraint) -> bool:
    if constraint.type in ("direct", "addons", *_DECIDED_BY_ROOT):
        return False
    return not _is_soft(constraint.document_json)


def _is_soft(document_json: str) -> bool:
    try:
        document = orjson.loads(document_json or "{}")
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and _is_nought(document.get("rigidness"))


def _is_nought(rigidness: Any) -> bool:
    """Rigidness is 0 (a wish) to 1 (a must), as a number or its text; "soft" is 0 and absent is 1."""
    if isinstance(rigidness, str) and rigidness.strip().lower() == "soft":
        return True
    try:
        return rigidness is not None and float(rigidness) <= 0
    except (TypeError, ValueError):
        return False
