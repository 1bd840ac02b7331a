"""The words of an explanation."""

from dataclasses import replace
from math import inf

import pytest

from cluster.jobs import JobSpec
from cluster.v1 import instance_pb2, scheduler_pb2
from manager.domain.leases import NOBODY, Hold
from manager.domain.model import Event, Instance, InstanceKey, InstanceState, Placement, Refusal
from manager.domain.refusals import no_node, phrase
from manager.explain import summary

SPEC = JobSpec(name="web", image="demo/web:1", technology="docker")
NOW_MS = 1_000_000
DOWN = ("ready", 2, "edge-1 is down")
SHORT = ("memory", 1, "needs 50 MiB; edge-3 has 20 MiB free of 100 MiB")
EXPLAINED = {
    "running": "web (j/0) is RUNNING: its worker reports that it runs. "
    "It is on node edge-1 (least allocated of 3 nodes that fit).",
    "pending": "web (j/0) is PENDING: no node can take it. Of 3 nodes, 2 nodes are not ready (edge-1 is down), "
    "1 node has too little memory free (needs 50 MiB; edge-3 has 20 MiB free of 100 MiB). "
    "The smallest change that would help: edge-3 would fit: lower the memory demand by 30 MiB. "
    "It is tried again as soon as something changes for the better.",
    "unplanned": "web (j/0) is PENDING: no node can take it: 2 nodes are not ready (edge-1 is down). "
    "It is tried again as soon as something changes for the better.",
    "empty": "web (j/0) is PENDING: no node can take it. The smallest change that would help: no node is registered: "
    "register one. It is tried again as soon as something changes for the better.",
    "failed": "web (j/0) is FAILED: its worker reports that it failed. The last 3 attempts failed. "
    "2 of 3 nodes would take it now. It is tried again in 12 s.",
    "given up": "web (j/0) is FAILED: its worker reports that it failed. The last 3 attempts failed. "
    "It is not tried again by itself: deploy it again to start it.",
    "starting": "web (j/0) is STARTING: not ready: refused. It is on node edge-1. "
    "It must run, or get on, within 90 s, or it is placed anew.",
    "stopping": "web (j/0) is STOPPING: deletion was requested. It is on node edge-1. "
    "The order is repeated until its node says that it is gone.",
    "stopped": "web (j/0) is STOPPED: nothing of it is left on any node.",
    "held": "web (j/0) is UNKNOWN: its node is not heard: nothing heard of it for 16.0 s. It is on node edge-1. "
    "It is not placed anew yet, because 3 of 4 nodes fell silent together: edge-1 is waited for 98 s at most, or until "
    "`clusterctl node confirm-lost edge-1`.",
    "held by nobody": "web (j/0) is UNKNOWN: its node is not heard: nothing heard of it for 16.0 s. It is on node "
    "edge-1. It is not placed anew yet, because no other node is READY: edge-1 is waited for until another node is "
    "READY, or until `clusterctl node confirm-lost edge-1`.",
}


def _instance(state: InstanceState, detail: str, **facts: object) -> Instance:
    made = Instance(key=InstanceKey("j", 0), spec=SPEC, is_desired=True, state=state, detail=detail)
    return replace(made, **facts)  # type: ignore[arg-type]


def _planning(*refusals: tuple[str, int, str], fitting: int = 0, change: str = "") -> scheduler_pb2.ExplainResponse:
    return scheduler_pb2.ExplainResponse(
        node_count=3 if refusals or fitting else 0,
        fitting_count=fitting,
        refusals=[instance_pb2.Refusal(reason=why, node_count=count, detail=words) for why, count, words in refusals],
        smallest_change=change,
    )


RUNNING = _instance(
    InstanceState.RUNNING,
    "its worker reports that it runs",
    current=Placement(node_id="n1", generation=1, spec=SPEC, state=InstanceState.RUNNING, since_ms=0),
    events=(
        Event(at_ms=0, actor="scheduler", kind="placed", state="", cause="the only node", node_id="n2"),
        Event(
            at_ms=1,
            actor="scheduler",
            kind="placed",
            state="",
            cause="least allocated of 3 nodes that fit",
            node_id="n1",
        ),
    ),
)
PENDING = _instance(InstanceState.PENDING, no_node([Refusal(reason="ready", node_count=2, detail="edge-1 is down")]))
FAILED = _instance(InstanceState.FAILED, "its worker reports that it failed", attempts=3, retry_at_ms=NOW_MS + 12_000)
PLACED = Placement(
    node_id="n1", generation=1, spec=SPEC, state=InstanceState.STARTING, since_ms=0, deadline_ms=NOW_MS + 90_000
)
STARTING = _instance(InstanceState.STARTING, "not ready: refused", current=PLACED)
STOPPING = _instance(InstanceState.STOPPING, "deletion was requested", is_desired=False, current=PLACED)
BLIND = replace(PLACED, state=InstanceState.UNKNOWN, deadline_ms=None)
UNKNOWN = _instance(InstanceState.UNKNOWN, "its node is not heard: nothing heard of it for 16.0 s", current=BLIND)
STOPPED = _instance(InstanceState.STOPPED, "nothing of it is left on any node", is_desired=False)


@pytest.mark.parametrize(
    ("instance", "planning", "words"),
    [
        (RUNNING, _planning(fitting=3), "running"),
        (PENDING, _planning(DOWN, SHORT, change="edge-3 would fit: lower the memory demand by 30 MiB"), "pending"),
        (PENDING, None, "unplanned"),
        (PENDING, _planning(change="no node is registered: register one"), "empty"),
        (FAILED, _planning(DOWN, fitting=2), "failed"),
        (replace(FAILED, retry_at_ms=None), _planning(DOWN, fitting=2), "given up"),
        (STARTING, _planning(fitting=3), "starting"),
        (STOPPING, _planning(fitting=3), "stopping"),
        (STOPPED, _planning(fitting=3), "stopped"),
    ],
)
def test_an_explanation_reads_well(
    instance: Instance, planning: scheduler_pb2.ExplainResponse | None, words: str
) -> None:
    """It says where the instance is and why there, or what stands in the way and what would help, each once."""
    assert summary(instance, {"n1": "edge-1"}.__getitem__, planning, NOW_MS) == EXPLAINED[words]


@pytest.mark.parametrize(
    ("hold", "words"),
    [
        (Hold(cause="3 of 4 nodes fell silent together", left_s=98.2), "held"),
        (Hold(cause=NOBODY, left_s=inf), "held by nobody"),
    ],
)
def test_an_explanation_says_what_is_waited_for(hold: Hold, words: str) -> None:
    """Why nothing is placed anew yet, for how long at most, and how to end it."""
    assert summary(UNKNOWN, {"n1": "edge-1"}.__getitem__, None, NOW_MS, hold) == EXPLAINED[words]


@pytest.mark.parametrize(
    ("reason", "count", "words"),
    [
        ("cordoned", 1, "1 node is cordoned (edge-1)"),
        ("technology", 2, "2 nodes lack the runtime (edge-1)"),
        ("latency", 1, "1 node is ruled out by latency (edge-1)"),
        ("geo", 3, "3 nodes are ruled out by geo (edge-1)"),
    ],
)
def test_reasons_are_phrases(reason: str, count: int, words: str) -> None:
    """One node and more nodes, reasons that are known and others: each makes a sentence."""
    assert phrase(Refusal(reason=reason, node_count=count, detail="edge-1")) == words


def test_no_nodes_at_all_is_a_reason() -> None:
    """An empty cluster says so."""
    assert no_node([]) == "no node can take it: none is registered"
