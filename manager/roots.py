"""What the manager keeps of its root: the standing of the link, what was saved of it, and the guard over workloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from cluster.process import LOG
from manager.core import Core, now_ms
from manager.domain.model import Event, InstanceKey
from manager.domain.roots import Era, Guard, LinkState, Route, Standing

SECRET_KEY: Final = "root_secret_key"  # noqa: S105 - the name of a setting
CLUSTER_ID: Final = "root_cluster_id"
ERA: Final = "root_era"
GUARD: Final = "root_guard"
ACKNOWLEDGED: Final = "root_acknowledged_ms"
ROOT: Final = "root"
ALL: Final = -1
_ERAS: Final = {Route.DEPLOY: Era.R2, Route.SERVICE: Era.R3}


class Roots:
    """The standing of the link and the guard; `on_route` hears by which routes the root's orders come."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.standing = Standing()
        self.guard = _guard_of(self.saved(GUARD))

    # What is saved

    def saved(self, name: str) -> str:
        """A saved value; "" where there is none."""
        setting = self._core.settings.get(name)
        return setting.value if setting else ""

    def save(self, name: str, value: str) -> None:
        """Save a value that changed."""
        if value != self.saved(name):
            self._core.put_setting(name, value)

    async def secure(self, name: str, value: str) -> None:
        """Save a value that changed, and wait until it is durable. Raises StoreError."""
        if value != self.saved(name):
            await self._core.put_setting(name, value)

    # The standing

    def begin(self, address: str) -> None:
        """A root is configured and was not reached yet."""
        self.standing = Standing(state=LinkState.NEVER, address=address)

    def stand(self, **changes: Any) -> None:
        """Change the standing, and say so once in log and history where state or detail is another."""
        old, self.standing = self.standing, replace(self.standing, **changes)
        new = self.standing
        if (old.state, old.detail) == (new.state, new.detail):
            return
        is_trouble = new.state in (LinkState.LOST, LinkState.REFUSED) or (
            new.detail and new.state is not LinkState.HANDSHAKING
        )
        say = LOG.warning if is_trouble else LOG.info
        say(f"root link {new.state}", address=new.address, era=new.era, cluster_id=new.cluster_id, detail=new.detail)
        if new.state is not old.state and new.state is not LinkState.HANDSHAKING:
            self._tell(f"root_{new.state}", new.detail or f"{new.address} knows this cluster as {new.cluster_id}")

    @property
    def is_stand_alone(self) -> bool:
        """Whether no root is configured."""
        return self.standing.state is LinkState.STAND_ALONE

    @property
    def is_attached(self) -> bool:
        """Whether the present root has admitted this cluster."""
        return self.standing.state is LinkState.ATTACHED

    @property
    def words(self) -> str:
        """The standing in one line, with what waits for the operator."""
        standing, held = self.standing, len(self.guard.held)
        era = f" ({standing.era} root)" if standing.era else ""
        text = f"{standing.state}: {standing.address}{era}"
        if self.guard.guarded:
            text += (
                f"; it lost its database: {len(self.guard.guarded)} jobs guarded, {held} deletes held, decide with "
                "`clusterctl root confirm-deletes` or `clusterctl root keep`"
            )
        return f"{text}; {standing.detail}" if standing.detail else text

    def note_route(self, route: Route, job_ids: Iterable[str]) -> None:
        """A deploy of the root came: it shows the root's era where nothing else did, and which jobs the root knows."""
        if route is Route.NONE:
            return
        if self.standing.era is Era.UNDECIDED:
            self.learn_era(_ERAS[route])
        known = self.guard.protected.intersection(job_ids)
        if known:
            self._put_guard(self.guard.without(known))

    def learn_era(self, era: Era) -> None:
        """The era became known."""
        self.save(ERA, era)
        self.stand(era=era)
        LOG.info("root era is known", era=era)

    # The guard

    async def arm(self, job_ids: Iterable[str]) -> None:
        """The root lost what it knew: hold its deletes of these jobs, durably before it can order any."""
        guard = self.guard.armed(set(job_ids) - self.guard.kept)
        if not guard.guarded:
            return
        self._tell(
            "root_lost_its_database",
            f"the root gave this cluster a new id: {len(guard.guarded)} jobs are kept running until you decide with "
            "`clusterctl root confirm-deletes` or `clusterctl root keep`",
            is_warning=True,
        )
        self.guard = guard
        await self.secure(GUARD, _text_of(guard))

    def admit_deletes(self, keys: Sequence[InstanceKey], actor: str) -> list[InstanceKey]:
        """The keys that may be deleted: a root's orders for all of a guarded job are held, of a kept one ignored."""
        if actor != ROOT or not self.guard.protected:
            return list(keys)
        admitted = []
        for key in keys:
            if key.number == ALL and key.job_id in self.guard.protected:
                self._hold(key.job_id)
            else:
                admitted.append(key)
        return admitted

    def _hold(self, job_id: str) -> None:
        if job_id not in self.guard.guarded or job_id in self.guard.held:
            return
        self._core.counters["root_deletes_held"] += 1
        self._tell(
            "root_delete_held",
            f"the root, which lost its database, ordered job {job_id} deleted: it is held",
            subject=f"job:{job_id}",
            is_warning=True,
        )
        self._put_guard(self.guard.holding(job_id))

    def keep(self) -> list[str]:
        """Keep what is guarded; answers the job ids."""
        kept = sorted(self.guard.guarded)
        self._put_guard(self.guard.keeping())
        self._tell("root_workloads_kept", f"{len(kept)} jobs that the root does not know stay by decision")
        return kept

    def release(self) -> list[str]:
        """Let the root's deletes through; answers the job ids that it had ordered deleted."""
        held = sorted(self.guard.held)
        self._put_guard(self.guard.released())
        self._tell("root_deletes_confirmed", f"{len(held)} jobs are deleted as the root ordered")
        return held

    def _put_guard(self, guard: Guard) -> None:
        self.guard = guard
        self.save(GUARD, _text_of(guard))

    def _tell(self, kind: str, cause: str, *, subject: str = "cluster", is_warning: bool = False) -> None:
        if is_warning:
            LOG.warning(cause)
        event = Event(at_ms=now_ms(), actor="manager", kind=kind, state=self.standing.state, cause=cause)
        self._core.history.extend([(subject, event)])


def _text_of(guard: Guard) -> str:
    fields = {"guarded": guard.guarded, "held": guard.held, "kept": guard.kept}
    return orjson.dumps({name: sorted(ids) for name, ids in fields.items()}).decode()


def _guard_of(text: str) -> Guard:
    if not text:
        return Guard()
    return Guard(**{name: frozenset(ids) for name, ids in orjson.loads(text).items()})
