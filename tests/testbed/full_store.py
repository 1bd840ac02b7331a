"""A store as a large cluster leaves it: every node READY, every instance RUNNING, written before a manager starts.

Through deploys that would take minutes. `Layout` says where everything is: whoever plays the nodes knows it too.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import orjson

from cluster.jobs import JobSpec, OnDisconnect, Resources
from cluster.nodes import Dialect, Registration
from manager.domain.model import (
    KEPT_EVENTS,
    MAX_EVENTS,
    Event,
    Instance,
    InstanceKey,
    InstanceState,
    Job,
    Logged,
    Node,
    NodeState,
    Placement,
    Record,
)
from manager.ports import Contents
from manager.store.factory import open_store
from testbed.records import change

BORN_MS: Final = 1_700_000_000_000
GENERATION: Final = BORN_MS
WIDE_JOB: Final = f"{0:024x}"
WAITING_JOB: Final = f"{1:024x}"
_FIRST_JOB: Final = 2
_BATCH: Final = 1000
_LIFE: Final = (
    ("requested", "REQUESTED", "root", "it was requested"),
    ("scheduled", "SCHEDULED", "manager", "least allocated of {0} nodes that fit"),
    ("starting", "STARTING", "worker:{1}", "its worker reports that it starts"),
    ("running", "RUNNING", "worker:{1}", "its worker reports that it runs"),
    ("restarting", "RUNNING", "worker:{1}", "it ended with exit code 1 after {2} s; next try in {3} s"),
    ("running", "RUNNING", "worker:{1}", "its worker reports that it runs"),
)
_AGAIN: Final = 4  # from here on a life repeats itself


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Each node holds one instance of the job that is everywhere, and `per_node` - 1 of jobs of `job_size` instances.

    `events` is how much ever happened to each instance; of that the log keeps the newest. `pending` instances more wait
    for a node. Every `engine_every`th node is an engine of the older kind, every `stop_after_every`th job has that
    `on_disconnect` (0: none).
    """

    nodes: int
    per_node: int = 10
    job_size: int = 100
    events: int = 4
    pending: int = 0
    engine_every: int = 0
    stop_after_every: int = 0

    @property
    def instances(self) -> int:
        """How many run."""
        return self.nodes * self.per_node

    def node_id(self, node: int) -> str:
        """The id of a node by its number from 0."""
        return f"{node:024x}"

    def node_name(self, node: int) -> str:
        """Its name; names sort as numbers do."""
        return f"edge-{node:06d}"

    def keys_on(self, node: int) -> list[InstanceKey]:
        """What runs on a node."""
        first = node * (self.per_node - 1)
        others = (divmod(position, self.job_size) for position in range(first, first + self.per_node - 1))
        return [
            InstanceKey(WIDE_JOB, node),
            *(InstanceKey(f"{job + _FIRST_JOB:024x}", number) for job, number in others),
        ]

    def spec(self, job_id: str) -> JobSpec:
        """What a job runs."""
        number = int(job_id, 16)
        is_bounded = self.stop_after_every and number % self.stop_after_every == 0
        name, image = f"job-{number}", "registry.example/demo/web:1.0"
        facts = {"microserviceID": job_id, "job_name": name, "image": image, "virtualization": "docker", "vcpus": 1}
        more = {"memory": 50, "cmd": ["sleep", "1000"], "environment": ["A=1", "B=2"], "applicationID": f"{7:024x}"}
        return JobSpec(
            name=name,
            image=image,
            technology="docker",
            command=("sleep", "1000"),
            environment=("A=1", "B=2"),
            demand=Resources(cpu_millicores=100, memory_bytes=50 << 20),
            on_disconnect=OnDisconnect.STOP_AFTER if is_bounded else OnDisconnect.REPLACE,
            document=orjson.dumps({**facts, **more}).decode(),
        )


def fill(url: str, layout: Layout) -> None:
    """Write everything into an empty store."""
    records = all_records(layout)
    with contextlib.closing(open_store(url)) as store:
        while batch := list(islice(records, _BATCH)):
            logged = [item for record in batch for item in history(layout, record)]
            if conflicts := store.write([change(record) for record in batch], logged):
                raise RuntimeError(f"the store was not empty: it holds {conflicts[0].id}")


def load(url: str) -> Contents:
    """What a store holds when its manager has ended."""
    with contextlib.closing(open_store(url)) as store:
        return store.load(BORN_MS)


def contents(layout: Layout) -> Contents:
    """The same as a manager reads it."""
    found = list(all_records(layout))
    return Contents(
        nodes=tuple(item for item in found if isinstance(item, Node)),
        jobs=tuple(item for item in found if isinstance(item, Job)),
        instances=tuple(item for item in found if isinstance(item, Instance)),
    )


def all_records(layout: Layout) -> Iterator[Record]:
    """Nodes, then each job before its first instance."""
    specs: dict[str, JobSpec] = {}
    for node in range(layout.nodes):
        yield _node(layout, node)
    for node in range(layout.nodes):
        for key in layout.keys_on(node):
            yield from _new_job(layout, key.job_id, specs)
            yield _running(layout, node, key, specs[key.job_id])
    for number in range(layout.pending):
        yield from _new_job(layout, WAITING_JOB, specs)
        yield _waiting(InstanceKey(WAITING_JOB, number), specs[WAITING_JOB])


def history(layout: Layout, record: Record) -> Sequence[Logged]:
    """What the log holds of a record."""
    match record:
        case Node():
            return [Logged(subject=f"node:{record.id}", number=1, event=record.events[0])]
        case Instance() if record.current is not None:
            node, positions = int(record.current.node_id, 16), range(layout.events)[-KEPT_EVENTS:]
            events = ((at + 1, _event(layout, node, record.key, at)) for at in positions)
            return [Logged(subject=f"instance:{record.key}", number=number, event=event) for number, event in events]
        case _:
            return []


def _node(layout: Layout, node: int) -> Node:
    is_engine = layout.engine_every and node % layout.engine_every == 0
    registration = Registration(
        name=layout.node_name(node),
        ip="127.0.0.1",
        port=3000,
        dialect=Dialect.ENGINE_A if is_engine else Dialect.WORKER,
        technologies=("docker",),
        capacity=Resources(cpu_millicores=64_000, memory_bytes=256 << 30, storage_bytes=1 << 40),
        architecture="amd64",
    )
    event = Event(at_ms=BORN_MS, actor="manager", kind="ready", state="READY", cause="its telemetry arrives")
    return Node(
        id=layout.node_id(node),
        registration=registration,
        registered_at_ms=BORN_MS,
        topic_id=layout.node_id(node),
        state=NodeState.READY,
        has_reported=True,
        version=1,
        events=(event,),
        event_count=1,
    )


def _new_job(layout: Layout, job_id: str, specs: dict[str, JobSpec]) -> Iterable[Job]:
    if job_id not in specs:
        specs[job_id] = layout.spec(job_id)
        yield Job(id=job_id, spec=specs[job_id], created_at_ms=BORN_MS, owner="root", version=1)


def _running(layout: Layout, node: int, key: InstanceKey, spec: JobSpec) -> Instance:
    events = tuple(_event(layout, node, key, position) for position in range(layout.events)[-MAX_EVENTS:])
    current = Placement(
        node_id=layout.node_id(node),
        generation=GENERATION,
        spec=spec,
        state=InstanceState.RUNNING,
        since_ms=BORN_MS,
        has_run=True,
    )
    return Instance(
        key=key,
        spec=spec,
        is_desired=True,
        state=InstanceState.RUNNING,
        detail="its worker reports that it runs",
        current=current,
        generation=GENERATION,
        created_at_ms=BORN_MS,
        updated_at_ms=BORN_MS + layout.events,
        version=1,
        events=events,
        event_count=layout.events,
    )


def _waiting(key: InstanceKey, spec: JobSpec) -> Instance:
    return Instance(
        key=key,
        spec=spec,
        is_desired=True,
        state=InstanceState.PENDING,
        retry_at_ms=BORN_MS * 2,
        created_at_ms=BORN_MS,
        updated_at_ms=BORN_MS,
        version=1,
    )


def _event(layout: Layout, node: int, key: InstanceKey, position: int) -> Event:
    """Half of a long history is in words of its own, as crash loops are."""
    step = position if position < _AGAIN else _AGAIN + position % (len(_LIFE) - _AGAIN)
    kind, state, actor, cause = _LIFE[step]
    ran_s, pause_s = (key.number * 7 + position * 31) % 999 / 10, position * 1.7
    words = cause.format(layout.nodes, layout.node_name(node), ran_s, round(pause_s, 1))
    return Event(
        at_ms=BORN_MS + position,
        actor=actor.format(layout.nodes, layout.node_name(node)),
        kind=kind,
        state=state,
        cause=words,
        node_id="" if step == 0 else layout.node_id(node),
    )
