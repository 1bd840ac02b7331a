"""Waiting for a condition; the time-out is a safety net, never an assertion about speed.

Time-outs are written for a quiet machine, and each is granted `PATIENCE` times that: test machines are slow and shared.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")
PATIENCE: Final = 3


class ConditionNotMetError(AssertionError):
    """A condition that a test waited for did not come true."""


def wait_until(predicate: Callable[[], T], timeout: float = 30.0, interval: float = 0.02, what: str = "") -> T:
    """Poll `predicate` until it is truthy and return its value; seconds; raises ConditionNotMetError."""
    deadline = time.monotonic() + PATIENCE * timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise ConditionNotMetError(_story(what or _name(predicate), timeout, value))
        time.sleep(interval)
    return value


async def wait_until_async(
    predicate: Callable[[], T | Awaitable[T]], timeout: float = 30.0, interval: float = 0.02, what: str = ""
) -> T:
    """As `wait_until`, for a plain or an async predicate, without blocking the loop."""
    deadline = time.monotonic() + PATIENCE * timeout
    while True:
        result = predicate()
        value: T = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if time.monotonic() > deadline:
            raise ConditionNotMetError(_story(what or _name(predicate), timeout, value))
        await asyncio.sleep(interval)


def _name(predicate: Callable[[], object]) -> str:
    return getattr(predicate, "__qualname__", repr(predicate))


def _story(what: str, timeout: float, value: object) -> str:
    return f"not within {PATIENCE * timeout:g} s: {what} (last value: {value!r})"
