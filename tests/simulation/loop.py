"""An asyncio loop on virtual time: instead of waiting it moves its clock to when something is due.

All of the real code runs on it unchanged: sleeps, timeouts, tasks. A `Process` is what one operating system process is
elsewhere: whatever it began dies with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

Result = TypeVar("Result")
_OWNER: ContextVar[Process | None] = ContextVar("owner", default=None)


class StuckError(Exception):
    """Nothing is due, ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """No selector, no threads, no waiting."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self
        self.set_task_factory(_owned_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def select(self, timeout: float | None) -> tuple[()]:
        """What a selector would wait, passes at once. Raises StuckError."""
        if timeout is None:
            raise StuckError("every task waits for something that nobody does")
        self._now_s += timeout
        return ()

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.run_until_complete(asyncio.sleep(seconds))

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits who would have to be woken."""


def _owned_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    owner = _OWNER.get()
    if owner is not None:
        owner.adopt(task)
    return task


class Process:
    """Tasks that end together; `is_alive` is what everything that reaches outside asks first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._context: Context = copy_context()
        self._context.run(_OWNER.set, self)
        self.name = name
        self.is_alive = True
        self.failures: list[BaseException] = []

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that was created on behalf of this process."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def spawn(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Run something as a part of it."""
        return self._context.copy().run(lambda: self._loop.create_task(work, name=f"{self.name}: {name}"))

    def keep(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """The same for what must not end while the process lives."""
        task = self.spawn(work, name)
        task.add_done_callback(self._watch)
        return task

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function as a part of it."""
        return self._context.copy().run(function, *arguments)

    def kill(self) -> None:
        """SIGKILL: nothing of it reaches outside any more. The tasks unwind, which nobody notices."""
        self.is_alive = False
        for task in list(self._tasks):
            task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()

    def _watch(self, task: asyncio.Task[None]) -> None:
        if self.is_alive and not task.cancelled():
            self.failures.append(task.exception() or RuntimeError(f"{task.get_name()} ended"))


async def never(_: Awaitable[object] | None = None) -> None:
    """Wait for ever."""
    await asyncio.get_running_loop().create_future()
