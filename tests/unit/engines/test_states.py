"""What an engine's states mean, line by line of section 12.4 of the deployed ecosystem's contract."""

import pytest

from manager.domain.effects import Verb
from manager.domain.model import InstanceKey, InstanceState, NodeState
from manager.rpc.convert import instance_to_proto
from standins.engines.generations import recorded
from standins.engines.judged import JOB, NAME, Judged

S = InstanceState
SNAPSHOT = f'snapshot "{NAME}.instance.0-snapshotter": already exists'


@pytest.mark.parametrize(("generation", "word"), [("A", "ACTIVE"), ("C", "CREATED")])
def test_started_has_a_word_per_generation(generation: str, word: str) -> None:
    """ACTIVE and CREATED both mean that it runs."""
    engine = Judged(generation)
    engine.deploy()
    assert engine.say(word).state is S.RUNNING


def test_instantiation_of_d_means_starting() -> None:
    """INSTANTIATION says that the deploy arrived, not that it runs."""
    engine = Judged("C")
    engine.deploy()
    assert engine.say("INSTANTIATION").state is S.STARTING
    assert engine.say("CREATED").state is S.RUNNING
    assert engine.say("INSTANTIATION").state is S.RUNNING


@pytest.mark.parametrize("detail", ["Service already deployed", "task already deployed", "service already deployed"])
def test_already_deployed_means_that_it_is_there(detail: str) -> None:
    """Three spellings of a duplicate deploy: nothing failed, and the deploy is not repeated."""
    engine = Judged()
    engine.deploy()
    assert engine.say("FAILED", detail).state is S.STARTING
    assert engine.say("ACTIVE").state is S.RUNNING
    assert engine.say("FAILED", detail).state is S.RUNNING


def test_already_deployed_may_come_before_the_start_during_a_pull() -> None:
    """A duplicate deploy during a pull is answered FAILED before or after ACTIVE."""
    engine = Judged()
    engine.deploy()
    engine.say("FAILED", "Service already deployed")
    engine.run(30)
    assert engine.say("ACTIVE").state is S.RUNNING


def test_snapshot_exists_is_not_running_wait_for_dead_then_deploy_once_more() -> None:
    """The fourth spelling: nothing runs; after DEAD the deploy is sent again."""
    engine = Judged("C")
    generation = engine.deploy().generation
    assert engine.say("FAILED", SNAPSHOT).state is S.SCHEDULED
    assert engine.say("DEAD", "Container is starting up").state is S.SCHEDULED
    assert engine.verbs() == [Verb.DEPLOY, Verb.DEPLOY]
    assert engine.repeats[-1].after_s < engine.repeats[0].after_s
    assert engine.say("CREATED").state is S.RUNNING
    assert engine.instance().generation == generation


def test_snapshot_exists_twice_gives_the_node_up() -> None:
    """A second blocked deploy is a failure, and this node does not get the instance again."""
    engine = Judged("C")
    engine.deploy()
    engine.say("FAILED", SNAPSHOT)
    assert engine.say("FAILED", SNAPSHOT).state is S.FAILED
    assert engine.excluded() == {engine.node_id: "older_copy"}


def test_delete_of_a_gives_dead_then_undeployed_five_seconds_later() -> None:
    """DEAD closes the placement; UNDEPLOYED, late, changes nothing."""
    engine = Judged()
    engine.running()
    engine.delete()
    assert engine.say("DEAD").state is S.STOPPED
    engine.wait(5)
    assert engine.say("UNDEPLOYED").state is S.STOPPED


def test_delete_of_c_gives_undeployed_then_dead_or_the_other_way_round() -> None:
    """Either closes it, the other is late."""
    for words in (("UNDEPLOYED", "DEAD"), ("DEAD", "UNDEPLOYED")):
        engine = Judged("C")
        engine.running()
        engine.delete()
        assert [engine.say(word).state for word in words] == [S.STOPPED, S.STOPPED]


def test_two_quick_deletes_say_undeployed_twice() -> None:
    """Every further word about what is closed is passed over."""
    engine = Judged("C")
    engine.running()
    engine.delete()
    assert [engine.say(word).state for word in ("UNDEPLOYED", "UNDEPLOYED", "DEAD")] == [S.STOPPED] * 3


def test_late_undeployed_never_ends_a_successor() -> None:
    """UNDEPLOYED answers a delete: about a placement that nobody deletes it is about an older one."""
    engine = Judged()
    engine.running()
    engine.delete()
    engine.say("DEAD")
    engine.run(12)
    engine.deploy()
    assert engine.say("UNDEPLOYED").state is S.SCHEDULED
    engine.say("ACTIVE")
    assert engine.say("UNDEPLOYED").state is S.RUNNING


def test_active_after_dead_never_revives() -> None:
    """A job of A that ends at once can say DEAD before ACTIVE."""
    engine = Judged()
    engine.deploy(one_shot=True)
    assert engine.say("DEAD", "Container exited with status: 0").state is S.COMPLETED
    assert engine.say("ACTIVE").state is S.COMPLETED
    assert engine.instance().current is None


def test_exit_code_stands_in_the_detail_of_a() -> None:
    """'Container exited with status: 3' fails with 3 and is run again where it is a service."""
    engine = Judged()
    engine.running()
    ended = engine.say("DEAD", "Container exited with status: 3")
    assert (ended.state, ended.exit_code) == (S.FAILED, 3)
    assert ended.retry_at_ms is not None


def test_largest_exit_status_of_a_can_be_shown() -> None:
    """containerd's statuses are unsigned and the engine's word is saved: it must fit where instances are listed."""
    engine = Judged()
    engine.running(one_shot=True)
    ended = engine.say("DEAD", "Container exited with status: 4294967295")
    assert ended.state is S.FAILED
    assert instance_to_proto(ended).exit_code == 2**31 - 1


def test_one_shot_of_a_with_exit_status_0_completed() -> None:
    """DEAD with 'exited with status: 0' of a one-shot of the older engines means that it ended well."""
    engine = Judged()
    engine.running(one_shot=True)
    assert engine.say("DEAD", "Container exited with status: 0").state is S.COMPLETED


def test_one_shot_of_a_without_an_exit_status_has_an_unknown_outcome() -> None:
    """DEAD without a status comes only when the engine is stopped: it is reported and not run again."""
    engine = Judged()
    engine.running(one_shot=True)
    ended = engine.say("DEAD")
    assert (ended.state, ended.retry_at_ms) == (S.FAILED, None)
    assert "outcome is unknown" in ended.detail


def test_one_shot_of_a_with_a_failure_is_not_run_again() -> None:
    """Exit code 3 of a one-shot is its outcome."""
    engine = Judged()
    engine.running(one_shot=True)
    ended = engine.say("DEAD", "Container exited with status: 3")
    assert (ended.state, ended.exit_code, ended.retry_at_ms) == (S.FAILED, 3, None)


def test_details_of_c_are_stale() -> None:
    """'Container is starting up' beside COMPLETED or DEAD says nothing and is not shown."""
    engine = Judged("C")
    engine.running(one_shot=True)
    ended = engine.say("COMPLETED", "Container is starting up")
    assert (ended.state, ended.exit_code) == (S.COMPLETED, None)
    assert "starting up" not in ended.detail


def test_one_shot_of_c_that_is_dead_has_an_unknown_outcome() -> None:
    """No exit code ever arrives: it is reported and not run again."""
    engine = Judged("C")
    engine.running(one_shot=True)
    ended = engine.say("DEAD", "Container is starting up")
    assert (ended.state, ended.retry_at_ms) == (S.FAILED, None)
    assert "outcome is unknown" in ended.detail


@pytest.mark.parametrize(("generation", "word"), [("A", "ACTIVE"), ("C", "CREATED")])
def test_delete_during_a_pull_is_repeated_when_the_unwanted_appears(generation: str, word: str) -> None:
    """A delete during a pull or start is lost silently; the start that follows gets another."""
    engine = Judged(generation)
    engine.deploy()
    engine.delete()
    assert engine.say(word).state is S.STOPPING
    assert [(item.verb, item.key, item.after_s) for item in engine.repeats] == [(Verb.DELETE, JOB, 0.0)]


def test_sigterm_says_dead_of_every_container() -> None:
    """Recorded SIGTERM of C: both services end and are placed again."""
    engine = Judged("C")
    keys: dict[str, InstanceKey] = {}
    for name, number in (("app.test.t1.test", 0), ("app.test.t2.test", 3)):
        keys[name] = JOB._replace(job_id=f"{len(keys):024x}", number=number)
        engine.deploy(name, keys[name])
        engine.say("CREATED", name=name, number=number)
    for entry in recorded("C", "engine-sigterm")["sequence"]:
        if entry.get("topic", "").endswith("/job"):
            engine.say_raw(entry["raw"].encode())
    states = [engine.instance(key) for key in keys.values()]
    assert [(item.state, item.current) for item in states] == [(S.FAILED, None)] * 2
    assert all(item.retry_at_ms for item in states)


def test_engine_that_registers_again_has_lost_its_containers() -> None:
    """Services are placed again; a one-shot that ran has an unknown outcome and is not; what was deleted is gone."""
    engine = Judged()
    one_shot, deleted = JOB._replace(number=1), JOB._replace(number=2)
    engine.running()
    engine.deploy(key=one_shot, one_shot=True)
    engine.deploy(key=deleted)
    engine.say("ACTIVE", number=1)
    engine.delete(deleted)
    node_id = engine.node_id
    assert engine.register().id == node_id
    assert engine.node.state is NodeState.REGISTERED
    states = [engine.instance(key) for key in (JOB, one_shot, deleted)]
    assert [item.state for item in states] == [S.LOST, S.LOST, S.STOPPED]
    assert [item.retry_at_ms is not None for item in states] == [True, False, False]
    assert "outcome is unknown" in states[1].detail


def test_second_machine_of_one_name_is_said_to_the_operator() -> None:
    """A registration from another address while the first is still heard: both share one id and fight for it."""
    engine = Judged()
    engine.register(ip="192.0.2.77")
    assert "two machines call themselves worker-1 (192.0.2.2 and 192.0.2.77)" in engine.node.detail
    assert [event.kind for event in engine.node.events][-1] == "contested"


def test_restart_with_a_new_address_after_a_silence_is_no_second_machine() -> None:
    """Machines may change their address when they start."""
    engine = Judged()
    engine.wait(30)
    engine.register(ip="192.0.2.77")
    assert "two machines" not in engine.node.detail


def test_alternating_telemetry_tells_two_engines_with_one_id() -> None:
    """An engine of A and one of C under one id speak in turn: said in the node's detail and history."""
    engine = Judged("C")
    older = recorded("A", "information")["sequence"][0]["raw"].encode()
    newer = recorded("C", "information")["sequence"][0]["raw"].encode()
    for payload in (older, newer, older):
        engine.wait(1)
        engine.hear(payload)
    assert "two machines call themselves worker-1" in engine.node.detail
    assert "contested" in [event.kind for event in engine.node.events]


def _heard_every(engine: Judged, pause_s: float) -> None:
    for _ in range(40):
        engine.wait(pause_s)
        engine.hear()


@pytest.mark.parametrize(
    ("before_s", "after_s", "is_told"), [(2, 1.4, True), (2, 2, False), (2, 1.9, False), (0.5, 0.5, False)]
)
def test_too_much_telemetry_tells_two_engines_of_one_kind(before_s: float, after_s: float, is_told: bool) -> None:
    """Alike in all they say, with one address as Docker gives it: 7 messages in 10 s are more than one engine sends."""
    engine = Judged("A")
    _heard_every(engine, before_s)
    engine.register()
    _heard_every(engine, after_s)
    assert ("two machines call themselves worker-1" in engine.node.detail) is is_told


def test_engine_that_is_heard_often_is_one() -> None:
    """Without a second registration nobody else can have got its id."""
    engine = Judged("A")
    _heard_every(engine, 0.5)
    assert "two machines" not in engine.node.detail


def test_backlog_of_an_outage_tells_of_no_second_machine() -> None:
    """What an engine stored arrives at once; after that it is heard as before."""
    engine = Judged("A")
    _heard_every(engine, 2)
    engine.register()
    engine.wait(63)
    for _ in range(31):
        engine.hear()
        engine.wait(0.02)
    _heard_every(engine, 2)
    assert "two machines" not in engine.node.detail


def test_state_of_an_instance_that_nobody_placed_there_changes_nothing() -> None:
    """A report of an unknown name is counted only."""
    engine = Judged()
    engine.deploy()
    engine.say("DEAD", name="app.test.other.test")
    assert engine.instance().state is S.SCHEDULED


@pytest.mark.parametrize(("generation", "word"), [("A", "ACTIVE"), ("C", "CREATED")])
def test_the_echo_of_the_roots_document_is_not_its_detail(generation: str, word: str) -> None:
    """An engine sends back the `status_detail` that it was given: that is no word of its own."""
    echo = "Waiting for scheduling decision"
    engine = Judged(generation)
    engine.deploy(status="CLUSTER_SCHEDULED", status_detail=echo)
    found = engine.say(word, echo)
    assert (found.state, found.detail) == (S.RUNNING, "its worker reports that it runs")
    assert engine.say("DEAD", echo).detail.startswith("its worker reports that it ended")
    engine.deploy(key=JOB._replace(number=1), status_detail=echo)
    assert engine.say(word, "something of its own", number=1).detail
