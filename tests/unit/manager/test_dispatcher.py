"""Commands are sent at once, then again with growing pauses until they are confirmed."""

from dataclasses import replace
from math import isinf
from typing import Any

import pytest

from cluster.nodes import Dialect
from manager.dispatcher import MOST_PER_TICK, Broken, Dispatcher, pause_s
from manager.domain.effects import Effect, Verb
from manager.domain.events import Seen
from manager.domain.model import Instance, InstanceKey, Node, NodeState
from simulation.lives import KEY, Life
from testbed.records import node


class Wire:
    """Remembers what was sent, on a clock that a test moves."""

    def __init__(self, **facts: Any) -> None:
        self.now = 0.0
        self.is_ready = True
        self.is_heard = True
        self.waits: set[InstanceKey] = set()
        self.faulty: set[InstanceKey] = set()
        self.sent: list[tuple[float, Verb]] = []
        self.told: list[Verb] = []
        self.broken: list[Broken] = []
        self.node: Node = replace(node("n1"), state=NodeState.READY, **facts)
        self.dispatcher = Dispatcher(
            lambda node_id: self.node if node_id == "n1" else None, lambda _: self.is_heard, lambda: self.now
        )
        self.dispatcher.commander = self
        self.dispatcher.on_sent = lambda _, effect: self.told.append(effect.verb)
        self.dispatcher.on_broken = self.broken.append

    def send(self, node: Node, effect: Effect) -> bool:
        if effect.key in self.faulty:
            raise ValueError("a key is missing")
        if not self.is_ready or effect.key in self.waits:
            return False
        self.sent.append((self.now, effect.verb))
        return True

    def pass_time(self, seconds: int) -> list[float]:
        """Tick each second; answers when something was sent."""
        before = len(self.sent)
        for _ in range(seconds):
            self.now += 1.0
            self.dispatcher.tick()
        return [at for at, _ in self.sent[before:]]


def _worker() -> Any:
    return replace(node("n1").registration, dialect=Dialect.WORKER)


def _of(instance: Instance, number: int) -> Instance:
    return replace(instance, key=KEY._replace(number=number))


def test_a_command_is_repeated_after_five_seconds_doubling_to_sixty() -> None:
    """5, 10, 20, 40, 60, 60 … until it is confirmed."""
    wire = Wire(registration=_worker())
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    assert wire.sent == [(0.0, Verb.DEPLOY)]
    assert wire.pass_time(200) == [5.0, 15.0, 35.0, 75.0, 135.0, 195.0]
    wire.dispatcher.consider(life.see(Seen.STARTING).instance)
    assert wire.pass_time(200) == []


def test_what_may_be_confirmed_in_a_message_that_waits_to_be_read_is_not_repeated() -> None:
    """Answers are taken in with a delay: repeated is what is not confirmed by what was said within its pause."""
    wire = Wire(registration=_worker())
    wire.dispatcher.heard_until_s = lambda: wire.now - 20.0
    wire.dispatcher.consider(Life().place().instance)
    assert wire.pass_time(24) == []
    [repeated_s] = wire.pass_time(20)
    assert 25.0 <= repeated_s <= 45.0
    wire.dispatcher.heard_until_s = lambda: wire.now
    assert wire.pass_time(20) != []


def test_a_confirmation_that_was_read_late_ends_the_repetition_before_it_begins() -> None:
    """However late."""
    wire = Wire(registration=_worker())
    wire.dispatcher.heard_until_s = lambda: min(wire.now, 3.0)
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    assert wire.pass_time(100) == []
    wire.dispatcher.consider(life.see(Seen.STARTING).instance)
    wire.dispatcher.heard_until_s = lambda: wire.now
    assert wire.pass_time(100) == []


def test_a_node_that_is_back_is_told_again_however_late_others_are_read() -> None:
    """What it was told before may have been lost: no confirmation is waited for. The same where it says so itself."""
    wire = Wire(registration=_worker())
    wire.dispatcher.heard_until_s = lambda: 0.0
    wire.dispatcher.consider(Life().place().instance)
    wire.pass_time(10)
    wire.dispatcher.repeat_for("n1")
    assert wire.pass_time(1) == [11.0]
    wire.dispatcher.repeat(Verb.DEPLOY, KEY, "n1", 2.0)
    assert wire.pass_time(5) == [13.0]


def test_nothing_is_repeated_to_a_node_that_is_not_ready() -> None:
    """A node that is not heard gets it once; when it is back, at once again."""
    wire = Wire(registration=_worker())
    wire.dispatcher.consider(Life().place().instance)
    wire.is_heard = False
    assert wire.pass_time(100) == []
    wire.is_heard = True
    wire.dispatcher.repeat_for("n1")
    assert wire.pass_time(1) == [101.0]


def test_what_waits_for_its_node_costs_nothing() -> None:
    """While a node is away nothing of its commands is looked at, tick after tick."""
    wire = Wire(registration=_worker())
    looked: list[str] = []
    wire.dispatcher._find_node = lambda node_id: looked.append(node_id) or wire.node
    wire.dispatcher.consider(Life().place().instance)
    wire.is_heard = False
    wire.pass_time(10)
    looked.clear()
    wire.pass_time(1000)
    assert looked == []


def test_without_a_broker_a_command_waits() -> None:
    """It goes out as soon as there is a session."""
    wire = Wire(registration=_worker())
    wire.is_ready = False
    wire.dispatcher.consider(Life().place().instance)
    assert wire.pass_time(3) == []
    wire.is_ready = True
    assert len(wire.pass_time(2)) == 1


def test_a_command_that_has_to_wait_is_not_counted_as_sent() -> None:
    """An image that is not known yet keeps its command, and no other, for half a second at a time."""
    wire = Wire(registration=_worker())
    wire.waits = {KEY}
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.consider(_of(life.instance, 1))
    wire.pass_time(3)
    assert [at for at, _ in wire.sent] == [0.0]
    wire.waits.clear()
    assert wire.pass_time(2) == [4.0, 5.0]
    assert wire.told == [Verb.DEPLOY] * 3


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
    """A purged instance has no commands, and leaves nothing behind."""
    wire = Wire(registration=_worker())
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.forget(life.instance.key)
    assert wire.pass_time(100) == []
    assert len(wire.dispatcher) == 0
    assert not wire.dispatcher._by_key
    assert not wire.dispatcher._by_node


def test_a_command_that_cannot_be_sent_holds_up_no_other() -> None:
    """It is told once and tried again once a minute; all others go out, and so does it when it can."""
    wire = Wire(registration=_worker())
    wire.faulty = {KEY}
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.consider(_of(life.instance, 1))
    assert wire.sent == [(0.0, Verb.DEPLOY)]
    wire.pass_time(150)
    assert [(item.effect.key, item.why) for item in wire.broken] == [(KEY, "ValueError: a key is missing")]
    assert list(wire.dispatcher.broken) == [wire.broken[0].effect.identity]
    wire.dispatcher.forget(KEY._replace(number=1))
    wire.faulty.clear()
    assert wire.pass_time(60) == [180.0]
    assert wire.dispatcher.broken == {}


def test_a_command_that_cannot_be_sent_was_not_sent() -> None:
    """Whoever counts commands, or takes one for done because it went out, is not told of it."""
    wire = Wire()
    wire.faulty = {KEY}
    wire.dispatcher.consider(Life().place().instance)
    assert wire.told == []


def test_a_fault_is_forgotten_with_its_instance() -> None:
    """What cannot be sent is listed for as long as its instance is there, the deletion of a stale copy too."""
    wire = Wire(registration=_worker())
    wire.faulty = {KEY}
    life = Life().place()
    wire.dispatcher.consider(life.instance)
    wire.dispatcher.send_once(
        Effect(verb=Verb.DELETE, key=KEY, node_id="n1", generation=1, spec=life.instance.spec),
    )
    assert len(wire.dispatcher.broken) == 2
    wire.dispatcher.forget(KEY)
    assert wire.dispatcher.broken == {}


def test_a_lost_command_is_sent_again_whatever_was_planned() -> None:
    """Only that verb, on that node, after the pause that was asked for."""
    wire = Wire(registration=_worker())
    wire.dispatcher.consider(Life().place().instance)
    wire.dispatcher.repeat(Verb.DELETE, KEY, "n1", 0.0)
    wire.dispatcher.repeat(Verb.DEPLOY, KEY, "n2", 0.0)
    assert wire.pass_time(2) == []
    wire.dispatcher.repeat(Verb.DEPLOY, KEY, "n1", 1.0)
    assert wire.pass_time(2) == [3.0]


def test_many_commands_are_repeated_in_portions() -> None:
    """One tick sends a thousand at most, and says that more of them are due."""
    wire = Wire(registration=_worker())
    life = Life().place()
    for number in range(MOST_PER_TICK + 1):
        wire.dispatcher.consider(_of(life.instance, number))
    wire.sent.clear()
    wire.now = 5.0
    assert wire.dispatcher.tick()
    assert len(wire.sent) == MOST_PER_TICK
    assert not wire.dispatcher.tick()
    assert len(wire.sent) == MOST_PER_TICK + 1


@pytest.mark.parametrize(("dialect", "is_once"), [(Dialect.SEED, True), (Dialect.WORKER, False)])
def test_pauses_are_endless_only_for_nodes_that_never_reported(dialect: Dialect, is_once: bool) -> None:
    """A node of the documented dialect that has reported a state can confirm, and is told again."""
    told = replace(node(), registration=replace(_worker(), dialect=dialect))
    assert isinf(pause_s(told, Verb.DEPLOY, 1, 2.0)) is is_once
    assert not isinf(pause_s(replace(told, has_reported=True), Verb.DEPLOY, 1, 2.0))
