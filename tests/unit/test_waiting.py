"""Waiting in tests: values come back, and a condition that stays false tells its story."""

import itertools

import pytest

from testbed.waiting import ConditionNotMetError, wait_until, wait_until_async


def test_the_first_truthy_value_is_returned() -> None:
    """Polling goes on over falsy values and hands out the first truthy one."""
    counter = itertools.count()
    assert wait_until(lambda: next(counter), interval=0) == 1


async def test_async_and_plain_predicates_are_both_polled() -> None:
    """An awaitable result is awaited, any other is taken as it is."""

    async def answer() -> str:
        return "awaited"

    assert await wait_until_async(answer) == "awaited"
    assert await wait_until_async(lambda: "plain") == "plain"


async def test_a_condition_that_stays_false_is_named_with_its_last_value() -> None:
    """The error says what was waited for and what was seen last."""
    with pytest.raises(ConditionNotMetError, match=r"two workers are ready \(last value: 0\)"):
        wait_until(lambda: 0, timeout=0.01, what="two workers are ready")
    with pytest.raises(ConditionNotMetError, match=r"two workers are ready \(last value: None\)"):
        await wait_until_async(lambda: None, timeout=0.01, what="two workers are ready")
