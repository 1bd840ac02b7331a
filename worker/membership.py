"""Becoming and staying a node of the cluster: registering with back-off, or waiting to be adopted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from worker import messages
from worker.gateway import Membership, RegistrationError, register
from worker.runtime.base import Runtime
from worker.settings import WorkerSettings, address_towards
from worker.state import State
from worker.telemetry import capacity

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
BACK_OFF_BASE_S: Final = 0.5
BACK_OFF_CAP_S: Final = 30.0
TECHNOLOGY_CHECK_S: Final = 30.0


class Registrar:
    """Keeps the membership: what it is now, `changed` whenever it becomes another one, `keep` to have it on disk."""

    def __init__(
        self,
        settings: WorkerSettings,
        state: State,
        runtimes: Mapping[str, Runtime],
        changed: Callable[[Membership], None],
        keep: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._settings = settings
        self._known_id = state.meta("node_id")
        self._keep = keep
        self._runtimes = runtimes
        self._changed = changed
        self._needed = asyncio.Event()
        self._technologies: tuple[str, ...] = ()
        self._told: dict[str, str] = {}
        self.port = settings.worker_port
        self.ip = settings.worker_ip or address_towards(settings.gateway_host)
        self.membership = _stored(state)

    def body(self) -> bytes:
        """The registration message of this node, now."""
        facts = capacity(self._settings.worker_data_dir)
        node = messages.NodeFacts(
            name=self._settings.worker_name,
            ip=self.ip,
            port=self.port,
            technologies=self._technologies,
            vcpus=facts.vcpus,
            memory_in_mb=facts.memory_mb,
            storage_in_mb=facts.storage_mb,
            architecture=facts.architecture,
        )
        return messages.registration(node, self._known_id)

    def again(self) -> None:
        """Register again: the manager does not know this node, or a fact changed."""
        self._needed.set()

    def take(self, membership: Membership) -> None:
        """The manager's answer, by whichever way it came: kept, and used from now on."""
        is_other = membership != self.membership
        self.membership = membership
        self._known_id = membership.node_id
        facts = {"broker_port": str(membership.broker_port), "broker_host": membership.broker_host}
        self._keep({"node_id": membership.node_id, **facts})
        LOG.info("registered", node_id=membership.node_id, technologies=list(self._technologies))
        if is_other:
            self._changed(membership)

    async def run(self) -> None:
        """Register at the start and whenever asked; look now and then whether an engine came or went."""
        if self.membership:
            self._changed(self.membership)
        self._technologies = await self._available()
        if not self._settings.worker_adopt:
            await self._register()
        elif not self.membership:
            LOG.info("waiting to be adopted", address=f"{self.ip}:{self.port}")
        while True:
            await self._until_needed()
            if not self._settings.worker_adopt:
                await self._register()

    async def _until_needed(self) -> None:
        while not self._needed.is_set():
            try:
                async with asyncio.timeout(TECHNOLOGY_CHECK_S):
                    await self._needed.wait()
            except TimeoutError:
                found = await self._available()
                if found != self._technologies:
                    self._technologies = found
                    self._needed.set()
        self._needed.clear()

    async def _register(self) -> None:
        failures = 0
        while True:
            try:
                self.take(await register(self._settings.gateway_url, self.body()))
            except RegistrationError as error:
                failures += 1
                if failures == 1:
                    LOG.warning("not registered, trying on", gateway=self._settings.gateway_url, why=str(error))
                if error.is_conflict:
                    self._known_id = ""
                    self._keep({"node_id": ""})
                wait_s = min(BACK_OFF_CAP_S, BACK_OFF_BASE_S * 2.0 ** min(failures - 1, 10))
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            else:
                return

    async def _available(self) -> tuple[str, ...]:
        found = []
        for technology, runtime in self._runtimes.items():
            why_not = await runtime.unavailable()
            if why_not and self._told.get(technology) != why_not:
                LOG.warning("technology not announced", technology=technology, why=why_not)
            self._told[technology] = why_not
            if not why_not:
                found.append(technology)
        return tuple(found)


def _stored(state: State) -> Membership | None:
    node_id, port = state.meta("node_id"), state.meta("broker_port")
    if not node_id or not port:
        return None
    return Membership(node_id=node_id, broker_port=int(port), broker_host=state.meta("broker_host"))
