"""An older engine carries out one delete after the other: it is told one after the other (section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from cluster.nodes import Dialect, Registration
from manager.dispatcher import Dispatcher
from manager.domain.effects import Effect
from manager.domain.model import Instance, InstanceKey, InstanceState, Node, NodeState, Placement
from testbed.records import spec

S = InstanceState


@dataclass
class Wire:
    """A node, its dispatcher and what went out."""

    dialect: Dialect = Dialect.ENGINE_A
    now_s: float = 0.0
    is_ready: bool = True
    sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        registration = Registration(name="a", ip="", port=1, dialect=self.dialect, technologies=("docker",))
        self.node = Node(id="a", registration=registration, registered_at_ms=0, state=NodeState.READY)
        self.dispatcher = Dispatcher(lambda _: self.node, lambda _: True, lambda: self.now_s)
        self.dispatcher.commander = self

    def send(self, node: Node, effect: Effect) -> bool:
        self.sent.append(effect.key.number)
        return True

    def delete(self, number: int) -> Instance:
        placement = Placement(node_id="a", generation=1, spec=spec(), state=S.STOPPING, since_ms=0)
        facts = {"spec": spec(), "is_desired": False, "state": S.STOPPING, "current": placement, "generation": 1}
        instance = Instance(key=InstanceKey("j", number), **facts)  # type: ignore[arg-type]
        self.dispatcher.consider(instance)
        return instance

    def close(self, instance: Instance) -> None:
        self.dispatcher.consider(replace(instance, current=None, state=S.STOPPED))

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.now_s += 0.25
            self.dispatcher.tick()


def test_6_twenty_deletes_go_out_one_after_the_other_and_none_twice() -> None:
    """The next one goes out when the engine has told the end of the one before."""
    wire = Wire()
    waiting = [wire.delete(number) for number in range(20)]
    assert wire.sent == [0]
    assert [wire.dispatcher.ahead_of(item.key) for item in waiting] == list(range(20))
    for instance in waiting:
        wire.pass_time(10.0)
        wire.close(instance)
        wire.pass_time(0.5)
    assert wire.sent == list(range(20))


def test_6_an_engine_that_does_not_answer_one_delete_is_told_the_next() -> None:
    """One that was lost blocks the others for a while only, and has its turn again."""
    wire = Wire()
    lost, other = wire.delete(0), wire.delete(1)
    wire.pass_time(16.0)
    assert wire.sent == [0, 1]
    wire.close(other)
    wire.pass_time(1.0)
    assert wire.sent == [0, 1, 0]
    wire.close(lost)
    assert len(wire.dispatcher) == 0


@pytest.mark.parametrize("dialect", [Dialect.ENGINE_C, Dialect.WORKER])
def test_6_other_nodes_are_told_all_at_once(dialect: Dialect) -> None:
    """They carry out deletes side by side."""
    wire = Wire(dialect)
    for number in range(5):
        wire.delete(number)
    assert wire.sent == [0, 1, 2, 3, 4]
    assert wire.dispatcher.ahead_of(InstanceKey("j", 4)) == 0


def test_6_a_deleted_instance_that_is_forgotten_makes_room() -> None:
    """Whatever ends the waiting of the first one gives the second its turn."""
    wire = Wire()
    wire.delete(0)
    wire.delete(1)
    wire.dispatcher.forget(InstanceKey("j", 0))
    wire.pass_time(0.5)
    assert wire.sent == [0, 1]
