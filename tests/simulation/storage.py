"""A database on virtual time: what is durable, and how slowly, how seldom and how treacherously it can be reached."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from manager.domain.model import KEPT_EVENTS, Event, Logged, Record
from manager.ports import Change, Contents, Kind, RecordId, StoreError
from manager.store import codec
from simulation.loop import Process

Result = TypeVar("Result")
Listener = Callable[[RecordId, Record | None, Record | None], None]
KEPT_VERSIONS = 12
BUSY_S = 5.0
SLOW_S = 0.3
CALM_S = (0.001, 0.02)


@dataclass
class Weather:
    """How the database is now; `torn`, `lost` and `refused` are shares of the writes.

    Of a torn write a first part is carried out; of a lost one all of it, and nobody is told; of a refused one nothing.
    """

    latency_s: tuple[float, float] = CALM_S
    is_away: bool = False
    is_locked: bool = False
    torn: float = 0.0
    lost: float = 0.0
    refused: float = 0.0


class Disk:
    """The records that survive everything; as JSON text where `is_text`, so that a restart decodes them."""

    def __init__(self, rng: random.Random, *, is_text: bool) -> None:
        self.rng = rng
        self.is_text = is_text
        self.weather = Weather()
        self.records: dict[RecordId, Record] = {}
        self.versions: defaultdict[RecordId, deque[Record]] = defaultdict(lambda: deque(maxlen=KEPT_VERSIONS))
        self.log: defaultdict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=KEPT_EVENTS))
        self.listeners: list[Listener] = []
        self.writes = 0

    def put(self, record_id: RecordId, record: Record | None) -> None:
        """Make one change durable."""
        before = self.records.get(record_id)
        if record is None:
            self.records.pop(record_id, None)
            self.log.pop(f"{record_id[0].value}:{record_id[1]}", None)
        else:
            self.records[record_id] = record = self._through_text(record_id, record)
            self.versions[record_id].append(record)
        for listener in self.listeners:
            listener(record_id, before, record)

    def _through_text(self, record_id: RecordId, record: Record) -> Record:
        if not self.is_text:
            return record
        specs = {key: codec.encode_spec(spec) for key, spec in codec.specs_of(record).items()}
        text = codec.text({**codec.encode(record), "specs": specs})
        read = codec.decode(record_id[0], orjson.loads(text), codec.no_spec, codec.Interner())
        assert read == record, f"saved {record}, read {read}"
        return read


class SimStore:
    """The Store port of one manager on the disk that all of them share."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self.dying_share: float | None = None

    def open(self) -> None:
        """Connect."""
        self._require()

    def load(self, now_ms: int) -> Contents:
        """Read everything."""
        self._require()
        found: dict[Kind, list[Any]] = {kind: [] for kind in Kind}
        for (kind, _), record in sorted(self._disk.records.items()):
            found[kind].append(record)
        return Contents(
            nodes=tuple(found[Kind.NODE]),
            jobs=tuple(found[Kind.JOB]),
            instances=tuple(found[Kind.INSTANCE]),
            settings=tuple(found[Kind.SETTING]),
        )

    def read(self, ids: Sequence[RecordId]) -> dict[RecordId, Record]:
        """Those that are there."""
        self._require()
        return {item: self._disk.records[item] for item in ids if item in self._disk.records}

    def write(self, changes: Sequence[Change], events: Sequence[Logged] = ()) -> list[Change]:
        """Compare and set, in order."""
        self._require()
        weather, rng = self._disk.weather, self._disk.rng
        share = self.dying_share
        if share is None and rng.random() < weather.torn:
            share = rng.random()
        if rng.random() < weather.refused:
            raise StoreError("the database refused the write")
        count = len(changes) if share is None else int(share * (len(changes) + 1))
        conflicts = [change for change in changes[:count] if not self._apply(change)]
        if count < len(changes):
            raise StoreError("the database broke down amid the write")
        for logged in events:
            self._disk.log[logged.subject].append(logged.event)
        self._disk.writes += 1
        if rng.random() < weather.lost:
            raise StoreError("the database did not answer")
        return conflicts

    def events(self, subject: str) -> list[Event]:
        """The log of a subject."""
        self._require()
        return list(self._disk.log.get(subject, ()))

    def release(self, kind: Kind, record_id: str) -> None:
        """Nothing is ever in quarantine here."""

    def ping(self) -> None:
        """Raise StoreError where a write would fail now."""
        self._require()

    def close(self) -> None:
        """Nothing to give back."""

    def _apply(self, change: Change) -> bool:
        saved = self._disk.records.get((change.kind, change.id))
        if (saved.version if saved else 0) != change.expected:
            return False
        self._disk.put((change.kind, change.id), change.record)
        return True

    def _require(self) -> None:
        if not self._process.is_alive and self.dying_share is None:
            raise AssertionError(f"{self._process.name} is dead and still uses the database")
        if self._disk.weather.is_away:
            raise StoreError("the database is away")
        if self._disk.weather.is_locked:
            raise StoreError("the database is locked")


class SimRunner:
    """Carries the store's calls out one after the other; each takes its time."""

    def __init__(self, disk: Disk, store: SimStore, process: Process) -> None:
        self._disk = disk
        self._store = store
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._current: tuple[Callable[[], Any], asyncio.Future[Any]] | None = None
        self._is_done = False
        self._began_s = 0.0

    @property
    def is_slow(self) -> bool:
        """Whether a call has been under way for a while."""
        return self._current is not None and self._loop.time() - self._began_s > SLOW_S

    def call(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """The result of the function."""
        future: asyncio.Future[Result] = self._loop.create_future()
        if not self._process.is_alive:
            future.cancel()
            return future
        self._waiting.append((function, future))
        if self._current is None:
            self._begin()
        return future

    def close(self) -> None:
        """Nothing to end."""

    def kill(self) -> None:
        """The manager dies: of the write under way nothing, a part or all becomes durable."""
        if self._current is not None and not self._is_done:
            fate = self._disk.rng.random()
            if fate < 0.7:
                self._store.dying_share = self._disk.rng.random() if fate < 0.35 else 1.0
                self._carry_out(self._current[0])
                self._store.dying_share = None
        for _, future in filter(None, (self._current, *self._waiting)):
            future.cancel()
        self._waiting.clear()

    def _begin(self) -> None:
        self._current, self._is_done, self._began_s = self._waiting.popleft(), False, self._loop.time()
        weather = self._disk.weather
        pause_s = BUSY_S if weather.is_locked else self._disk.rng.uniform(*weather.latency_s)
        self._loop.call_later(pause_s, self._act, pause_s / 4)

    def _act(self, answer_s: float) -> None:
        if not self._process.is_alive or self._current is None:
            return
        result = self._carry_out(self._current[0])
        self._is_done = True
        self._loop.call_later(answer_s, self._answer, result)

    def _carry_out(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - whoever called is told
            return error

    def _answer(self, result: Any) -> None:
        if not self._process.is_alive or self._current is None:
            return
        future, self._current = self._current[1], None
        if not future.done():
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self._waiting:
            self._begin()
