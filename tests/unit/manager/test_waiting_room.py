"""Instances that wait for a node, by what they ask for."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from manager.domain.model import Instance, InstanceKey, InstanceState
from manager.domain.waiting import LOOKED_AT, WaitingRoom, is_waiting
from testbed.records import instance, spec

S = InstanceState
SPECS = (spec("a"), spec("b"), spec("a", document='{"its":"own"}'))


def _pending(number: int, name: str = "a") -> Instance:
    return instance(number, spec=spec(name), state=S.PENDING)


def _room(*waiting: Instance) -> WaitingRoom:
    room = WaitingRoom()
    for item in waiting:
        room.change(None, item)
    return room


def _numbers(keys: list[InstanceKey]) -> list[int]:
    return [key.number for key in keys]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([None, S.PENDING, S.RUNNING]), st.integers(0, 2), st.booleans()),
        max_size=40,
    )
)
def test_it_holds_exactly_who_waits(changes: list[tuple[int, InstanceState | None, int, bool]]) -> None:
    """However an instance changes, it is in the class of what it asks for while it is PENDING and wanted."""
    room, model = WaitingRoom(), dict[InstanceKey, Instance]()
    for number, state, which, is_desired in changes:
        old = model.pop(InstanceKey("j", number), None)
        new = instance(number, spec=SPECS[which], state=state, is_desired=is_desired) if state else None
        room.change(old, new)
        if new is not None:
            model[new.key] = new
    wanted: dict[str, set[InstanceKey]] = {}
    for item in model.values():
        if item.state is S.PENDING and item.is_desired:
            wanted.setdefault(item.spec.digest, set()).add(item.key)
    assert sorted(map(sorted, room.classes())) == sorted(map(sorted, wanted.values()))
    assert bool(room) is bool(wanted)


def test_who_waits_longest_is_first() -> None:
    """An instance keeps its place while it changes, and gets a new one with another specification."""
    room = _room(_pending(2), _pending(0), _pending(1))
    room.change(_pending(0), replace(_pending(0), detail="for another reason"))
    assert [_numbers(keys) for keys in room.classes()] == [[2, 0, 1]]
    room.change(_pending(2), _pending(2, "b"))
    room.change(_pending(2, "b"), _pending(2))
    assert [_numbers(keys) for keys in room.classes()] == [[0, 1, 2]]


def test_of_a_large_class_only_the_first_are_looked_at() -> None:
    """A thousand that ask for the same cost as much as fifty."""
    room = _room(*(_pending(number) for number in range(1000)), _pending(1000, "b"))
    assert [_numbers(keys) for keys in room.classes()] == [list(range(LOOKED_AT)), [1000]]


def test_the_others_of_a_class_are_its_next() -> None:
    """As many as are asked for, without the one itself, whether or not that still waits."""
    room = _room(*(_pending(number) for number in range(10)), _pending(10, "b"))
    assert _numbers(room.others(_pending(0), 3)) == [1, 2, 3]
    assert _numbers(room.others(_pending(99), 3)) == [0, 1, 2]
    assert _numbers(room.others(_pending(5), 100)) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert room.others(_pending(0, "nobody asks for this"), 3) == []


def test_what_is_not_wanted_does_not_wait() -> None:
    """PENDING and desired, or it is none of its business."""
    assert is_waiting(_pending(0))
    assert not is_waiting(None)
    assert not is_waiting(replace(_pending(0), is_desired=False))
    assert not is_waiting(replace(_pending(0), state=S.LOST))
