"""`explain`: the manager's words, and what the scheduler thinks of each node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cluster.v1 import manager_pb2
from clusterctl import columns, reading
from clusterctl.client import Manager
from clusterctl.names import find_instance
from clusterctl.output import Column, console, printable, table
from clusterctl.records import Record, instance_record, to_record

_VERDICTS: Final = (
    Column(title="NODE", cell=lambda verdict: verdict["node_name"] or verdict["node_id"]),
    Column(title="FITS", cell=lambda verdict: "no" if verdict["reasons"] else "yes"),
    Column(title="RULED OUT BY", cell=lambda verdict: ",".join(verdict["reasons"])),
    Column(title="DETAIL", cell=lambda verdict: verdict["shortfall"]),
)
_LAST_EVENTS: Final = 5
_TOLD: Final = ("PENDING", "REQUESTED", "FAILED", "LOST")


def explanation(manager: Manager, name: str) -> Record:
    """The summary, the instance, and the scheduler's verdicts with node names (None: the scheduler is away)."""
    request = manager_pb2.ExplainInstanceRequest(key=find_instance(manager, name))
    found = manager.call(manager.api.ExplainInstance, request)
    names = reading.node_names(manager)
    planning = to_record(found.planning) if found.HasField("planning") else None
    for verdict in planning["verdicts"] if planning else ():
        verdict["node_name"] = names.get(verdict["node_id"], "")
    return {"summary": found.summary, "instance": instance_record(found.instance, names), "planning": planning}


def show_explanation(record: Mapping[str, Any]) -> None:
    """Write an explanation for people."""
    out = console()
    instance, planning = record["instance"], record["planning"]
    for line in record["summary"].splitlines():
        out.print(printable(line), markup=False, soft_wrap=True)
    if planning is None:
        out.print("The scheduler does not answer now, so this is what the manager knows.")
    else:
        if instance["state"] not in _TOLD:  # of what waits for a node the summary tells it
            _show_counts(planning)
        if planning["verdicts"]:
            out.print(table(_VERDICTS, planning["verdicts"]))
    if instance["events"]:
        out.print("\nlast events:")
        out.print(table(columns.EVENTS, instance["events"][-_LAST_EVENTS:]))


def _show_counts(planning: Mapping[str, Any]) -> None:
    out = console()
    out.print(f"\n{planning['fitting_count']} of {planning['node_count']} nodes would take it now.")
    for refusal in planning["refusals"]:
        line = f"  {refusal['node_count']} ruled out by {refusal['reason']}: {printable(refusal['detail'])}"
        out.print(line, markup=False, soft_wrap=True)
    if planning["smallest_change"]:
        out.print(f"What would help: {printable(planning['smallest_change'])}", markup=False, soft_wrap=True)
