"""What is shown of an instance beyond what is saved: that its node is silent, or that its delete has to wait. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from manager.domain.model import Instance, InstanceState

S = InstanceState
DELETE_S: Final = 10
UNKNOWN_WHEN_SILENT: Final = frozenset({S.SCHEDULED, S.STARTING, S.RUNNING})


def as_heard(instance: Instance, is_silent: bool, trouble: str) -> Instance:
    """UNKNOWN, where it was on its way or running there; the same object otherwise."""
    if not is_silent or instance.state not in UNKNOWN_WHEN_SILENT:
        return instance
    return replace(instance, state=S.UNKNOWN, detail=f"its node is not heard: {trouble}")


def queued(ahead: int) -> str:
    """Why a delete takes its time."""
    return f"its engine deletes one after the other, some {DELETE_S} s each: {ahead} before it"
