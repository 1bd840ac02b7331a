"""What the machine decided and the disk does not have yet: saved in order, and only then acknowledged, sent and done.

The machine never waits for it. While the disk is full, or takes longer than PATIENCE_S, everything is held back but
what only takes away: workloads are stopped and killed before that is saved. A worker that crashes then finds them as
they were saved, and is told again what it never acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias, TypeVar

import structlog

from worker.records import Fence, Forget, HandOver, Instruction, Kill, Publish, Ref, RunProbe, Save, Start, Stop
from worker.state import Change, Keep, Message, State

T = TypeVar("T")
LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
PATIENCE_S: Final = 1.0
RETRY_S: Final = 1.0

Effect: TypeAlias = Start | HandOver | Stop | Kill | Forget


@dataclass(kw_only=True)
class Portion:
    """What is saved in one commit, and what follows it. Of changes of the same record only the last is kept."""

    changes: dict[object, Change] = field(default_factory=dict)
    sequences: list[int] = field(default_factory=list)
    acknowledge: list[Callable[[], None]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    def add(self, change: Change) -> None:
        """Put it behind the others, in the place of what it overwrites."""
        match change:
            case Save(instance):
                key: object = instance.ref
            case Forget(ref):
                key = ref
            case Fence(ref):
                key = ("fence", ref.slot)
            case Keep(name):
                key = ("fact", name)
            case Publish():
                key = object()
        self.changes.pop(key, None)
        self.changes[key] = change

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to save and nothing that follows."""
        return not (self.changes or self.sequences or self.acknowledge or self.effects)

    @property
    def is_saved(self) -> bool:
        """Whether nothing of it needs the disk."""
        return not (self.changes or self.sequences)


def without_starts(effects: list[Effect], ref: Ref) -> tuple[list[Effect], bool]:
    """The effects without what would begin on an instance, and whether it was to be started."""
    begun = [item for item in effects if isinstance(item, Start | HandOver) and item.ref == ref]
    return [item for item in effects if item not in begun], any(isinstance(item, Start) for item in begun)


@dataclass(frozen=True, kw_only=True)
class Followers:
    """Who does what follows a commit, and what cannot wait for one.

    `annulled` is told of an instance that was stopped before its start was even tried.
    """

    saved: Callable[[Portion, list[Message]], None]
    is_urgent: Callable[[Stop | Kill], bool]
    at_once: Callable[[Stop | Kill | RunProbe], None]
    annulled: Callable[[Ref], None]


class Journal:
    """Saves portion after portion, for as long as each takes."""

    def __init__(self, state: State, followers: Followers) -> None:
        self._state = state
        self._followers = followers
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._waiting = Portion()
        self._under_way = Portion()
        self._commit: asyncio.Future[list[Message]] | None = None
        self._fresh = asyncio.Event()
        self._trouble = ""

    def add(
        self,
        instructions: Iterable[Instruction | Keep],
        acknowledge: Iterable[Callable[[], None]] = (),
        sequences: Iterable[int] = (),
    ) -> None:
        """Take what one batch of events led to; `sequences` of messages need not be kept any more."""
        for item in instructions:
            if isinstance(item, RunProbe):  # it leaves no trace
                self._followers.at_once(item)
            elif isinstance(item, Start | HandOver | Stop | Kill):
                self._waiting.effects += [] if self._is_superfluous(item) else [item]
            else:
                self._waiting.add(item)
                self._waiting.effects += [item] if isinstance(item, Forget) else []
        self._waiting.acknowledge += acknowledge
        self._waiting.sequences += sequences
        if self._trouble:
            self._hurry()
        if not self._waiting.is_empty:
            self._fresh.set()

    async def run(self) -> None:
        """Save for ever."""
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            self._under_way, self._waiting = self._waiting, Portion()
            messages = [] if self._under_way.is_saved else await self._insist()
            done, self._under_way = self._under_way, Portion()
            try:
                self._followers.saved(done, messages)
            except Exception:
                LOG.exception("what was saved was not all carried out")

    async def on_disk(self, function: Callable[[], T]) -> T:
        """Run it in the one thread that touches the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, function)

    async def finish(self, instructions: Iterable[Instruction]) -> list[Message] | None:
        """After `run` has ended: one try to save what is left and this; nothing follows it. None where it failed."""
        messages: list[Message] = []
        if self._commit is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                messages += await self._commit
                self._under_way = Portion()
        for item in instructions:
            if isinstance(item, Save | Publish | Fence | Forget):
                self._waiting.add(item)
        try:
            for portion in (self._under_way, self._waiting):
                messages += await self._committed(portion)
        except (OSError, sqlite3.Error) as error:
            LOG.error("state cannot be written", why=str(error))
            return None
        return messages

    def close(self) -> None:
        """End the thread."""
        self._disk.shutdown()

    async def _insist(self) -> list[Message]:
        """Until it is on disk, however long that takes."""
        while True:
            late = asyncio.get_running_loop().call_later(PATIENCE_S, self._be_troubled, "the disk is slow")
            try:
                messages = await self._committed(self._under_way)
            except (OSError, sqlite3.Error) as error:
                self._be_troubled(str(error))
                await asyncio.sleep(RETRY_S)
                await self._drop_what_no_disk_takes(error)
            else:
                self._recover()
                return messages
            finally:
                late.cancel()

    async def _committed(self, portion: Portion) -> list[Message]:
        """What a cancellation leaves under way is not lost: `finish` waits for it."""
        if portion.is_saved:
            return []
        work = partial(
            self._state.commit, list(portion.changes.values()), int(time.time() * 1000), list(portion.sequences)
        )
        self._commit = asyncio.get_running_loop().run_in_executor(self._disk, work)
        messages = await asyncio.shield(self._commit)
        self._commit = None
        return messages

    async def _drop_what_no_disk_takes(self, error: OSError | sqlite3.Error) -> None:
        """One record that can never be saved must not hold up those of the other instances."""
        if isinstance(error, OSError | sqlite3.OperationalError):
            return
        for key, change in list(self._under_way.changes.items()):
            if why := await self.on_disk(partial(self._state.refusal, change)):
                LOG.error("cannot be saved and is passed over", what=str(change)[:300], why=why)
                del self._under_way.changes[key]

    # -- trouble with the disk ---------------------------------------------------------------------------------------

    def _be_troubled(self, why: str) -> None:
        if not self._trouble:
            LOG.error("state cannot be written; holding back all but stopping", why=why)
        self._trouble = why
        self._hurry()

    def _recover(self) -> None:
        if self._trouble:
            LOG.info("state can be written again")
        self._trouble = ""

    def _hurry(self) -> None:
        """Do at once what only takes away; what was to begin on the same instance is not begun any more."""
        for portion in (self._under_way, self._waiting):
            for item in [item for item in portion.effects if isinstance(item, Stop | Kill)]:
                if self._followers.is_urgent(item):
                    portion.effects.remove(item)
                    self._end(item)

    def _end(self, item: Stop | Kill) -> None:
        was_to_start = False
        for portion in (self._under_way, self._waiting):
            portion.effects, is_start = without_starts(portion.effects, item.ref)
            was_to_start = was_to_start or is_start
        if was_to_start:
            self._followers.annulled(item.ref)
        else:
            self._followers.at_once(item)

    def _is_superfluous(self, item: Effect) -> bool:
        """Whether it kills what is not even asked to end yet, for want of the disk: the next kill comes soon enough."""
        held = (*self._under_way.effects, *self._waiting.effects)
        is_waiting = any(isinstance(other, Stop | Kill) and other.ref == item.ref for other in held)
        return bool(self._trouble) and isinstance(item, Kill) and is_waiting
