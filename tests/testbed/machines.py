"""Building blocks for tests of the worker's pure machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from cluster.documents import parse_job
from cluster.jobs import JobSpec
from worker.machine import Machine
from worker.records import DeployAsked, Event, Instance, Instruction, Publish, Ref, Started, Status

T = TypeVar("T")
REF = Ref("j1", 0, 100)


def spec(**document: Any) -> JobSpec:
    """A parsed job document."""
    return parse_job({"name": "web", "image": "local/busybox:1", "technology": "docker"} | document)


def newer(ref: Ref = REF, by: int = 1) -> Ref:
    """A later generation of the same slot."""
    return replace(ref, generation=ref.generation + by)


class Bench:
    """A machine, its clock, and what it said."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine(seed=7)
        self.now = 1000.0
        self.out: list[Instruction] = []

    def feed(self, *events: Event) -> list[Instruction]:
        """Feed events at the present time; the instructions of all of them."""
        self.out = [item for event in events for item in self.machine.handle(event, self.now)]
        self.machine.check_invariants()
        return self.out

    def at(self, seconds_later: float, *events: Event) -> list[Instruction]:
        """Feed events some seconds later."""
        self.now += seconds_later
        return self.feed(*events)

    def running(self, ref: Ref = REF, **document: Any) -> Bench:
        """Deploy and start an instance."""
        self.feed(DeployAsked(ref, spec(**document)), Started(ref))
        return self

    def get(self, ref: Ref = REF) -> Instance:
        """The record."""
        return self.machine.instances[ref]

    def said(self, kind: type[T]) -> list[T]:
        """The instructions of a kind in the last answer."""
        return of_kind(self.out, kind)

    @property
    def reported(self) -> list[tuple[Status, str]]:
        """The states in the last answer."""
        return [(item.status, item.detail) for item in self.said(Publish)]


def of_kind(instructions: Iterable[Instruction], kind: type[T]) -> list[T]:
    """Those of a kind."""
    return [item for item in instructions if isinstance(item, kind)]
