"""The link to the root: attach, stay attached, report, and say how it stands.

Nothing else waits for it: it runs in tasks of its own, with time-outs of its own. Whatever goes wrong ends in a pause
and a fresh handshake; no report goes out under an id that the present root did not confirm a moment ago.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from cluster.errors import ClusterError
from cluster.process import LOG
from manager.core import Core
from manager.domain.roots import Era, LinkState
from manager.root.errors import RootAwayError, RootError, RootRefusedError
from manager.root.handshake import Admitted, handshake
from manager.root.keys import renew_at_s
from manager.root.pauses import Pauses
from manager.root.reporter import Reporter
from manager.root.settings import RootSettings
from manager.root.socketio import Admission
from manager.root.web import RootWeb, cluster_id_of, find_cluster, is_r3
from manager.roots import CLUSTER_ID, ERA, ROOT, SECRET_KEY, Roots

PERIODS_S: Final = {Era.R1: 5.0, Era.R2: 5.0, Era.R3: 15.0, Era.UNDECIDED: 5.0}
LEAST_GAP_S: Final = 1.0
RENEWAL_CAP_S: Final = 300.0


class RootLink:
    """One root; `load` reads the settings, anew before each handshake: `.env` may hold a newer key by then."""

    def __init__(self, core: Core, roots: Roots, load: Callable[[], RootSettings]) -> None:
        self._core = core
        self._roots = roots
        self._load = load
        self._settings = load()
        self._web = RootWeb("", self._settings.root_answer_s)
        self._reporter = Reporter(core, roots, self._settings.root_refresh_s)
        self._pauses = Pauses(self._settings.root_retry_base_s, self._settings.root_retry_cap_s)
        self._renewals = Pauses(self._settings.root_retry_cap_s, RENEWAL_CAP_S)
        self._changed = asyncio.Event()
        self._renew_at_s: float | None = None

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
        self._core.may_purge = self._reporter.may_purge
        self._roots.begin(self._web.base_url.partition("://")[2])
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(), name="root-changes")
                tasks.create_task(self._keep(), name="root-reports")
        finally:
            await self._web.close()

    async def _watch(self) -> None:
        """Hear of every change of an instance."""
        async for entries in self._core.history.follow(0):
            if any(entry.instance_number is not None for entry in entries):
                self._changed.set()

    async def _keep(self) -> None:
        """Attach and report, again and again."""
        while True:
            try:
                await self._attach()
                await self._report_forever()
            except RootRefusedError as error:
                self._roots.stand(state=LinkState.REFUSED, detail=str(error))
            except (RootError, ClusterError) as error:
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - whatever a root makes us stumble over, the cluster goes on
                LOG.exception("root link stumbled")
                self._lose(f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._pauses.next_s())

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
        detail = ""
        try:
            admitted = await self._handshake()
        except RootRefusedError as error:
            admitted = await self._confirmed_as_before(error)
            detail = f"attached as before, but {error}"
        await self._take_over(admitted)
        await self._confirm()
        self._roots.stand(state=LinkState.ATTACHED, detail=detail)

    async def _handshake(self) -> Admitted:
        try:
            self._settings = self._load()
        except ValueError as error:
            raise RootRefusedError(f"the settings of the root cannot be read: {error}") from None
        admitted = await handshake(self._web, self._settings, self._roots.saved(SECRET_KEY))
        self._plan_renewal(admitted.admission.secret_key)
        return admitted

    def _plan_renewal(self, secret_key: str) -> None:
        self._renewals.reset()
        self._renew_at_s = renew_at_s(secret_key, time.time()) if secret_key else None

    async def _confirmed_as_before(self, refusal: RootRefusedError) -> Admitted:
        """The root refuses our keys, yet knows us by id and name. Raises the refusal where it does not."""
        cluster_id = self._roots.saved(CLUSTER_ID)
        entry = find_cluster(await self._web.clusters(), cluster_id, self._settings.cluster_name)
        if entry is None:
            raise refusal
        self._renew_at_s = time.time() + self._renewals.next_s()
        era = Era(self._roots.saved(ERA) or Era.R1)
        return Admitted(admission=Admission(cluster_id=cluster_id), era=era)

    async def _take_over(self, admitted: Admitted) -> None:
        """Save what the root gave; where it gave another id than before, arm the guard first."""
        roots, admission = self._roots, admitted.admission
        before = roots.saved(CLUSTER_ID)
        if before and before != admission.cluster_id:
            self._core.counters["root_ids_changed"] += 1
            self._reporter.ledger.forget_all()
            if self._settings.root_guard:
                jobs = self._core.state.jobs.values()
                await roots.arm(job.id for job in jobs if job.owner == ROOT)
        await roots.secure(CLUSTER_ID, admission.cluster_id)
        if admission.secret_key:
            await roots.secure(SECRET_KEY, admission.secret_key)
        era = admitted.era
        if era is Era.UNDECIDED and roots.saved(ERA) in (Era.R2, Era.R3):
            era = Era(roots.saved(ERA))
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
            self._changed.clear()
            await self._confirm()
            has_more = not self._core.writer.failure and await self._reporter.send(self._web)
            self._pauses.reset()
            await self._renew_when_due()
            await self._wait(began_mono_s, has_more=has_more)

    async def _wait(self, began_mono_s: float, *, has_more: bool) -> None:
        """Until the period is over, or something changed and one second has passed."""
        era = self._roots.standing.era or Era.UNDECIDED
        period_s = self._settings.root_report_period_s or PERIODS_S[era]
        if not has_more:
            try:
                async with asyncio.timeout_at(_loop_time(began_mono_s + period_s)):
                    await self._changed.wait()
            except TimeoutError:
                return
        await asyncio.sleep(max(began_mono_s + LEAST_GAP_S - time.monotonic(), 0.0))

    async def _renew_when_due(self) -> None:
        """Get a fresh secret key before the present one expires; a refusal is said and tried again later."""
        if self._renew_at_s is None or time.time() < self._renew_at_s:
            return
        try:
            admitted = await self._handshake()
        except RootRefusedError as error:
            self._renew_at_s = time.time() + self._renewals.next_s()
            self._roots.stand(detail=f"attached as before, but {error}")
            return
        await self._take_over(admitted)
        await self._confirm()
        self._roots.stand(detail="")


def _loop_time(mono_s: float) -> float:
    return asyncio.get_running_loop().time() + mono_s - time.monotonic()
