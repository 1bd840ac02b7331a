"""The failure detector: who is late, who is lost, and what then becomes of the instances there, node by node."""

from __future__ import annotations

import asyncio
from collections import deque
from math import isfinite
from typing import Final

from cluster.errors import ClusterError, ConflictError, InvalidInputError, NotFoundError
from cluster.nodes import Dialect
from cluster.process import LOG
from manager.core import Core
from manager.domain.leases import Sweep, Verdict
from manager.domain.model import Node, NodeState
from manager.domain.observation import came_ready, untold
from manager.domain.reconciliation import lose_node

TOLD_ONE_BY_ONE: Final = 10
INSTANCES_AT_ONCE: Final = 100
PAUSED: Final = "replacement_paused"
RESUMED: Final = "replacement_resumed"


class Detector:
    """Looks at the leases, and carries out what they say."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lost: deque[str] = deque()
        self._back: list[str] = []
        self._has_lost = asyncio.Event()
        self._held = 0
        self._given_up = 0

    def sweep(self) -> bool:
        """Judge a portion of those whose time has come; whether there are more. The caller commits."""
        core = self._core
        sweep = core.leases.sweep(core.state)
        self._doubt([item for item in sweep.verdicts if item.state is NodeState.SUSPECT])
        for verdict in sweep.verdicts:
            if verdict.state is NodeState.DOWN:
                self._call_down(verdict)
        for node_id in dict.fromkeys((*self._back, *sweep.back)):
            if node_id in core.state.nodes:
                self.heard(core.state.nodes[node_id])
        self._back.clear()
        self._give_up(sweep)
        if not sweep.has_more:
            self._tell_holds()
        return sweep.has_more

    async def judge(self) -> None:
        """Judge everybody whose time has come, as long as the store works."""
        core, has_more = self._core, True
        while has_more and not core.writer.failure:
            has_more = self.sweep()
            if core.has_changes:
                core.commit()
            await asyncio.sleep(0)

    def watch(self) -> None:
        """While nothing can be saved: notice who is late, and who is back, and decide nothing."""
        core = self._core
        sweep = core.leases.sweep(core.state, decides=False)
        self._doubt(sweep.verdicts)
        for node_id in sweep.back:
            core.state.trust(node_id)
        self._back += sweep.back

    def heard(self, node: Node) -> None:
        """A node that was not READY is heard; the caller commits."""
        core = self._core
        was_saved_ready = node.state is NodeState.READY
        core.state.live[node.id].back_mono_s = core.clock.mono_s()
        core.state.trust(node.id)
        core.leases.watch(node.id)
        if not was_saved_ready or node.registration.dialect is Dialect.SEED:
            for effect in came_ready(core.state, node, core.now_ms()):
                core.dispatcher.send_once(effect)
        core.dispatcher.repeat_for(node.id)
        core.state.has_freed = True

    def heard_after_outage(self, node: Node) -> None:
        """A node that tells nothing of what it holds may have missed commands while nobody could be heard."""
        core = self._core
        live, back_s = core.state.live[node.id], core.hearing.back_s((node.id, *node.aliases))
        if back_s is None or back_s <= live.told_mono_s:
            return
        live.told_mono_s = back_s
        core.dispatcher.repeat_for(node.id, sent_before_s=back_s)
        for effect in untold(core.state, node):
            core.dispatcher.send_once(effect)

    def confirm_lost(self, references: list[str]) -> list[Node]:
        """An operator gives nodes up, all that are missed where none is named; answers them.

        Raises NotFoundError, or ConflictError for one that is not missed.
        """
        core = self._core
        if not references:
            node_ids = list(core.leases.held())
        else:
            node_ids = [core.state.get_node(reference).id for reference in references]
        nodes = [core.state.nodes[node_id] for node_id in node_ids]
        for node in nodes:
            if not core.leases.is_missed(node.id):
                state = core.state.state_of(node)
                raise ConflictError(f"node {node.name} is {state} and is not waited for", field="nodes")
        if not nodes:
            raise NotFoundError("no node is waited for", field="nodes")
        for node in nodes:
            core.leases.confirm(node.id)
        self.sweep()
        return nodes

    async def run(self) -> None:
        """Tell the instances of lost nodes, portion by portion, until cancelled."""
        while True:
            await self._has_lost.wait()
            self._has_lost.clear()
            while self._lost:
                await self._core.writer.working.wait()
                await self._lose_portion()

    async def _lose_portion(self) -> None:
        """What could not be saved is told again: nobody else would do so."""
        core, told, node_ids = self._core, 0, list[str]()
        while self._lost and told < INSTANCES_AT_ONCE:
            node_ids.append(self._lost.popleft())
            told += len(core.state.on_node[node_ids[-1]]) + 1
            lose_node(core.state, node_ids[-1], core.now_ms())
        try:
            await asyncio.shield(core.commit())
        except ClusterError as error:
            if not isinstance(error, InvalidInputError):
                self._lost.extend(node_ids)

    def _doubt(self, verdicts: list[Verdict]) -> None:
        core = self._core
        for verdict in verdicts:
            core.state.doubt(verdict.node_id, verdict.cause)
        if len(verdicts) > TOLD_ONE_BY_ONE:
            core.tell("cluster", "suspect", f"{len(verdicts)} nodes are late at once")
            return
        for verdict in verdicts:
            subject = f"node:{verdict.node_id}"
            core.tell(subject, "suspect", verdict.cause, state=NodeState.SUSPECT, node_id=verdict.node_id)

    def _call_down(self, verdict: Verdict) -> None:
        self._core.state.set_node_state(verdict.node_id, verdict.state, verdict.cause, self._core.now_ms())
        LOG.warning("node is down", node_id=verdict.node_id, cause=verdict.cause)

    def _give_up(self, sweep: Sweep) -> None:
        if sweep.given_up:
            self._given_up += len(sweep.given_up)
            self._lost.extend(sweep.given_up)
            self._has_lost.set()

    def _tell_holds(self) -> None:
        """Say once that nodes are waited for, and once how that ended."""
        core = self._core
        held = list(core.leases.held())
        if held and not self._held:
            hold = core.leases.hold_of(held[0])
            bound = f" {hold.left_s:.0f} s at most" if hold and isfinite(hold.left_s) else ""
            why = f" ({hold.cause})" if hold else ""
            cause = f"{len(held)} silent nodes are waited for{bound}{why}: nothing of theirs is placed anew"
            self._given_up = 0
            core.tell("cluster", PAUSED, cause)
            LOG.error("re-placement pauses", nodes=len(held), why=why)
        elif self._held and not held:
            cause = "all are back" if not self._given_up else f"{self._given_up} were given up"
            core.tell("cluster", RESUMED, f"no silent node is waited for any more: {cause}")
            LOG.info("re-placement goes on", given_up=self._given_up)
        self._held = len(held)
