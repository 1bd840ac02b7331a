"""What an engine's lists mean over time, line by line of section 12.4 of the deployed ecosystem's contract."""

import json

import pytest

from cluster.nodes import parse_registration
from manager.domain import lists
from manager.domain.effects import Verb
from manager.domain.model import InstanceState, Node, NodeState
from standins.engines.generations import recorded
from standins.engines.judged import JOB, NAME, Judged

S = InstanceState
FORGOTTEN = "app.test.keep.test"
GONE = JOB._replace(job_id="65f1a2b3c4d5e6f7a8b9c03f")


def kinds(node: Node) -> list[str]:
    """The kinds of a node's history."""
    return [event.kind for event in node.events]


def test_list_confirms_a_start_whose_state_was_lost() -> None:
    """A deploy that is listed has arrived."""
    engine = Judged()
    engine.deploy()
    engine.run(2, NAME)
    assert engine.instance().state is S.RUNNING


def test_status_inside_the_lists_of_d() -> None:
    """INSTANTIATION in a list is a start under way, and repeating it prolongs no deadline."""
    engine = Judged("C")
    engine.deploy()
    engine.run(2, NAME, status="INSTANTIATION")
    starting = engine.instance()
    assert starting.state is S.STARTING
    engine.run(120, NAME, status="INSTANTIATION")
    assert engine.instance() == starting
    engine.run(2, NAME, status="CREATED")
    assert engine.instance().state is S.RUNNING


def test_delete_is_confirmed_by_absence() -> None:
    """Neither DEAD nor UNDEPLOYED came; the lists lack it for long enough."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.delete()
    engine.run(2)
    assert engine.instance().state is S.STOPPING
    engine.run(8)
    assert engine.instance().state is S.STOPPED


def test_delete_is_not_confirmed_while_it_is_listed() -> None:
    """What stays listed is not closed for two minutes."""
    engine = Judged()
    engine.running()
    engine.delete()
    engine.run(120, NAME)
    assert engine.instance().state is S.STOPPING


def test_no_endless_terminating_of_a_zombie_whose_end_was_never_told() -> None:
    """After two minutes of deletes it is STOPPED, its node shows a zombie, and it is deleted for as long as listed."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.delete()
    engine.run(130, NAME)
    assert engine.instance().state is S.STOPPED
    assert "stays listed though it ended" in engine.node.detail
    assert kinds(engine.node).count("zombie") == 1
    engine.run(120, NAME)
    assert [effect.verb for effect in engine.stale] == [Verb.DELETE] * len(engine.stale) != []
    assert kinds(engine.node).count("zombie") == 1
    engine.run(20)
    assert kinds(engine.node).count("zombie_gone") == 1


def test_deletes_that_wait_in_the_queue_of_an_engine_are_not_taken_for_zombies() -> None:
    """Forty deletes of the older engine take 200 s: what waits for its turn is still STOPPING."""
    engine = Judged()
    jobs = {f"app.test.s{number}.test": JOB._replace(job_id=f"{number:024x}") for number in range(40)}
    for name, key in jobs.items():
        engine.deploy(name, key)
        engine.say("ACTIVE", name=name)
    engine.run(4, *jobs)
    engine.state.delete(list(jobs.values()), "root", engine.now_ms)
    waiting = list(jobs)
    while waiting:
        engine.run(5, *waiting)
        assert {engine.instance(jobs[name]).state for name in waiting} == {S.STOPPING}
        engine.say("DEAD", name=waiting.pop(0))
    assert "zombie" not in kinds(engine.node)


@pytest.mark.parametrize("pauses_s", [(11.0,), (2.0, 9.0), (2.0, 2.0, 2.0, 9.0), (6.0, 7.0, 12.0)])
def test_absence_is_judged_of_an_engine_that_is_slower_than_its_period(pauses_s: tuple[float, ...]) -> None:
    """Lists that come late for good are no outage each time: what they lack has ended."""
    engine = Judged("C")
    engine.running()
    engine.deploy(FORGOTTEN, GONE)
    engine.say("CREATED", name=FORGOTTEN)
    engine.run(4, NAME, FORGOTTEN)
    engine.delete()
    for pause_s in pauses_s * (180 // int(sum(pauses_s))):
        engine.wait(pause_s)
        engine.hear()
        engine.send_lists()
    assert engine.instance().state is S.STOPPED
    assert engine.instance(GONE).state is S.LOST


def test_one_outage_does_not_make_an_engine_slow() -> None:
    """After two silences of a minute a third one is a gap as well: the lists behind it are not trusted."""
    engine = Judged("C")
    engine.running()
    for _ in range(3):
        engine.run(8, NAME)
        engine.wait(60)
        engine.send_lists()
        listing = engine.state.live[engine.node_id].listing
        assert not listing.is_trusted(engine.mono_s)
        assert listing.period_s == engine.period_s


def test_absence_is_judged_over_the_lists_of_all_runtimes() -> None:
    """Of three lists per period one holds it: the two that lack it mean nothing."""
    engine = Judged("C", "register-unikernel")
    engine.running()
    held = json.dumps({"services": [{"job_name": NAME, "virtualization": "docker", "instance": 0}]}).encode()
    for _ in range(30):
        engine.wait(2)
        engine.list_raw(held)
        engine.list_raw(b'{"services":[]}')
        engine.list_raw(b'{"services":[]}')
    assert engine.instance().state is S.RUNNING


def test_service_that_vanished_from_all_lists_is_placed_again() -> None:
    """Its DEAD was lost; absence tells."""
    engine = Judged()
    engine.running()
    engine.run(6, NAME)
    engine.run(20)
    assert engine.instance().state is S.LOST
    assert engine.instance().retry_at_ms


def test_delete_during_a_long_pull_is_repeated_by_the_lists() -> None:
    """The delete was closed by absence, minutes later the container starts: it is deleted without being asked."""
    engine = Judged()
    engine.deploy()
    engine.delete()
    engine.run(60)
    assert engine.instance().state is S.STOPPED
    engine.run(20, NAME)
    assert [(effect.verb, effect.key) for effect in engine.stale] == [(Verb.DELETE, JOB)]


def test_list_never_resurrects_what_ended() -> None:
    """Lists after DEAD, for a while at least, are older than it."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.say("DEAD", "Container exited with status: 3")
    engine.run(8, NAME)
    assert engine.instance().state is S.FAILED
    assert engine.stale == []


def test_lists_of_the_burst_after_a_reconnect_are_not_trusted() -> None:
    """The recorded backlog of a 45 s outage: a list with the dead service comes before and after its DEAD."""
    engine = Judged()
    ends, keep = (JOB._replace(job_id=f"{number:024x}") for number in range(2))
    engine.deploy("app.test.ends.test", ends)
    engine.deploy("app.test.keep.test", keep)
    for name in ("ends", "keep"):
        engine.say("ACTIVE", name=f"app.test.{name}.test")
    engine.run(4, "app.test.ends.test", "app.test.keep.test")
    start_s, start_ms = engine.mono_s, engine.now_ms
    for entry in recorded("A", "broker-away-45s")["sequence"]:
        engine.mono_s, engine.now_ms = start_s + entry["t"], start_ms + int(entry["t"] * 1000)
        channel = entry.get("topic", "").split("/", 2)[-1]
        raw = entry.get("raw", "").encode()
        if channel == "job":
            engine.say_raw(raw)
        elif channel == "jobs/resources":
            engine.list_raw(raw)
        elif channel == "information":
            engine.hear(raw)
    assert engine.instance(ends).state is S.FAILED
    assert engine.instance(ends).exit_code == 3
    assert engine.instance(keep).state is S.RUNNING
    assert engine.stale == []


def test_after_a_gap_the_outstanding_is_repeated_once_the_lists_are_complete() -> None:
    """Commands of an outage are lost even at QoS 1; they are due when every runtime has listed again."""
    engine = Judged("C", "register-unikernel")
    before = engine.settled
    engine.wait(30)
    engine.send_lists()
    assert engine.settled == before
    engine.run(4)
    assert engine.settled == before + 1
    engine.run(30)
    assert engine.settled == before + 1


def test_zombie_of_a_restarted_containerd_is_shown_and_its_instance_placed_elsewhere() -> None:
    """DEAD, then listed for ever: three deletes do nothing, the operator is told, the node is out of the question."""
    engine = Judged()
    engine.deploy(FORGOTTEN)
    engine.say("ACTIVE", name=FORGOTTEN)
    for entry in recorded("A", "containerd-restart")["sequence"]:
        if entry.get("topic", "").endswith("/job") and FORGOTTEN in entry["raw"]:
            engine.say_raw(entry["raw"].encode())
            break
    assert engine.instance().state is S.FAILED
    engine.run(120, FORGOTTEN)
    assert "zombie" in kinds(engine.node)
    assert "stays listed though it ended" in engine.node.detail
    assert engine.excluded() == {engine.node_id: "older_copy"}
    count = len(engine.stale)
    engine.run(60, FORGOTTEN)
    assert len(engine.stale) - count <= 1
    engine.run(20)
    assert "zombie_gone" in kinds(engine.node)
    assert engine.excluded() == {}


def test_orphan_is_shown_and_left_alone() -> None:
    """What the store does not know is never deleted: a lost store must not kill what runs."""
    engine = Judged()
    engine.run(300, "app.test.unknown.test")
    assert engine.stale == []
    assert kinds(engine.node).count("orphan") == 1


def test_same_list_twice_counts_once() -> None:
    """The runtime 'runc' repeats the list of docker, every entry labelled docker."""
    engine = Judged("C")
    assert lists.lists_per_period(engine.node) == 2
    engine.running()
    version = engine.instance().version
    engine.run(60, NAME)
    assert engine.instance().version == version


def test_entry_that_was_listed_before_the_deploy_is_an_older_copy() -> None:
    """A container that was there before does not make a new placement RUNNING."""
    engine = Judged()
    engine.run(4, NAME)
    engine.deploy()
    engine.run(30, NAME)
    assert engine.instance().state is S.SCHEDULED


def test_hundred_lists_change_nothing_that_would_be_saved() -> None:
    """Lists every 2 s of what runs anyway leave no record dirty."""
    engine = Judged()
    engine.running()
    engine.run(4, NAME)
    engine.state.take_dirty()
    engine.run(200, NAME)
    assert not engine.state.dirty


@pytest.mark.parametrize("generation", ["A", "C"])
def test_restart_of_the_manager_confirms_nothing_by_a_first_silence(generation: str) -> None:
    """A fresh manager knows no list yet: nothing is absent before every runtime has spoken twice."""
    engine = Judged(generation)
    engine.running()
    engine.run(4, NAME)
    live = engine.state.live[engine.node_id]
    live.listing = type(live.listing)()
    engine.wait(300)
    engine.send_lists()
    engine.send_lists()
    assert engine.instance().state is S.RUNNING


def test_copy_that_was_replaced_during_an_outage_is_deleted_on_return() -> None:
    """A frozen broker is noticed by the engine after 43 s only: meanwhile its service was placed elsewhere."""
    engine = Judged("C")
    engine.running()
    engine.run(4, NAME)
    engine.go_down()
    other = engine.state.register(parse_registration({**engine.facts, "host": "worker-2"}), engine.now_ms)
    engine.state.set_node_state(other.id, NodeState.READY, "", engine.now_ms)
    assert engine.state.place(JOB, other.id, engine.now_ms) == ""
    engine.wait(45)
    engine.hear()
    engine.run(20, NAME)
    assert {(effect.verb, effect.node_id) for effect in engine.stale} == {(Verb.DELETE, engine.node_id)}
    assert len(engine.stale) <= 2
    assert engine.instance().node_id == other.id


def test_copy_that_nobody_replaced_goes_on_after_an_outage() -> None:
    """Healthy workloads are never restarted by a reconnect; a burst of old lists proves nothing yet."""
    engine = Judged("C")
    engine.running(on_disconnect="keep")
    engine.run(4, NAME)
    engine.go_down()
    engine.wait(45)
    engine.hear()
    engine.send_lists(NAME)
    assert engine.instance().state is S.UNKNOWN
    engine.run(4, NAME)
    assert engine.instance().state is S.RUNNING
    assert (engine.stale, engine.repeats) == ([], [])
