"""The ecosystem's network plug-in, which must hear of a job before a node is told to deploy it.

Source: section 5 of the contract of the deployed ecosystem: `POST /api/net/deployment {"job_name"}` makes the plug-in
resolve the instance's addresses, which the node asks it for when the container attaches.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cluster.process import LOG
from manager.core import Core
from manager.dispatcher import Commander, Identity
from manager.domain.effects import Effect, Verb
from manager.domain.model import Event, Node
from manager.root.pauses import Pauses

if TYPE_CHECKING:
    import httpx

CALLS_AT_ONCE: Final = 8
CALL_S: Final = 2.0
HOLD_S: Final = 4.0
GIVE_UP_S: Final = 120.0
SHARED_FOR_S: Final = 5.0
MAX_REMEMBERED: Final = 50_000


@dataclass
class Announcement:
    """A job that the plug-in is being told of; `waiting` are the deploys that go out once it is `released`."""

    name: str
    is_released: bool = False
    is_over: bool = False
    over_mono_s: float = 0.0
    waiting: dict[Identity, Effect] = field(default_factory=dict)


class NetworkPlugin:
    """Stands before the commander: a deploy waits until its job is announced, or HOLD_S have passed."""

    def __init__(self, core: Core, commander: Commander, address: str) -> None:
        self._core = core
        self._commander = commander
        self._url = f"http://{address}/api/net/deployment"
        self._announcements: dict[str, Announcement] = {}
        self._passed: dict[Identity, None] = {}
        self._queue: deque[Announcement] = deque()
        self._arrived = asyncio.Event()
        self._is_failing = False

    @property
    def is_ready(self) -> bool:
        """Whether there is a broker."""
        return self._commander.is_ready

    def send(self, node: Node, effect: Effect) -> bool:
        """As the commander; False too while the job of a deploy is being announced."""
        if effect.verb is not Verb.DEPLOY or effect.identity in self._passed or self._is_announced(effect):
            return self._commander.send(node, effect)
        return False

    def _is_announced(self, effect: Effect) -> bool:
        """Whether the deploy may go; where not, it waits for the announcement of its job."""
        announcement = self._announcements.get(effect.spec.name)
        if announcement is None or self._is_old(announcement):
            announcement = self._announcements[effect.spec.name] = Announcement(effect.spec.name)
            asyncio.get_running_loop().call_later(HOLD_S, self._release, announcement)
            self._queue.append(announcement)
            self._arrived.set()
        if announcement.is_released:
            self._pass(effect)
            return True
        announcement.waiting[effect.identity] = effect
        return False

    def _is_old(self, announcement: Announcement) -> bool:
        return announcement.is_over and time.monotonic() - announcement.over_mono_s > SHARED_FOR_S

    def _pass(self, effect: Effect) -> None:
        self._passed[effect.identity] = None
        while len(self._passed) > MAX_REMEMBERED:
            del self._passed[next(iter(self._passed))]

    async def run(self) -> None:
        """Announce, several jobs at once, until cancelled."""
        import httpx

        async with httpx.AsyncClient(timeout=CALL_S, trust_env=False) as client, asyncio.TaskGroup() as tasks:
            for number in range(CALLS_AT_ONCE):
                tasks.create_task(self._work(client), name=f"network-plugin-{number}")

    async def _work(self, client: httpx.AsyncClient) -> None:
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            await self._announce(client, self._queue.popleft())

    async def _announce(self, client: httpx.AsyncClient, announcement: Announcement) -> None:
        """Tell the plug-in, again while it fails; meanwhile the deploys go out after HOLD_S."""
        began, pauses = time.monotonic(), Pauses(0.2, 10.0)
        while failure := await self._post(client, announcement.name):
            self._note(announcement, failure)
            if time.monotonic() - began > GIVE_UP_S or failure.startswith("400"):
                break
            await asyncio.sleep(pauses.next_s())
        if not failure and self._is_failing:
            self._is_failing = False
            LOG.info("network plug-in answers again")
        self._release(announcement)
        announcement.is_over, announcement.over_mono_s = True, time.monotonic()
        self._prune()

    async def _post(self, client: httpx.AsyncClient, name: str) -> str:
        """Why it failed; "" where it did not."""
        import httpx

        try:
            response = await client.post(self._url, json={"job_name": name})
        except httpx.HTTPError as error:
            return f"no answer: {str(error) or type(error).__name__}"
        self._core.counters["network_plugin_calls"] += 1
        return "" if response.is_success else f"{response.status_code}: {response.text[:200]}"

    def _note(self, announcement: Announcement, failure: str) -> None:
        self._core.counters["network_plugin_failures"] += 1
        if not self._is_failing:
            self._is_failing = True
            LOG.warning("network plug-in fails, deploys go on without it", url=self._url, failure=failure)
        cause = f"the network plug-in was not told of {announcement.name} ({failure}); it is tried again"
        event = Event(at_ms=self._core.now_ms(), actor="manager", kind="network_plugin_failed", state="", cause=cause)
        self._core.history.extend((f"instance:{item.key}", event) for item in announcement.waiting.values())

    def _release(self, announcement: Announcement) -> None:
        announcement.is_released = True
        waiting, announcement.waiting = announcement.waiting, {}
        for effect in waiting.values():
            self._pass(effect)
            self._core.dispatcher.repeat(Verb.DEPLOY, effect.key, effect.node_id, 0.0)
        if waiting:
            self._core.dispatcher.tick()

    def _prune(self) -> None:
        for name in [name for name, item in self._announcements.items() if self._is_old(item)]:
            del self._announcements[name]
