"""What the manager keeps of its root: the standing of the link, what was saved of it, and the guard over workloads.

What is saved is read from the core's settings whenever it is asked for, the guard too: nothing beside them can go on
believing what a failed save took back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from cluster.process import LOG
from manager.core import Core
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
        self._guard = ("", Guard())

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
        """Save a value that changed, and wait until it is durable. Raises UnavailableError."""
        self.save(name, value)
        await self._core.saved()

    @property
    def acknowledged_ms(self) -> int:
        """Up to when all that had changed was acknowledged by the root; 0 where nothing is known."""
        text = self.saved(ACKNOWLEDGED)
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def last_era(self) -> Era | None:
        """The era that the root had last; None where it is not known."""
        text = self.saved(ERA)
        return Era(text) if text in set(Era) else None

    @property
    def guard(self) -> Guard:
        """The guard over workloads, as it is saved."""
        text = self.saved(GUARD)
        if self._guard[0] != text:
            self._guard = (text, _guard_of(text))
        return self._guard[1]

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
            self.tell(f"root_{new.state}", new.detail or f"{new.address} knows this cluster as {new.cluster_id}")

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
        await self.secure(GUARD, _text_of(guard))
        self.tell(
            "root_lost_its_database",
            f"the root gave this cluster a new id: {len(guard.guarded)} jobs are kept running until you decide with "
            "`clusterctl root confirm-deletes` or `clusterctl root keep`",
            is_warning=True,
        )

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
        self.tell(
            "root_delete_held",
            f"the root, which lost its database, ordered job {job_id} deleted: it is held",
            subject=f"job:{job_id}",
            is_warning=True,
        )
        self._put_guard(self.guard.holding(job_id))

    def keep(self) -> list[str]:
        """Keep what is guarded; answers the job ids. The caller waits until it is saved, and then tells it."""
        kept = sorted(self.guard.guarded)
        self._put_guard(self.guard.keeping())
        return kept

    def release(self) -> list[str]:
        """Let the root's deletes through; answers the job ids that it had ordered deleted. Saved and told likewise."""
        held = sorted(self.guard.held)
        self._put_guard(self.guard.released())
        return held

    def forget_job(self, job_id: str) -> None:
        """A job is gone: nothing of it needs a decision."""
        if job_id in self.guard.protected:
            self._put_guard(self.guard.without([job_id]))

    def _put_guard(self, guard: Guard) -> None:
        text = _text_of(guard)
        self._guard = (text, guard)
        self.save(GUARD, text)

    def tell(self, kind: str, cause: str, *, subject: str = "cluster", is_warning: bool = False) -> None:
        """Add to the cluster's history, and to the log what someone should look at."""
        if is_warning:
            LOG.warning(cause)
        event = Event(at_ms=self._core.now_ms(), actor="manager", kind=kind, state=self.standing.state, cause=cause)
        self._core.history.extend([(subject, event)])


def _text_of(guard: Guard) -> str:
    fields = {"guarded": guard.guarded, "held": guard.held, "kept": guard.kept}
    return orjson.dumps({name: sorted(ids) for name, ids in fields.items()}).decode()


def _guard_of(text: str) -> Guard:
    """The guard in a saved text; of what is not understood, nothing: it must not keep the manager from starting."""
    try:
        saved = orjson.loads(text) if text else {}
        return Guard(**{name: frozenset(saved.get(name, ())) for name in ("guarded", "held", "kept")})
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        LOG.error("the saved guard of the root cannot be read, it protects nothing", text=text[:200])
        return Guard()
