"""Commands are sent at once, then again with growing pauses until they are confirmed."""

from dataclasses import replace
from typing import Any

from cluster.nodes import Dialect
from manager.dispatcher import Dispatcher, pause_s
from manager.domain.effects import Effect, Verb
from manager.domain.events import Seen
from manager.domain.model import Node, NodeState
from simulation.lives import Life
from testbed.records import node


class Wire:
    """Remembers what was sent, on a clock that a test moves."""

    def __init__(self, **facts: Any) -> None:
        self.now = 0.0
        self.is_connected = True
        self.sent: list[tuple[float, Verb]] = []
        self.node: Node = replace(node("n1"), state=NodeState.READY, **facts)
        self.dispatcher = Dispatcher(lambda node_id: self.node if node_id == "n1" else None, lambda: self.now)
        self.dispatcher.commander = self

    def send(self, node: Node, effect: Effect) -> bool:
        if self.is_connected:
            self.sent.append((self.now, effect.verb))
        return self.is_connected

    def pass_time(self, seconds: int) -> list[float]:
        """Tick each second; answers when something was sent."""
        before = len(self.sent)
        for _ in range(seconds):
            self.now += 1.0
            self.dispatcher.tick()
        return [at for at, _ in self.sent[before:]]


def _worker() -> Any:
    return replace(node("n1").registration, dialect=Dialect.WORKER)


def test_a_command_is_repeated_after_five_seconds_doubling_to_sixty() -> None:
    """5, 10, 20, 40, 60, 60 … until it is confirmed."""
    wire = Wire(registration=_worker())
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    assert wire.sent == [(0.0, Verb.DEPLOY)]
    assert wire.pass_time(200) == [5.0, 15.0, 35.0, 75.0, 135.0, 195.0]
    wire.dispatcher.consider(life.see(Seen.STARTING).instance)
    assert wire.pass_time(200) == []


def test_nothing_is_repeated_to_a_node_that_is_not_ready() -> None:
    """A node that is not heard gets it once; when it is back, at once again."""
    wire = Wire(registration=_worker())
    wire.dispatcher.consider(Life().place().instance)
    wire.node = replace(wire.node, state=NodeState.SUSPECT)
    assert wire.pass_time(100) == []
    wire.node = replace(wire.node, state=NodeState.READY)
    wire.dispatcher.repeat_for("n1")
    assert wire.pass_time(1) == [101.0]


def test_without_a_broker_a_command_waits() -> None:
    """It goes out as soon as there is a session."""
    wire = Wire(registration=_worker())
    wire.is_connected = False
    wire.dispatcher.consider(Life().place().instance)
    assert wire.pass_time(3) == []
    wire.is_connected = True
    assert len(wire.pass_time(2)) == 1


def test_a_node_that_never_reports_gets_each_command_once() -> None:
    """It could not confirm: repeating would start it twice."""
    wire = Wire()
    wire.dispatcher.consider(Life().place().instance)
    assert wire.pass_time(1000) == []


def test_a_deploy_is_repeated_rarely_to_an_engine() -> None:
    """An engine's start may be a long pull, and it answers what it has with a fault."""
    engine = replace(node(), registration=replace(_worker(), dialect=Dialect.ENGINE_C), has_reported=True)
    worker = replace(node(), registration=_worker())
    pauses = [pause_s(engine, Verb.DEPLOY, attempt, 5.0) for attempt in range(1, 5)]
    assert len(set(pauses)) == 1
    assert pauses[0] > pause_s(worker, Verb.DEPLOY, 4, 5.0)


def test_a_newer_command_replaces_the_older() -> None:
    """After a deletion only the delete goes out."""
    wire = Wire(registration=_worker())
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.consider(life.delete().instance)
    wire.pass_time(30)
    assert {verb for at, verb in wire.sent if at} == {Verb.DELETE}


def test_what_is_forgotten_is_not_repeated() -> None:
    """A purged instance has no commands, and after a reload all start anew."""
    wire = Wire(registration=_worker())
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.forget(life.instance.key)
    assert wire.pass_time(100) == []
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.forget_all()
    assert wire.pass_time(100) == []
