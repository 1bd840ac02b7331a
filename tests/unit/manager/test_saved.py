"""What is saved, ordered and counted, against a plain model of it."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from manager.domain.model import Instance, InstanceKey, InstanceState, Job, Node, Placement, Record, Setting
from manager.ports import Contents, RecordId
from manager.saved import Ordered, Saved
from testbed.records import KINDS, id_of, node, setting, spec

STATES = (InstanceState.RUNNING, InstanceState.PENDING, InstanceState.STOPPED)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))), st.integers(-1, 21) | st.none())
def test_keys_stay_in_order(changes: list[tuple[bool, int]], after: int | None) -> None:
    """Whatever comes and goes, what follows a key is all that is greater, in order, whether or not it is there."""
    ordered, model = Ordered[int](), set[int]()
    for is_added, key in changes:
        if is_added and key not in model:
            ordered.add(key)
            model.add(key)
        elif not is_added and key in model:
            ordered.remove(key)
            model.discard(key)
    assert list(ordered.after(after)) == [key for key in sorted(model) if after is None or key > after]


def test_what_is_there_at_first_is_ordered() -> None:
    """The keys of a load come in any order."""
    assert list(Ordered([3, 1, 2]).after(1)) == [2, 3]


def test_a_page_is_read_while_others_come_and_go() -> None:
    """No key is told twice, and none that stays is missed behind the one that was told last."""
    ordered = Ordered([1, 3, 5])
    page = ordered.after(None)
    assert next(page) == 1
    ordered.add(9)
    assert list(page) == [3, 5, 9]


def _record(kind: type[Record], name: int, word: int, version: int) -> Record:
    if kind is Instance:
        current = Placement(node_id=f"n{word}", generation=1, spec=spec(), state=STATES[0], since_ms=0)
        leaving = replace(current, node_id=f"n{name % 3}")
        return Instance(
            key=InstanceKey(f"j{name % 2}", name),
            spec=spec(),
            is_desired=True,
            state=STATES[word],
            current=current if word else None,
            retiring=leaving if word == 2 else None,
            version=version,
        )
    if kind is Node:
        return Node(id=f"id{name}", registration=node(f"n{word}").registration, registered_at_ms=0, version=version)
    if kind is Job:
        return Job(id=f"j{name}", spec=spec(f"w{word}"), created_at_ms=0, version=version)
    return setting(f"s{name}", str(word), version)


class SavedMachine(RuleBasedStateMachine):
    """Records are saved, changed, removed and loaded, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.saved = Saved()
        self.model: dict[RecordId, Record] = {}
        self.version = 0

    @rule(kind=st.sampled_from([Instance, Node, Job, Setting]), name=st.integers(0, 3), word=st.integers(0, 2))
    def save(self, kind: type[Record], name: int, word: int) -> None:
        """One is created or changed."""
        self.version += 1
        record = _record(kind, name, word, self.version)
        self.saved.put((KINDS[kind], id_of(record)), record)
        self.model[KINDS[kind], id_of(record)] = record

    @rule(kind=st.sampled_from([Instance, Node, Job, Setting]), name=st.integers(0, 3))
    def remove(self, kind: type[Record], name: int) -> None:
        """One is removed, whether or not it is there."""
        record_id = KINDS[kind], id_of(_record(kind, name, 0, 0))
        self.saved.put(record_id, None)
        self.model.pop(record_id, None)

    @rule()
    def load(self) -> None:
        """A start on the same records."""
        self.saved = Saved()
        self.saved.load(
            Contents(
                nodes=tuple(self._of(Node).values()),
                jobs=tuple(self._of(Job).values()),
                instances=tuple(self._of(Instance).values()),
                settings=tuple(self._of(Setting).values()),
            )
        )

    def _of(self, kind: type[Record]) -> dict[str, Record]:
        return {name: record for (_, name), record in self.model.items() if isinstance(record, kind)}

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        """By id, in order, and counted."""
        for record_id, record in self.model.items():
            assert self.saved.get(record_id) is record
            assert self.saved.version(record_id) == record.version
        instances = list(self._of(Instance).values())
        assert {str(key): item for key, item in self.saved.instances.items()} == self._of(Instance)
        assert (self.saved.nodes, self.saved.jobs) == (self._of(Node), self._of(Job))
        assert list(self.saved.instance_keys.after(None)) == sorted(self.saved.instances)
        assert list(self.saved.job_ids.after(None)) == sorted(self.saved.jobs)
        assert list(self.saved.node_names.after(None)) == sorted((item.name, item.id) for item in self._nodes())
        assert self.saved.states == Counter((item.node_id, item.state) for item in instances)
        assert all(self.saved.states.values())
        for job_id in ("j0", "j1", "j2"):
            of_job = sorted(item.key for item in instances if item.key.job_id == job_id)
            assert [item.key for item in self.saved.of_job(job_id)] == of_job
        for node_id in ("n0", "n1", "n2"):
            on_node = sorted(item.key for item in instances if any(p.node_id == node_id for _, p in item.placements()))
            assert [item.key for item in self.saved.on_node(node_id)] == on_node

    def _nodes(self) -> list[Node]:
        return [record for record in self.model.values() if isinstance(record, Node)]


class TestSaved(SavedMachine.TestCase):
    """Any sequence of changes."""

    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_what_is_not_there_has_no_version() -> None:
    """A record that was never saved is created by a change that expects none."""
    saved = Saved()
    missing = (KINDS[Setting], "x")
    assert (saved.get(missing), saved.version(missing)) == (None, 0)
    saved.put(missing, None)
    assert saved.get(missing) is None


@pytest.mark.parametrize("state", STATES)
def test_states_are_counted_by_node(state: InstanceState) -> None:
    """What is counted on a silent node can be shown as what it is, without looking at each instance."""
    saved = Saved()
    for word in (0, 1, 2):
        record = _record(Instance, word, word, 1)
        saved.put((KINDS[Instance], id_of(record)), record)
    on_nodes = {node_id: count for (node_id, counted), count in saved.states.items() if counted is state}
    assert list(on_nodes.values()) == [1]
