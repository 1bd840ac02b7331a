"""What is durable: the records as the store holds them, ordered and counted. People read from here, never ahead."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, Generic, TypeVar

from manager.domain.model import Instance, InstanceKey, InstanceState, Job, Node, Record, Setting
from manager.ports import Contents, Kind, RecordId

Key = TypeVar("Key")


class Ordered(Generic[Key]):
    """Keys in their order, any of which is found, added or removed without looking at all of them."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: list[Any] = sorted(keys)

    def add(self, key: Key) -> None:
        """Add a key that is not there."""
        insort(self._keys, key)

    def remove(self, key: Key) -> None:
        """Remove a key that is there."""
        del self._keys[bisect_left(self._keys, key)]

    def after(self, key: Key | None) -> Iterator[Key]:
        """The keys behind one, or all of them, in order; what comes or goes meanwhile may be missed."""
        position = 0 if key is None else bisect_right(self._keys, key)
        while position < len(self._keys):
            yield self._keys[position]
            position += 1


class Saved:
    """The saved records by kind and id."""

    def __init__(self) -> None:
        self._records: dict[RecordId, Record] = {}
        self.instances: dict[InstanceKey, Instance] = {}
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[str, Job] = {}
        self.instance_keys: Ordered[InstanceKey] = Ordered()
        self.job_ids: Ordered[str] = Ordered()
        self.node_names: Ordered[tuple[str, str]] = Ordered()
        self.states: Counter[tuple[str, InstanceState]] = Counter()
        self._on_node: defaultdict[str, set[InstanceKey]] = defaultdict(set)

    def load(self, contents: Contents) -> None:
        """Begin with what the store holds."""
        self.__init__()  # type: ignore[misc]
        self.nodes = {node.id: node for node in contents.nodes}
        self.jobs = {job.id: job for job in contents.jobs}
        self.instances = {item.key: item for item in contents.instances}
        self._records = {
            **{(Kind.NODE, node.id): node for node in contents.nodes},
            **{(Kind.JOB, job.id): job for job in contents.jobs},
            **{(Kind.INSTANCE, str(item.key)): item for item in contents.instances},
            **{(Kind.SETTING, item.name): item for item in contents.settings},
        }
        self.instance_keys = Ordered(self.instances)
        self.job_ids = Ordered(self.jobs)
        self.node_names = Ordered((node.name, node.id) for node in contents.nodes)
        self.states = Counter((item.node_id, item.state) for item in contents.instances)
        for item in contents.instances:
            for _, placement in item.placements():
                self._on_node[placement.node_id].add(item.key)

    def of_job(self, job_id: str) -> Iterator[Instance]:
        """The instances of a job, by number."""
        keys = self.instance_keys.after(InstanceKey(job_id, -1))
        return (self.instances[key] for key in takewhile(lambda key: key.job_id == job_id, keys))

    def on_node(self, node_id: str) -> list[Instance]:
        """The instances with a placement on a node, in order."""
        return [self.instances[key] for key in sorted(self._on_node.get(node_id, ()))]

    def get(self, record_id: RecordId) -> Record | None:
        """A saved record; None where there is none."""
        return self._records.get(record_id)

    def version(self, record_id: RecordId) -> int:
        """The version of a saved record; 0 where there is none."""
        record = self._records.get(record_id)
        return record.version if record else 0

    def put(self, record_id: RecordId, record: Record | None) -> None:
        """A record was saved, or removed."""
        old = self._records.pop(record_id, None)
        if record is not None:
            self._records[record_id] = record
        match old or record:
            case Instance():
                self._put_instance(old, record)  # type: ignore[arg-type]
            case Node():
                self._put_node(old, record)  # type: ignore[arg-type]
            case Job():
                self._put_job(old, record)  # type: ignore[arg-type]
            case Setting() | None:
                pass

    def _put_instance(self, old: Instance | None, new: Instance | None) -> None:
        if old is not None:
            self.states[old.node_id, old.state] -= 1
            if not self.states[old.node_id, old.state]:
                del self.states[old.node_id, old.state]
            for _, placement in old.placements():
                self._on_node[placement.node_id].discard(old.key)
                if not self._on_node[placement.node_id]:
                    del self._on_node[placement.node_id]
        if new is not None:
            self.states[new.node_id, new.state] += 1
            for _, placement in new.placements():
                self._on_node[placement.node_id].add(new.key)
            self.instances[new.key] = new
            if old is None:
                self.instance_keys.add(new.key)
        elif old is not None:
            del self.instances[old.key]
            self.instance_keys.remove(old.key)

    def _put_node(self, old: Node | None, new: Node | None) -> None:
        if old is not None and (new is None or new.name != old.name):
            self.node_names.remove((old.name, old.id))
        if new is not None:
            self.nodes[new.id] = new
            if old is None or new.name != old.name:
                self.node_names.add((new.name, new.id))
        elif old is not None:
            del self.nodes[old.id]

    def _put_job(self, old: Job | None, new: Job | None) -> None:
        if new is not None:
            self.jobs[new.id] = new
            if old is None:
                self.job_ids.add(new.id)
        elif old is not None:
            del self.jobs[old.id]
            self.job_ids.remove(old.id)
