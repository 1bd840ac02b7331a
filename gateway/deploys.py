"""Deploys that arrive while others are under way share one call to the manager.

A gRPC call costs the manager more than the deploy that it carries, and a batch is planned and saved at once. Nothing is
delayed for it: a deploy that arrives while no call is under way goes alone, at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from cluster.errors import ClusterError, DeadlineError, UnavailableError
from cluster.v1 import instance_pb2, job_pb2, manager_pb2, root_pb2
from gateway.peers import Peers

CALLS_AT_ONCE: Final = 2
MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
_IDS_SHOWN: Final = 8


@dataclass(frozen=True, eq=False)
class Deploy:
    """One instance that should run; `saved` becomes True, or False where it has to be asked for on its own."""

    request_id: str
    actor: str
    key: instance_pb2.InstanceKey
    spec: job_pb2.JobSpec
    saved: asyncio.Future[bool]
    route: root_pb2.RootRoute.ValueType = root_pb2.ROOT_ROUTE_UNSPECIFIED


class Deploys:
    """The deploys that wait; `run` sends them, once per call that may be under way."""

    def __init__(self, peers: Peers, timeout_s: float) -> None:
        self._peers = peers
        self._timeout_s = timeout_s
        self._waiting: deque[Deploy] = deque()
        self._arrived = asyncio.Event()

    async def deploy(
        self,
        request_id: str,
        actor: str,
        key: instance_pb2.InstanceKey,
        spec: job_pb2.JobSpec,
        route: root_pb2.RootRoute.ValueType = root_pb2.ROOT_ROUTE_UNSPECIFIED,
    ) -> None:
        """Return once the manager has saved it. Raises what a call of its own would have raised."""
        deploy = Deploy(request_id, actor, key, spec, asyncio.get_running_loop().create_future(), route)
        self._waiting.append(deploy)
        self._arrived.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                is_saved = await deploy.saved
        except TimeoutError:
            raise DeadlineError(f"it was not saved within {self._timeout_s:g} s; repeat the request") from None
        if not is_saved:
            await self._peers.command(self._peers.manager_stub.DeployInstances, request_of([deploy]))

    async def run(self) -> None:
        """Send what waits, one batch at a time, until cancelled."""
        while True:
            await self._arrived.wait()
            batch = take_batch(self._waiting)
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._send(batch)

    async def _send(self, batch: list[Deploy]) -> None:
        try:
            await self._peers.manager.call(self._peers.manager_stub.DeployInstances, request_of(batch), wait_s=0.0)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who wait
            if is_shared(error, len(batch)):
                settle(batch, error)
            else:
                settle(batch, None, is_saved=False)
        else:
            settle(batch, None)


def is_shared(error: Exception, size: int) -> bool:
    """Whether each deploy of a batch of that size failed with this error.

    Batches are all or none, so that one deploy may have failed the others; and a manager that is away may be waited
    for. Only a deadline has used up the time of all.
    """
    if isinstance(error, UnavailableError):
        return False
    return size == 1 or isinstance(error, DeadlineError) or not isinstance(error, ClusterError)


def settle(batch: list[Deploy], error: Exception | None, *, is_saved: bool = True) -> None:
    """Tell those who still wait."""
    for deploy in batch:
        if deploy.saved.done():
            continue
        if error is None:
            deploy.saved.set_result(is_saved)
        else:
            deploy.saved.set_exception(error)


def take_batch(waiting: deque[Deploy]) -> list[Deploy]:
    """The next deploys, in order, less those that nobody waits for any more.

    A batch names each instance once: what is ordered twice is ordered in two calls, one after the other. So is what
    came by different routes.
    """
    batch: list[Deploy] = []
    keys: set[tuple[str, int]] = set()
    size_bytes = 0
    while waiting and len(batch) < MAX_BATCH and size_bytes < MAX_BATCH_BYTES:
        key = (waiting[0].key.job_id, waiting[0].key.number)
        if key in keys or (batch and waiting[0].route != batch[0].route):
            break
        deploy = waiting.popleft()
        if deploy.saved.done():
            continue
        keys.add(key)
        size_bytes += len(deploy.spec.document_json)
        batch.append(deploy)
    return batch


def request_of(batch: list[Deploy]) -> manager_pb2.DeployInstancesRequest:
    """One call for all of a batch; its request id names the first of theirs."""
    ids = [deploy.request_id for deploy in batch]
    more = f",+{len(ids) - _IDS_SHOWN}" if len(ids) > _IDS_SHOWN else ""
    return manager_pb2.DeployInstancesRequest(
        request_id=",".join(ids[:_IDS_SHOWN]) + more,
        actor=batch[0].actor,
        route=batch[0].route,
        specs=[deploy.spec for deploy in batch],
        deployments=[
            manager_pb2.InstanceDeployment(key=deploy.key, spec_index=index) for index, deploy in enumerate(batch)
        ],
    )
