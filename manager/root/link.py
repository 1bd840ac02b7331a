"""The link to the root: attach, stay attached, report, and say how it stands.

Nothing else waits for it: it runs in a task of its own, with time-outs of its own. A root that cannot be reached ends
in a pause and a fresh handshake; one that answers "later" in a pause alone, for it has not forgotten this cluster. No
report goes out under an id that the present root did not confirm a moment ago.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from cluster.errors import ClusterError
from cluster.process import LOG
from manager.clock import boot_ms
from manager.core import Core
from manager.domain.model import InstanceKey
from manager.domain.roots import Era, LinkState
from manager.root.backlog import Backlog
from manager.root.errors import RootAwayError, RootBusyError, RootError, RootRefusedError
from manager.root.handshake import Admitted, handshake
from manager.root.keys import renew_after_s
from manager.root.node_watch import NodeWatch
from manager.root.pauses import Pauses
from manager.root.reporter import Reporter, Sent
from manager.root.settings import RootSettings
from manager.root.socketio import Admission
from manager.root.web import RootWeb, cluster_id_of, find_cluster, is_r3
from manager.roots import CLUSTER_ID, ERA, ROOT, SECRET_KEY, Roots

PERIODS_S: Final = {Era.R1: 5.0, Era.R2: 5.0, Era.R3: 15.0, Era.UNDECIDED: 5.0}
LEAST_GAP_S: Final = 1.0
LEAST_PAUSE_S: Final = 0.05
RENEWAL_CAP_S: Final = 300.0
TIMER_SLACK_S: Final = 0.01


class RootLink:
    """One root; `load` reads the settings, anew before each handshake: `.env` may hold a newer key by then."""

    def __init__(self, core: Core, roots: Roots, load: Callable[[], RootSettings]) -> None:
        self._core = core
        self._roots = roots
        self._load = load
        self._settings = load()
        self._web = RootWeb("", self._settings.root_answer_s)
        self._backlog = Backlog(core, roots, self._settings.root_refresh_s)
        self._reporter = Reporter(core, roots, self._backlog)
        self._nodes = NodeWatch()
        self._pauses = Pauses(self._settings.root_retry_base_s, self._settings.root_retry_cap_s)
        self._renewals = Pauses(self._settings.root_retry_cap_s, RENEWAL_CAP_S)
        self._changed = asyncio.Event()
        self._is_admitted = False
        self._key_trouble = ""
        self._stumbled_over = ""
        self._renew_at_boot_s: float | None = None
        self._period_ends_mono_s = float("-inf")

    @property
    def is_stand_alone(self) -> bool:
        """Whether there is nothing to do, which it says once."""
        if not self._settings.is_stand_alone:
            return False
        if self._settings.has_keys:
            LOG.warning("a key of a root is set, SYSTEM_MANAGER_URL is not: the cluster runs stand-alone")
        else:
            LOG.info("no root is configured: the cluster runs stand-alone")
        return True

    async def run(self) -> None:
        """Keep the link, until cancelled; return at once where no root is configured."""
        if self.is_stand_alone:
            return
        try:
            self._web = RootWeb(self._settings.base_url, self._settings.root_answer_s)
        except ValueError as error:
            self._roots.stand(state=LinkState.REFUSED, address=self._settings.system_manager_url, detail=str(error))
            return
        self._core.may_purge = self._backlog.may_purge
        self._roots.begin(self._web.base_url.partition("://")[2])
        stops = [self._core.listen_instances(self._hear_instances), self._core.listen_views(self._hear_nodes)]
        try:
            await self._keep()
        finally:
            for stop in stops:
                stop()
            await self._web.close()

    def _hear_instances(self, keys: Iterable[InstanceKey]) -> None:
        self._backlog.hear(keys)
        self._changed.set()

    def _hear_nodes(self, node_ids: Iterable[str]) -> None:
        state = self._core.state
        if self._nodes.has_news(node_ids, state.nodes, state.is_ready):
            self._reporter.nodes_changed()
            self._changed.set()

    async def _keep(self) -> None:
        """Attach and report, again and again."""
        while True:
            least_pause_s = 0.0
            try:
                await self._backlog.absorb()
                if not self._is_admitted:
                    await self._attach()
                await self._report_forever()
            except RootRefusedError as error:
                self._is_admitted = False
                self._roots.stand(state=LinkState.REFUSED, detail=str(error))
            except (RootError, ClusterError) as error:
                self._is_admitted = self._is_admitted and isinstance(error, RootBusyError)
                least_pause_s = error.retry_after_s if isinstance(error, RootAwayError) else 0.0
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - whatever a root makes us stumble over, the cluster goes on
                self._is_admitted = False
                self._stumble(f"{type(error).__name__}: {error}")
            await asyncio.sleep(max(self._pauses.next_s(), least_pause_s))

    def _stumble(self, detail: str) -> None:
        """Say it with its trace once, not at every try."""
        if detail != self._stumbled_over:
            LOG.exception("root link stumbled")
            self._stumbled_over = detail
        self._lose(detail)

    def _lose(self, detail: str) -> None:
        is_known = bool(self._roots.standing.cluster_id)
        self._roots.stand(state=LinkState.LOST if is_known else LinkState.NEVER, detail=detail)

    # Attaching

    async def _attach(self) -> None:
        """Be admitted, or at least find our id confirmed. Raises RootError."""
        standing = self._roots.standing
        if standing.state is LinkState.ATTACHED or (standing.state is LinkState.NEVER and not standing.detail):
            self._roots.stand(state=LinkState.HANDSHAKING, detail="")
        await self._core.writer.working.wait()
        self._key_trouble = ""
        try:
            admitted = await self._handshake()
        except RootRefusedError as error:
            admitted = await self._confirmed_as_before(error)
            self._key_trouble = f"attached as before, but {error}"
        await self._take_over(admitted)
        await self._confirm()
        self._is_admitted = True
        self._stand_attached()

    def _stand_attached(self) -> None:
        detail = "; ".join(filter(None, (self._key_trouble, self._reporter.trouble)))
        self._roots.stand(state=LinkState.ATTACHED, detail=detail)

    async def _handshake(self) -> Admitted:
        try:
            self._settings = self._load()
        except ValueError as error:
            raise RootRefusedError(f"the settings of the root cannot be read: {error}") from None
        saved = self._roots.saved
        admitted = await handshake(self._web, self._settings, saved(SECRET_KEY), saved(CLUSTER_ID))
        self._plan_renewal(admitted.admission.secret_key)
        return admitted

    def _plan_renewal(self, secret_key: str) -> None:
        self._renewals.reset()
        after_s = renew_after_s(secret_key, time.time())
        self._renew_at_boot_s = None if after_s is None else _boot_s() + after_s

    async def _confirmed_as_before(self, refusal: RootRefusedError) -> Admitted:
        """The root refuses our keys, yet knows us by id and name. Raises the refusal where it does not."""
        cluster_id = self._roots.saved(CLUSTER_ID)
        entry = find_cluster(await self._web.clusters(), cluster_id, self._settings.cluster_name)
        if entry is None:
            raise refusal
        self._renew_at_boot_s = _boot_s() + self._renewals.next_s()
        return Admitted(admission=Admission(cluster_id=cluster_id), era=self._roots.last_era or Era.R1)

    async def _take_over(self, admitted: Admitted) -> None:
        """Save what the root gave; where it gave another id than before, arm the guard first."""
        roots, admission = self._roots, admitted.admission
        before = roots.saved(CLUSTER_ID)
        if before and before != admission.cluster_id:
            self._core.counters["root_ids_changed"] += 1
            self._backlog.meet_another_root()
            if self._settings.root_guard:
                jobs = self._core.state.jobs.values()
                await roots.arm(job.id for job in jobs if job.owner == ROOT)
        await roots.secure(CLUSTER_ID, admission.cluster_id)
        if admission.secret_key:
            await roots.secure(SECRET_KEY, admission.secret_key)
        era = admitted.era
        if era is Era.UNDECIDED and roots.last_era in (Era.R2, Era.R3):
            era = roots.last_era
        roots.save(ERA, era)
        roots.stand(cluster_id=admission.cluster_id, era=era)
        self._core.counters["root_registrations"] += 1

    async def _confirm(self) -> None:
        """Find our id in the root's list, which also shows what kind of root it is. Raises RootAwayError."""
        standing = self._roots.standing
        entries = await self._web.clusters()
        entry = find_cluster(entries, standing.cluster_id, self._settings.cluster_name)
        if entry is None:
            known = ", ".join(filter(None, map(cluster_id_of, entries))) or "none"
            LOG.debug("root lists other clusters", known=known)
            raise RootAwayError(f"the root does not know this cluster (any more) as {standing.cluster_id}")
        may_learn = self._settings.root_dialect == "auto" and standing.era in (Era.UNDECIDED, Era.R2)
        if may_learn and is_r3(entry):
            self._roots.learn_era(Era.R3)

    # Reporting

    async def _report_forever(self) -> None:
        """Report at the set period and when something changes. Raises RootError when the root is away."""
        while True:
            began_mono_s = time.monotonic()
            if began_mono_s >= self._period_ends_mono_s - TIMER_SLACK_S:
                self._backlog.begin_period(began_mono_s)
                self._period_ends_mono_s = began_mono_s + self._period_s
            self._changed.clear()
            sent = await self._report()
            await self._renew_when_due()
            await self._wait(began_mono_s, sent)

    @property
    def _period_s(self) -> float:
        return max(self._settings.root_report_period_s or PERIODS_S[self._backlog.era], LEAST_GAP_S)

    async def _report(self) -> Sent:
        """One report, under an id that was confirmed just before; none while nothing can be saved."""
        if self._core.writer.failure:
            return Sent()
        await self._confirm()
        sent = await self._reporter.send(self._web)
        self._pauses.reset()
        self._stumbled_over = ""
        self._stand_attached()
        return sent

    async def _wait(self, began_mono_s: float, sent: Sent) -> None:
        """As long as the root took, if more is due; else until the period is over or something changed."""
        if sent.has_more:
            await asyncio.sleep(min(max(sent.answer_s, LEAST_PAUSE_S), self._period_s))
            return
        try:
            async with asyncio.timeout(max(self._period_ends_mono_s - time.monotonic(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(began_mono_s + LEAST_GAP_S - time.monotonic(), 0.0))

    async def _renew_when_due(self) -> None:
        """Get a fresh secret key before the present one expires; a refusal is said and tried again later."""
        if self._renew_at_boot_s is None or _boot_s() < self._renew_at_boot_s:
            return
        try:
            admitted = await self._handshake()
        except RootError as error:
            self._renew_at_boot_s = _boot_s() + self._renewals.next_s()
            self._key_trouble = f"attached as before, but {error}"
            return
        await self._take_over(admitted)
        await self._confirm()
        self._key_trouble = ""


def _boot_s() -> float:
    """By a clock that nobody sets, and that goes on while the machine sleeps."""
    return boot_ms() / 1000
