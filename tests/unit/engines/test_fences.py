"""When an engine gets an instance again that ended there: as soon as its lists show that nothing is in the way."""

from manager.domain.listing import BLOCKED_MS
from manager.domain.lists import NEVER_STARTED_PERIODS
from manager.domain.model import InstanceState
from manager.domain.reconciliation import fenced_nodes
from standins.engines.judged import JOB, NAME, Judged

S = InstanceState
BLOCKED = 'snapshot "x": already exists'


def _fenced(engine: Judged) -> list[str]:
    return fenced_nodes(engine.state, engine.instance(), engine.now_ms)


def _freed(engine: Judged) -> bool:
    """Whether somebody who waits is told since the last time."""
    freed, engine.state.has_freed = engine.state.has_freed, False
    return freed


def test_what_ended_is_in_the_way_until_two_lists_come_without_it() -> None:
    """Its word alone does not free the name: an engine says DEAD before it has removed the container."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.say("DEAD")
    assert _fenced(engine) == [engine.node_id]
    _freed(engine)
    engine.run(engine.period_s)
    assert (_fenced(engine), _freed(engine)) == ([engine.node_id], False)
    engine.run(engine.period_s)
    assert (_fenced(engine), _freed(engine)) == ([], True)


def test_what_goes_on_being_listed_stays_in_the_way() -> None:
    """It is fenced, then shown as an older copy; when it is gone at last whoever waits is told."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.say("DEAD")
    engine.run(8, NAME)
    assert _fenced(engine) == [engine.node_id]
    engine.run(20, NAME)
    assert engine.excluded() == {engine.node_id: "older_copy"}
    _freed(engine)
    engine.run(20)
    assert (engine.excluded(), _fenced(engine), _freed(engine)) == ({}, [], True)


def test_an_engine_that_started_anew_is_free_at_once() -> None:
    """It removed its containers before it registered."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.wait(3)
    engine.register()
    assert (engine.instance().state, _fenced(engine)) == (S.LOST, [])


def test_what_an_engine_owes_that_was_away_is_in_the_way_until_its_lists_settle_it() -> None:
    """Its deploy may be on its way yet, and the engine takes a newer one for its repetition."""
    engine = Judged()
    engine.deploy()
    engine.go_down()
    engine.delete()
    engine.wait(60)
    assert _fenced(engine) == []
    engine.hear()
    engine.run((NEVER_STARTED_PERIODS - 5) * engine.period_s)
    assert _fenced(engine) == [engine.node_id]
    _freed(engine)
    engine.run(10 * engine.period_s)
    assert (_fenced(engine), _freed(engine)) == ([], True)


def test_what_ends_after_a_start_is_in_the_way_again() -> None:
    """A free name is free of what ended until then."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.say("DEAD")
    engine.run(6)
    assert _fenced(engine) == []
    assert engine.state.place(JOB, engine.node_id, engine.now_ms) == ""
    engine.say("ACTIVE")
    engine.run(4, NAME)
    engine.say("DEAD")
    assert _fenced(engine) == [engine.node_id]


def test_without_lists_the_fence_ends_by_time() -> None:
    """An engine whose lists do not come is fenced as nodes are that send none."""
    engine = Judged()
    engine.running()
    engine.say("DEAD")
    engine.wait(engine.state.policy.refence_ms / 1000 - 0.1)
    assert _fenced(engine) == [engine.node_id]
    engine.wait(0.1)
    assert _fenced(engine) == []


def test_a_name_that_is_blocked_is_tried_again_after_a_while() -> None:
    """What is in the way may never be listed: nothing but a new attempt shows that it is gone."""
    engine = Judged("C")
    engine.deploy()
    for _ in range(2):
        engine.say("FAILED", BLOCKED)
    assert engine.excluded() == {engine.node_id: "older_copy"}
    engine.run(BLOCKED_MS / 1000 - 4)
    assert engine.excluded() == {engine.node_id: "older_copy"}
    _freed(engine)
    engine.run(6)
    assert (engine.excluded(), _freed(engine)) == ({}, True)
