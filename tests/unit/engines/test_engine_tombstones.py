"""What an engine owes: its lists confirm that what ended while it was away is gone, or show it."""

from manager.domain.engines import on_restart
from manager.domain.model import InstanceState
from manager.domain.reconciliation import Rung, ring
from standins.engines.judged import JOB, NAME, Judged

S = InstanceState


def test_an_engines_lists_confirm_by_absence() -> None:
    """Away while it was deleted and back without it: once its lists have lacked it for as long as a start may take."""
    engine = Judged()
    engine.running()
    engine.go_down()
    engine.delete()
    engine.wait(3600.0)
    engine.hear()
    engine.run(20)
    assert engine.state.owes(JOB)
    engine.run(20)
    assert not engine.state.owes(JOB)


def test_an_engine_that_still_lists_it_is_told_until_it_does_not() -> None:
    """A month later: deleted again and again, never an orphan, and forgotten once it is gone."""
    engine = Judged()
    engine.running()
    engine.go_down()
    engine.delete()
    engine.wait(30 * 86_400.0)
    assert ring(engine.state, JOB, engine.now_ms) is Rung.OWED
    engine.hear()
    engine.run(60, NAME)
    assert len(engine.stale) >= 3
    assert {order.key for order in engine.stale} == {JOB}
    assert ring(engine.state, JOB, engine.now_ms) is Rung.OWED
    engine.run(40)
    assert ring(engine.state, JOB, engine.now_ms) is Rung.CHANGED


def test_an_engine_that_registers_anew_owes_nothing() -> None:
    """It removed its containers when it started."""
    engine = Judged()
    engine.running()
    engine.go_down()
    engine.delete()
    assert engine.state.owes(JOB)
    on_restart(engine.state, engine.node, engine.node, engine.now_ms, engine.mono_s)
    assert not engine.state.owes(JOB)


def test_a_zombie_is_not_taken_for_gone() -> None:
    """An engine that went on listing it was never believed; it is remembered until the engine restarts."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.delete()
    engine.run(130, NAME)
    assert engine.instance().state is S.STOPPED
    assert engine.state.owes(JOB)
