"""What a root fails on is found, left out for a while and tried again; a root that is away blames nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from manager.domain.model import InstanceKey
from manager.root.doubts import FIRST_PAUSE_S, GIVEN_UP, LONGEST_HOLD_S, LONGEST_PAUSE_S, Doubts, pause_s

A, B, C, D = (InstanceKey(name * 24, 0) for name in "abcd")


def _keys(count: int) -> tuple[InstanceKey, ...]:
    return tuple(InstanceKey(f"{number:024x}", 0) for number in range(count))


def _narrow(doubts: Doubts, keys: tuple[InstanceKey, ...], bad: Iterable[InstanceKey]) -> int:
    """Tell what is in doubt until nothing is; answers how many reports that took."""
    bad, count = set(bad), 0
    doubts.blame(keys, 0, was_answered=True)
    while group := doubts.next(0):
        assert isinstance(group, tuple)
        count += 1
        if bad.intersection(group):
            doubts.blame(group, 0, was_answered=True)
        else:
            doubts.taken(group)
    return count


@pytest.mark.parametrize("bad", [0, 77, 199])
def test_one_culprit_of_many_is_found_by_halving(bad: int) -> None:
    """It takes twice the logarithm of reports, and only the culprit is left out."""
    doubts, keys = Doubts(), _keys(200)
    assert _narrow(doubts, keys, [keys[bad]]) <= 16
    assert doubts.aside == [keys[bad]]
    assert not any(doubts.holds(key) for key in keys if key != keys[bad])


def test_what_is_set_aside_is_tried_again_by_time() -> None:
    """After five seconds, then twice that, at most ten minutes; once it is taken all is forgotten."""
    doubts, now = Doubts(), 0.0
    assert doubts.blame((A,), now, was_answered=True) == A
    for tries in range(1, 12):
        assert doubts.next(now + pause_s(tries) - 0.1) is None
        now += pause_s(tries)
        assert doubts.next(now) == (A,)
        assert doubts.blame((A,), now, was_answered=True) is None
    assert pause_s(1) == FIRST_PAUSE_S
    assert pause_s(99) == LONGEST_PAUSE_S
    assert doubts.taken((A,)) == [A]
    assert not doubts.holds(A)
    assert doubts.blame((A,), now, was_answered=True) == A


def test_change_is_tried_soon() -> None:
    """What failed often and changed waits no longer than what failed once."""
    doubts = Doubts()
    for _ in range(8):
        doubts.blame((A,), 0, was_answered=True)
    assert doubts.next(FIRST_PAUSE_S) is None
    doubts.changed(A)
    assert doubts.next(FIRST_PAUSE_S - 0.1) is None
    assert doubts.next(FIRST_PAUSE_S) == (A,)


def test_no_answer_blames_nothing_before_the_third_time() -> None:
    """A root may be away just then; what was told without an answer is told alone, and set aside the third time."""
    doubts = Doubts()
    for _ in range(2):
        assert doubts.blame((A,), 0, was_answered=False) is None
        assert doubts.next(0) == (A,)
    assert doubts.blame((A,), 0, was_answered=False) == A
    assert doubts.next(0) is None


def test_no_answer_now_and_then_is_forgotten_with_each_yes() -> None:
    """Only failures without a success between them count."""
    doubts = Doubts()
    for _ in range(9):
        assert doubts.blame((A,), 0, was_answered=False) is None
        doubts.taken((A,))
    assert not doubts.holds(A)


def test_two_instances_of_a_job_make_it_the_job() -> None:
    """Roots check jobs as a whole: the rest of the job is not tried one by one, and comes back with the first yes."""
    doubts = Doubts()
    members = [InstanceKey("a" * 24, number) for number in range(100)]
    assert _narrow(doubts, (*members, B), members) < 20
    assert doubts.aside == ["a" * 24]
    assert all(doubts.holds(member) for member in members)
    assert doubts.next(FIRST_PAUSE_S) == "a" * 24
    assert doubts.taken((members[3],)) == ["a" * 24]
    assert not any(doubts.holds(member) for member in members)


def test_root_that_takes_no_instance_at_all_is_the_one_at_fault() -> None:
    """After three jobs in a row nothing is told for a while, longer each time, instead of blaming all of them."""
    doubts = Doubts()
    for key in (A, B):
        doubts.blame((key,), 0, was_answered=True)
    assert not doubts.is_held(0)
    doubts.blame((C,), 0, was_answered=True)
    assert doubts.is_held(FIRST_PAUSE_S - 0.1)
    assert doubts.is_wary
    doubts.blame((D,), FIRST_PAUSE_S, was_answered=True)
    assert doubts.is_held(FIRST_PAUSE_S + 2 * FIRST_PAUSE_S - 0.1)
    for _ in range(20):
        doubts.blame((D,), 100, was_answered=True)
    assert not doubts.is_held(100 + LONGEST_HOLD_S)
    doubts.taken((B,))
    assert (doubts.is_held(100), doubts.is_wary) == (False, False)


def test_others_that_are_taken_between_show_that_the_root_is_well() -> None:
    """Many culprits among many good ones hold nothing up."""
    doubts = Doubts()
    for key in _keys(20):
        doubts.blame((key,), 0, was_answered=True)
        doubts.taken((A,))
    assert not doubts.is_held(0)
    assert len(doubts.aside) == 20


def test_what_failed_for_long_is_given_up() -> None:
    """It is still tried, but nobody needs to keep it for the root."""
    doubts = Doubts()
    for _ in range(GIVEN_UP - 1):
        doubts.blame((A,), 0, was_answered=True)
    assert (doubts.has_given_up(A), doubts.is_calm) == (False, False)
    doubts.blame((A,), 0, was_answered=True)
    assert (doubts.has_given_up(A), doubts.is_calm) == (True, True)
    assert doubts.next(LONGEST_PAUSE_S) == (A,)


def test_what_is_gone_is_doubted_no_more() -> None:
    """Instances that were removed leave their groups; an empty group is none."""
    doubts = Doubts()
    doubts.blame((A, B), 0, was_answered=True)
    doubts.forget(A)
    assert doubts.next(0) == (B,)
    doubts.forget(B)
    assert doubts.next(0) is None
    assert not doubts.holds(A)
    doubts.blame((C,), 0, was_answered=True)
    doubts.forget(C)
    assert doubts.next(LONGEST_PAUSE_S) is None


def test_report_of_numbers_alone_shows_nothing() -> None:
    """That the root takes it says nothing of what it fails on."""
    doubts = Doubts()
    for key in (A, B, C):
        doubts.blame((key,), 0, was_answered=True)
    assert doubts.taken(()) == []
    assert doubts.is_held(0)
