"""The link to a stand-in root in this process: a real core on a real store, without gateway, broker and nodes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.payloads import ResourceEntry
from manager.clock import CLOCK
from manager.core import Core
from manager.domain.model import Instance, InstanceKey, InstanceState, Job, Node, NodeLive, NodeState
from manager.root.link import RootLink
from manager.root.settings import RootSettings
from manager.roots import Roots
from standins.roots.data import Service
from standins.roots.r1 import R1
from standins.roots.root import Root
from testbed.attached import NAME, QUICK
from testbed.cores import opened
from testbed.records import instance, node, spec
from testbed.waiting import wait_until_async


@dataclass
class Linked:
    """A core and its link."""

    core: Core
    roots: Roots
    root: Root

    async def put(self, service: Service, number: int = 0, state: InstanceState = InstanceState.RUNNING) -> InstanceKey:
        """An instance of a service of the root, in a state."""
        with self.root.data.lock:
            service.instances.setdefault(number, {"instance_number": number, "status": "CLUSTER_SCHEDULED"})
        key = InstanceKey(service.id, number)
        if service.id not in self.core.state.jobs:
            self.core.state.put_job(Job(id=service.id, spec=spec(), created_at_ms=CLOCK.now_ms(), owner="root"))
        before: Instance = self.core.state.instances.get(key) or replace(
            instance(), key=key, created_at_ms=CLOCK.now_ms()
        )
        self.core.state.put(replace(before, state=state, updated_at_ms=CLOCK.now_ms()))
        await self.core.saved()
        return key

    def measure(self, key: InstanceKey, cpu_percent: float, logs: str = "") -> None:
        """What a node last told of an instance."""
        self.core.usages[key] = ResourceEntry(job_name="web", number=key.number, cpu_percent=cpu_percent, logs=logs)

    def put_node(self, name: str, state: NodeState = NodeState.READY) -> Node:
        """A node in a state."""
        facts = replace(node(name), state=state)
        self.core.state.live.setdefault(facts.id, NodeLive())
        self.core.state.put_node(facts)
        self.core.commit()
        return facts

    async def until_believed(self, service: Service, word: str, number: int = 0) -> None:
        """Wait until the root believes this of an instance."""
        await wait_until_async(lambda: self.root.status_of(service, number) == word)

    async def until_reports(self, count: int) -> None:
        """Wait for so many more reports that the root took."""
        wanted = len(self.root.data.reports) + count
        await wait_until_async(lambda: len(self.root.data.reports) >= wanted)


@contextlib.asynccontextmanager
async def linked(folder: Path, root: Root, **settings: str) -> AsyncIterator[Linked]:
    """A link that was started; `root` serves already. Settings are named as in the environment."""
    if isinstance(root, R1) and root.data.by_name(NAME) is None and settings.get("SYSTEM_MANAGER_URL") != "":
        settings["CLUSTER_PAIRING_KEY"] = root.add_cluster(NAME)
    given = {name.lower(): value for name, value in {**QUICK, **root.settings, **settings}.items() if value}
    async with opened(folder) as core:
        roots = Roots(core)
        link = RootLink(core, roots, lambda: RootSettings(**given))  # type: ignore[arg-type]
        running = asyncio.create_task(link.run())
        try:
            yield Linked(core, roots, root)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
