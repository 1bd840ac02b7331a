"""The machine's records, and what it says of each change: saved, reported, fenced, forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from worker.records import Fence, Forget, Instance, Instruction, Phase, Publish, Ref, Save, Status

PERSISTENT: Final = ("phase", "status", "detail", "exit_code", "failures", "restarts", "has_run", "cause", "leased_at")
ACTIVE: Final = (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)


class Slots:
    """All instances of one worker by slot, and the instructions that changing them gave."""

    def __init__(self, instances: Iterable[Instance], fences: Mapping[tuple[str, int], int]) -> None:
        self.instances: dict[Ref, Instance] = {item.ref: item for item in instances}
        self.fences: dict[tuple[str, int], int] = dict(fences)
        self._out: list[Instruction] = []

    def by_slot(self, slot: tuple[str, int]) -> list[Instance]:
        """The known generations of a slot, oldest first."""
        return sorted((item for item in self.instances.values() if item.ref.slot == slot), key=lambda item: item.ref)

    def check_invariants(self) -> None:
        """Raise AssertionError with the story where the records contradict each other."""
        active: dict[tuple[str, int], Ref] = {}
        for ref, item in self.instances.items():
            story = f"{item}"
            assert item.ref == ref, story
            if item.phase in ACTIVE:
                assert ref.slot not in active, f"{active.get(ref.slot)} and {ref} both run"
                active[ref.slot] = ref
            assert (item.phase is Phase.ENDED) == (item.status not in (Status.STARTING, Status.RUNNING)), story
            assert (item.phase is not Phase.STOPPING) or (item.cause and item.wake_at is not None), story
            assert item.phase is not Phase.RUNNING or item.running_since is not None, story
            assert item.phase is Phase.RUNNING or (item.liveness is None and item.readiness is None), story
            assert not item.handing_over_to or item.phase is Phase.RUNNING, story
            assert not item.incoming or item.phase is Phase.STARTING, story

    def _forget(self, item: Instance) -> None:
        del self.instances[item.ref]
        self._emit(Forget(item.ref, item.spec))

    def _fence(self, ref: Ref) -> None:
        if ref.generation > self.fences.get(ref.slot, -1):
            self.fences[ref.slot] = ref.generation
            self._emit(Fence(ref))

    def _report(self, item: Instance, status: Status, detail: str) -> None:
        """Change the reported status and send it, if it is another one."""
        if (item.status, item.detail) != (status, detail) or item.is_ended:
            self._publish(self._put(item, status=status, detail=detail))

    def _publish(self, item: Instance) -> None:
        words = (item.ref, item.spec.name, item.status, item.detail, item.exit_code, item.incoming, item.restarts)
        self._emit(Publish(*words))

    def _put(self, item: Instance, *, is_new: bool = False, **changes: Any) -> Instance:
        after = replace(item, **changes)
        if after.phase is not Phase.RUNNING:
            after = replace(after, liveness=None, readiness=None, handing_over_to="")
        if after.phase is not Phase.STARTING:
            after = replace(after, incoming="")
        self.instances[after.ref] = after
        if is_new or any(getattr(item, name) != getattr(after, name) for name in PERSISTENT):
            self._emit(Save(after))
        return after

    def _emit(self, instruction: Instruction) -> None:
        self._out.append(instruction)

    def _taken(self) -> list[Instruction]:
        out, self._out = self._out, []
        return out
