"""Random interleavings of everything that can happen to the worker's machine."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.machines import spec
from worker.machine import Machine
from worker.records import (
    Check,
    DeleteAsked,
    DeployAsked,
    Event,
    Exit,
    Exited,
    Forget,
    GuestAwaited,
    GuestMissed,
    HandOverFailed,
    Instruction,
    Kill,
    LeaseAcknowledged,
    MoveAnnounced,
    Phase,
    Probed,
    Progressed,
    Publish,
    Ref,
    Start,
    Started,
    StartFailed,
    StateAcknowledged,
    Status,
    Stop,
    Ticked,
    Vanished,
    WorkerEnded,
)

SPECS = (
    spec(),
    spec(one_shot=True),
    spec(restart_policy="on-failure", max_attempts=2, stop_grace_s=0),
    spec(on_disconnect="stop_after", stop_after_s=5, liveness={"tcp": {"port": 1}}, readiness={"tcp": {"port": 1}}),
)
refs = st.builds(Ref, st.just("j"), st.integers(0, 1), st.integers(1, 3))
exits = st.builds(Exit, code=st.sampled_from([None, 0, 1, 137]), is_outcome_known=st.booleans(), is_moved=st.booleans())
events: st.SearchStrategy[Event] = st.one_of(
    refs.map(lambda ref: DeployAsked(ref, SPECS[ref.generation % len(SPECS)])),
    refs.map(lambda ref: DeleteAsked(ref, SPECS[0])),
    refs.map(lambda ref: DeployAsked(ref, SPECS[0], is_live=True)),
    st.builds(MoveAnnounced, refs, st.just("n"), st.sampled_from(["", "tcp:n:1"])),
    st.builds(GuestAwaited, refs, st.just("tcp:n:2")),
    st.builds(GuestMissed, refs, st.just("late")),
    st.builds(HandOverFailed, refs, st.just("refused")),
    st.builds(Progressed, refs, st.just("half")),
    st.builds(Started, refs),
    st.builds(StartFailed, refs, st.just("no"), st.booleans()),
    st.builds(Exited, refs, exits),
    st.builds(Vanished, refs, st.just("gone")),
    st.builds(Probed, refs, st.sampled_from(Check), st.booleans()),
    st.builds(StateAcknowledged, refs, st.sampled_from(Status)),
    st.builds(LeaseAcknowledged, st.floats(0, 3000)),
    st.builds(WorkerEnded, st.frozensets(refs)),
    st.just(Ticked()),
)
steps = st.lists(st.tuples(st.floats(0, 30), events), max_size=60)


@settings(max_examples=150, deadline=None)
@given(steps=steps, seed=st.integers(0, 9))
def test_invariants_hold_after_every_event(steps: list[tuple[float, Event]], seed: int) -> None:
    """Whatever comes in whatever order: no slot runs twice, no contradiction, no deleted generation starts."""
    machine, now = Machine(seed=seed), 1000.0
    fenced: dict[tuple[str, int], int] = {}
    for wait_s, event in steps:
        now += wait_s
        if isinstance(event, DeleteAsked):
            fenced[event.ref.slot] = max(event.ref.generation, fenced.get(event.ref.slot, 0))
        for instruction in machine.handle(event, now):
            if isinstance(instruction, Start):
                assert instruction.ref.generation > fenced.get(instruction.ref.slot, 0)
        machine.check_invariants()


class Runtimes:
    """A runtime that obeys: what is started runs, what is stopped ends."""

    def __init__(self) -> None:
        self.running: set[Ref] = set()

    def obey(self, instruction: Instruction) -> list[Event]:
        """The events that follow an instruction."""
        match instruction:
            case Start(ref):
                assert not any(other.slot == ref.slot for other in self.running), "two generations run"
                self.running.add(ref)
                return [Started(ref)]
            case Stop(ref) | Kill(ref):
                self.running.discard(ref)
                return [Exited(ref, Exit(code=143))]
            case Forget(ref):
                assert ref not in self.running, "forgotten while it runs"
            case Publish():
                return [StateAcknowledged(instruction.ref, instruction.status)]
        return []


commands = st.one_of(
    refs.map(lambda ref: DeployAsked(ref, SPECS[0])),
    refs.map(lambda ref: DeleteAsked(ref, SPECS[0])),
    st.builds(Exited, refs, st.just(Exit(code=1))),
    st.just(Ticked()),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(commands, max_size=40))
def test_with_an_obedient_runtime_everything_settles(steps: list[Event]) -> None:
    """Once commands stop, the newest undeleted generation of each slot runs and everything deleted is forgotten."""
    machine, runtimes, now = Machine(), Runtimes(), 1000.0
    wanted: dict[tuple[str, int], int] = {}
    fences: dict[tuple[str, int], int] = {}
    for step in [*steps, *[Ticked()] * 5]:
        now += 400
        if isinstance(step, DeployAsked) and step.ref.generation > max(
            fences.get(step.ref.slot, 0), wanted.get(step.ref.slot, 0)
        ):
            wanted[step.ref.slot] = step.ref.generation
        if isinstance(step, DeleteAsked):
            fences[step.ref.slot] = max(step.ref.generation, fences.get(step.ref.slot, 0))
        if isinstance(step, Exited):
            if step.ref not in runtimes.running:
                continue
            runtimes.running.discard(step.ref)
        pending: list[Event] = [step]
        while pending:
            for instruction in machine.handle(pending.pop(0), now):
                pending += runtimes.obey(instruction)
            machine.check_invariants()
    expected = {Ref(*slot, generation) for slot, generation in wanted.items() if generation > fences.get(slot, 0)}
    assert runtimes.running == expected
    assert {ref for ref, item in machine.instances.items() if item.phase is Phase.RUNNING} == expected
    assert set(machine.instances) == expected


def test_replaced_records_are_equal_but_for_what_changed() -> None:
    """The machine's records are frozen: a change makes a new one."""
    machine = Machine()
    machine.handle(DeployAsked(Ref("j", 0, 1), SPECS[0]), 1.0)
    before = machine.instances[Ref("j", 0, 1)]
    machine.handle(Started(Ref("j", 0, 1)), 2.0)
    after = machine.instances[Ref("j", 0, 1)]
    assert before.phase is Phase.STARTING
    assert replace(after, phase=before.phase, status=before.status, detail=before.detail).spec == before.spec
