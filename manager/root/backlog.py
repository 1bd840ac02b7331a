"""What is to be told to the root, and in which order: fed by what changes, never by a look at all there is.

Changes go first, the one that waits longest at the front; what lives and did not change fills the rest, least recently
told first, up to the bounds of a period. What the root fails on waits in `Doubts` and takes turns with all that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from cluster.process import LOG
from manager.core import Core
from manager.domain.model import InstanceKey
from manager.domain.roots import Era
from manager.root.doubts import Doubts, Scope
from manager.root.job_words import JobWords
from manager.root.ledger import Ledger, is_of_root, is_over
from manager.root.portion import Portion
from manager.root.report import ReportedInstance, ReportedJob, instance_document, node_id_of
from manager.root.words import status_word
from manager.roots import Roots

MAX_REFRESHES: Final = 2000
MAX_REFRESH_BYTES: Final = 1024 * 1024
WAITING_REFRESH_S: Final = 60.0
FEW: Final = 10
AT_ONCE: Final = 2000  # how many changes are looked at before others get their turn on the loop
Candidates = Iterator[tuple[InstanceKey, bool]]


class Backlog:
    """What the root has to hear; `refresh_s` is how often at most an unchanged instance is told again."""

    def __init__(self, core: Core, roots: Roots, refresh_s: float) -> None:
        self._core = core
        self._roots = roots
        self.refresh_s = refresh_s
        self._heard: dict[InstanceKey, None] = {}
        self._era: Era | None = None
        self._unknown_to_root: frozenset[str] = frozenset()
        self._words = JobWords()
        self.ledger = Ledger(roots.acknowledged_ms)
        self.doubts = Doubts()
        self._is_turn_of_doubts = False
        self._period_mono_s = 0.0
        self._refreshes_left = 0
        self._bytes_left = 0

    # Hearing

    def hear(self, keys: Iterable[InstanceKey]) -> None:
        """Instances changed, or are gone. Before the root's era is known nothing is kept: then all is looked at."""
        if self.era is Era.UNDECIDED:
            self._era = None
        else:
            self._heard.update(dict.fromkeys(keys))

    def meet_another_root(self) -> None:
        """The root gave another id: it knows nothing of what was told before."""
        self.ledger.forget_all()
        self.doubts.forget_all()
        self._hear_all()

    def _hear_all(self) -> None:
        everything = sorted(self._core.saved_records.instances.values(), key=lambda item: item.updated_at_ms)
        self.hear(item.key for item in everything)

    def _keys_of(self, job_id: str) -> list[InstanceKey]:
        return [InstanceKey(job_id, number) for number in self._core.state.of_job.get(job_id, ())]

    async def absorb(self) -> None:
        """Put what was heard of in its place; also while the root is away, so that what is gone is not kept."""
        if self.era is Era.UNDECIDED:
            return
        self._notice_era()
        self._notice_guard()
        heard, self._heard = self._heard, {}
        for count, key in enumerate(heard, 1):
            try:
                self._place(key)
            except Exception:  # noqa: BLE001 - what is wrong with one instance must not hold up the others
                self._say_passed_over(key)
                self.ledger.leave_out(key)
            if not count % AT_ONCE:
                await asyncio.sleep(0)

    def _say_passed_over(self, key: InstanceKey) -> None:
        """We stumble over an instance ourselves: nothing is told of it until it changes. The first few are logged."""
        self._core.counters["root_instances_passed_over"] += 1
        if self._core.counters["root_instances_passed_over"] <= FEW:
            LOG.exception("an instance cannot be told to the root", instance=str(key))

    def _notice_era(self) -> None:
        if self._roots.standing.era is not self._era:
            self._era = self._roots.standing.era
            self._words.clear()
            self._hear_all()

    def _notice_guard(self) -> None:
        unknown, before = self._roots.guard.unknown_to_root, self._unknown_to_root
        self._unknown_to_root = unknown
        for job_id in unknown ^ before:
            self.hear(self._keys_of(job_id))

    def _place(self, key: InstanceKey) -> None:
        if not self.is_of_root(key):
            self.ledger.drop(key)
            self.doubts.forget(key)
            self._words.drop(key)
            if key.job_id not in self._core.saved_records.jobs:
                self._roots.forget_job(key.job_id)
            return
        instance = self._core.saved_records.instances[key]
        self._words.put(key, status_word(instance, self.era))
        if not self.doubts.holds(key):
            self.ledger.note(instance)
        elif not self.ledger.is_settled(instance):
            self.doubts.changed(key)

    # Asking

    @property
    def era(self) -> Era:
        """The era that the root is told in."""
        return self._roots.standing.era or Era.UNDECIDED

    @property
    def is_told(self) -> bool:
        """Whether nothing waits that was heard of and can be told."""
        return not self._heard and not self.ledger.has_changes and self.doubts.is_calm

    def is_of_root(self, key: InstanceKey) -> bool:
        """Whether the root knows an instance."""
        saved = self._core.saved_records
        instance = saved.instances.get(key)
        return instance is not None and is_of_root(
            instance, saved.jobs.get(key.job_id), self._roots.guard.unknown_to_root
        )

    def may_purge(self, key: InstanceKey) -> bool:
        """Whether the root has heard the last of an instance, never hears of it, or fails on it time after time."""
        if not self.is_of_root(key):
            return True
        return self.ledger.is_settled(self._core.saved_records.instances[key]) or self.doubts.has_given_up(key)

    def has_more(self, now_mono_s: float) -> bool:
        """Whether another report is due at once."""
        if self.doubts.is_held(now_mono_s):
            return False
        is_doubtful = self.doubts.next(now_mono_s) is not None
        return is_doubtful or self.ledger.has_changes or next(self._refreshes(now_mono_s), None) is not None

    # Choosing

    def begin_period(self, now_mono_s: float) -> None:
        """From now on what was told before this moment may be told again, within the bounds of one period."""
        self._period_mono_s = now_mono_s
        self._refreshes_left = MAX_REFRESHES
        self._bytes_left = MAX_REFRESH_BYTES

    def next_portion(self, now_mono_s: float, most: int) -> Portion:
        """What the next report tells, at most so many instances; empty where nothing is due."""
        if self.doubts.is_held(now_mono_s):
            return Portion()
        self._is_turn_of_doubts = not self._is_turn_of_doubts
        sources = [self._doubtful(now_mono_s), self._ordinary(now_mono_s)]
        for candidates in sources if self._is_turn_of_doubts else reversed(sources):
            portion = Portion(now_mono_s, most=1 if self.doubts.is_wary else most)
            if self._fill(portion, candidates):
                return portion
        return Portion()

    def _doubtful(self, now_mono_s: float) -> Candidates:
        scope = self.doubts.next(now_mono_s)
        if isinstance(scope, str):
            member = next(filter(self.is_of_root, self._keys_of(scope)), None)
            if member is None:
                self.doubts.forget(scope)
            scope = (member,) if member else None
        return ((key, False) for key in scope or ())

    def _ordinary(self, now_mono_s: float) -> Candidates:
        """What changed, and what is to be told again; each with whether it is the latter."""
        changes = ((key, False) for key in self.ledger.changes())
        return chain(changes, ((key, True) for key in self._refreshes(now_mono_s)))

    def _refreshes(self, now_mono_s: float) -> Iterator[InstanceKey]:
        """What lives and was told before this period began, and longer ago than the setting says."""
        before_mono_s = min(self._period_mono_s, now_mono_s - self.refresh_s)
        if self._refreshes_left <= 0 or self._bytes_left <= 0:
            return iter(())
        return self.ledger.refreshes(before_mono_s, min(before_mono_s, now_mono_s - WAITING_REFRESH_S))

    def _fill(self, portion: Portion, candidates: Candidates) -> bool:
        untellable: list[InstanceKey] = []
        for key, is_refresh in candidates:
            if is_refresh and self._is_spent(portion):
                break
            if not self.is_of_root(key):
                self.hear([key])
                continue
            try:
                if not self._add(portion, key, is_refresh=is_refresh):
                    break
            except Exception:  # noqa: BLE001 - as above
                self._say_passed_over(key)
                untellable.append(key)
        for key in untellable:
            self.ledger.leave_out(key)
        return bool(portion.told)

    def _add(self, portion: Portion, key: InstanceKey, *, is_refresh: bool) -> bool:
        instance = self._core.saved_records.instances[key]
        word, document = status_word(instance, self.era), instance_document(self.era, self._reported(key))
        if not portion.add(instance, document, self._detail(key.job_id), is_refresh=is_refresh):
            return False
        self._words.correct(key, word)
        return True

    def _is_spent(self, portion: Portion) -> bool:
        return portion.refresh_count >= self._refreshes_left or portion.refresh_bytes >= self._bytes_left

    def _reported(self, key: InstanceKey) -> ReportedInstance:
        state = self._core.state
        instance = self._core.saved_records.instances[key]
        node = state.nodes.get(node_id_of(instance))
        is_seen = node is not None and state.is_ready(node.id) and not is_over(instance)
        return ReportedInstance(
            instance=instance,
            node=node,
            usage=self._core.usages.get(key),
            seen_at_ms=self._core.now_ms() if is_seen else 0,
        )

    def jobs(self, portion: Portion) -> list[ReportedJob]:
        """The jobs of a portion's instances, each with the word that follows from all its instances."""
        return [
            ReportedJob(
                id=job_id,
                name=self._core.saved_records.jobs[job_id].spec.name,
                status=self._words.of_job(job_id),
                detail=self._detail(job_id),
                instances=documents,
            )
            for job_id, documents in portion.documents.items()
        ]

    def _detail(self, job_id: str) -> str:
        """The detail of the newest instance of those that give the job its word."""
        newest = self._words.newest(job_id)
        instance = self._core.saved_records.instances.get(newest) if newest else None
        return instance.detail if instance else ""

    # What came of it

    def acknowledge(self, portion: Portion) -> list[Scope]:
        """The root took a report; answers what it failed on before and takes again."""
        for instance in portion.told:
            self.ledger.acknowledge(instance, self._core.saved_records.instances, portion.composed_mono_s)
        self._refreshes_left -= portion.refresh_count
        self._bytes_left -= portion.refresh_bytes
        released = self.doubts.taken(portion.keys)
        for scope in released:
            self.hear(self._keys_of(scope) if isinstance(scope, str) else [scope])
        return released

    def blame(self, keys: tuple[InstanceKey, ...], now_mono_s: float, *, was_answered: bool) -> Scope | None:
        """The root failed on a report of these, and took one without any; answers what is newly left out."""
        scope = self.doubts.blame(keys, now_mono_s, was_answered=was_answered)
        for key in (*keys, *(self._keys_of(scope) if isinstance(scope, str) else ())):
            self.ledger.leave_out(key)
        return scope
