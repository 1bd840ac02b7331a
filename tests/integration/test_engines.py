"""Unmodified worker engines of generations A to D on a real gateway, manager, scheduler and broker."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from standins.engines.generations import GENERATIONS, recorded
from standins.engines.scene import SCALE, Scene, scene
from testbed.waiting import wait_until

pytestmark = pytest.mark.real("mosquitto")
ALL = list(GENERATIONS)


@pytest.fixture(name="stage", scope="module")
def _stage() -> Iterator[Scene]:
    """One cluster for all tests of this module; each brings engines of its own."""
    with scene() as played:
        yield played


def register(stage: Scene, body: dict[str, Any]) -> dict[str, Any]:
    """POST /api/node/register."""
    answer = stage.cluster.http.request("POST", "/api/node/register", body)
    assert answer.status == 200, answer
    return dict(answer.json)


def test_registration_is_answered_as_engines_parse_it(stage: Scene) -> None:
    """HTTP 200 exactly, `id` of 24 hex digits and `MQTT_BROKER_PORT`, both texts."""
    bodies = {generation: recorded(generation, "register")["payload"] for generation in ("A", "C")}
    for host, body in (("plain-a", bodies["A"]), ("plain-c", bodies["C"]), ("loopback", {**bodies["A"], "ip": ""})):
        answer = register(stage, {**body, "host": host})
        assert re.fullmatch("[0-9a-f]{24}", answer["id"])
        assert answer["MQTT_BROKER_PORT"] == str(stage.cluster.ports["broker"])


@pytest.mark.parametrize("generation", ALL)
def test_engine_registers_reports_runs_and_stops_a_job(stage: Scene, generation: str) -> None:
    """The whole life of a job on each generation, with one deploy and one delete."""
    engine = stage.add(generation)
    job_id = stage.run(engine, vcpus=0.5, memory=10.5, port="8080:80/tcp")
    assert stage.copies(job_id) == [engine.host]
    node = stage.node(engine)
    assert (node["architecture"], node["technologies"], node["ip"]) == ("amd64", ["docker"], "192.0.2.2")
    stage.delete(job_id)
    stage.wait_for(job_id, "STOPPED")
    assert stage.copies(job_id) == []
    assert [stage.commands(engine, verb, job_id) for verb in ("deploy", "delete")] == [1, 1]
    stage.retire(engine)


@pytest.mark.parametrize("generation", ALL)
def test_one_shot_ends_once(stage: Scene, generation: str) -> None:
    """Exit code 0 completes it; exit code 3 fails it, with the code where the engine tells it; neither runs again."""
    engine = stage.add(generation)
    engine.says_dead_first = generation == "A"
    done = stage.deploy(engine, one_shot=True, cmd=["exit", "0"])
    failed = stage.deploy(engine, one_shot=True, cmd=["exit", "3", "0.2"])
    stage.wait_for(done, "COMPLETED")
    ended = stage.wait_for(failed, "FAILED")
    assert ended["exit_code"] == (3 if generation in "AB" else None)
    assert set(engine.containerd.starts.values()) == {1}
    stage.retire(engine)


def test_service_that_exits_is_started_again(stage: Scene) -> None:
    """DEAD with a stale detail of a service: placed again, on the same engine only after the fence."""
    engine = stage.add("C")
    job_id = stage.deploy(engine, cmd=["exit", "1", "0.1"])
    wait_until(lambda: engine.containerd.starts[f"app.test.s{int(job_id, 16)}.test.instance.0"] >= 2)
    assert not any("already exists" in said.detail for said in engine.said)
    stage.delete(job_id)
    stage.wait_for(job_id, "STOPPED")
    stage.retire(engine)


def test_slow_deletes_of_a_are_tolerated_without_storms(stage: Scene) -> None:
    """Four deletes queue up for four waits; each is sent once or twice, and a deploy waits behind them."""
    engine = stage.add("A")
    jobs = [stage.run(engine) for _ in range(4)]
    for job_id in jobs:
        stage.delete(job_id)
    late = stage.run(engine)
    for job_id in jobs:
        stage.wait_for(job_id, "STOPPED")
        assert stage.commands(engine, "delete", job_id) <= 2
    assert stage.copies(late) == [engine.host]
    stage.retire(engine)


@pytest.mark.parametrize("generation", ALL)
def test_delete_during_a_pull_wins_in_the_end(stage: Scene, generation: str) -> None:
    """It is lost silently; the container that then starts is deleted all the same."""
    engine = stage.add(generation)
    job_id = stage.deploy(engine, image="docker.io/local/slow:1")
    wait_until(lambda: stage.commands(engine, "deploy", job_id), what="the deploy arrived")
    stage.delete(job_id)
    stage.wait_for(job_id, "STOPPED")
    wait_until(lambda: not engine.starting and not engine.known, what="nothing of it is left")
    assert stage.commands(engine, "delete", job_id) >= 2
    stage.retire(engine)


@pytest.mark.parametrize("generation", ["A", "C"])
def test_deploy_right_behind_a_delete_waits(stage: Scene, generation: str) -> None:
    """The same instance comes back on the same engine and is never refused because of its predecessor."""
    engine = stage.add(generation)
    job_id = stage.run(engine)
    stage.delete(job_id)
    stage.deploy(engine, job_id=job_id, environment=["SECOND=1"])
    stage.wait_for(job_id, "RUNNING")
    assert stage.copies(job_id) == [engine.host]
    assert not [said for said in engine.said if said.status == "FAILED"]
    stage.retire(engine)


@pytest.mark.parametrize("generation", ALL)
def test_sigkilled_engine_that_registers_again_gets_its_services_back(stage: Scene, generation: str) -> None:
    """Its containers were removed at its start: services start anew, a one-shot that ran is reported and left."""
    engine = stage.add(generation)
    service = stage.run(engine)
    one_shot = stage.run(engine, one_shot=True, cmd=["exit", "0", "1000"])
    engine.sigkill()
    assert len(engine.containerd.running()) == 2
    node_id = engine.id
    engine.start()
    assert engine.id == node_id
    assert engine.containerd.running() == []
    lost = stage.wait_for(one_shot, "LOST")
    assert "outcome is unknown" in lost["detail"]
    wait_until(lambda: stage.copies(service) == [engine.host], what="the service runs again")
    stage.wait_for(service, "RUNNING")
    assert stage.copies(one_shot) == []
    stage.retire(engine)


@pytest.mark.parametrize("generation", ["A", "C"])
def test_services_of_a_terminated_engine_move_to_another(stage: Scene, generation: str) -> None:
    """SIGTERM says DEAD of every container."""
    first, second = stage.add(generation), stage.add("D")
    job_id = stage.deploy(constraints=[{"type": "direct", "node": f"{first.host};{second.host}"}])
    stage.wait_for(job_id, "RUNNING")
    home = stage.engines[stage.copies(job_id)[0]]
    home.sigterm()
    other = second if home is first else first
    wait_until(lambda: stage.copies(job_id) == [other.host], what="it runs on the other one")
    stage.retire(first)
    stage.retire(second)


@pytest.mark.parametrize("generation", ["A", "C"])
def test_zombie_is_shown_and_its_instance_runs_elsewhere(stage: Scene, generation: str) -> None:
    """After a containerd restart the old copy stays for ever: shown at its node, and another node has the instance."""
    first, second = stage.add(generation), stage.add(generation)
    job_id = stage.deploy(constraints=[{"type": "direct", "node": f"{first.host};{second.host}"}])
    stage.wait_for(job_id, "RUNNING")
    home = stage.engines[stage.copies(job_id)[0]]
    other = second if home is first else first
    home.restart_containerd()
    wait_until(lambda: other.host in stage.copies(job_id), what="it runs on the other one")
    node = wait_until(lambda: found if "stays listed" in (found := stage.node(home))["detail"] else None)
    assert "zombie" in [event["kind"] for event in node["events"]]
    assert stage.wait_for(job_id, "RUNNING")["node_id"] == other.id
    stage.retire(first)
    stage.retire(second)


def test_unknown_node_gets_control_error_and_is_shown_as_an_orphan(stage: Scene) -> None:
    """Telemetry of an id that never registered: told so on control/error, in events and counters, and no ghost node."""
    engine = stage.add("C")
    ghost = "ffffffffffffffffffffffff"
    heard: list[bytes] = []
    assert engine._client is not None
    engine._client.message_callback_add(f"nodes/{ghost}/control/error", lambda *facts: heard.append(facts[2].payload))
    engine._client.subscribe(f"nodes/{ghost}/control/error", 1)
    before = len(stage.cluster.http.get("/api/nodes")["nodes"])
    for topic in (f"nodes/{ghost}/information", "nodes//information", f"nodes/{ghost}/jobs/resources"):
        engine._client.publish(topic, json.dumps(engine.information()), qos=1)
    wait_until(lambda: heard, what="control/error")
    assert json.loads(heard[0]) == {"message": "Node not registered to the cluster"}
    events = stage.cluster.http.get("/api/events?page_size=50")["events"]
    assert any(event["kind"] == "unknown_node" and event["node_id"] == ghost for event in events)
    assert len(stage.cluster.http.get("/api/nodes")["nodes"]) == before
    stage.retire(engine)


def test_two_engines_with_one_host_name_are_told_apart(stage: Scene) -> None:
    """They share an id and throw each other off the broker: the node's detail says what to do."""
    first = stage.add("A", "twin")
    second = GENERATIONS["C"](stage.cluster.ports["gateway"], "twin", timing=first.timing, ip="192.0.2.99")
    second.start()
    node = wait_until(lambda: found if "two machines" in (found := stage.node(first))["detail"] else None)
    assert "give one of them another host name" in node["detail"]
    second.sigkill()
    stage.retire(first)


def test_name_that_no_container_can_have_is_pending_with_the_reason(stage: Scene) -> None:
    """66 characters run on no engine, 60 on the newer ones only; the instance says why."""
    older, newer = stage.add("A"), stage.add("C")
    both = [{"type": "direct", "node": f"{older.host};{newer.host}"}]
    never = stage.deploy(job_name="x" * 66, constraints=both)
    pending = stage.wait_for(never, "PENDING")
    assert "nodes cannot take a container of that name" in pending["detail"]
    assert "has 77 characters" in pending["detail"]
    explained = stage.cluster.http.get(f"/api/instances/{never}/0/explain")
    assert "nodes cannot take a container of that name" in explained["summary"]
    stage.run(job_name="y" * 60, constraints=both)
    assert any("y" * 60 in name for name in newer.containerd.running())
    stage.delete(never)
    stage.retire(older)
    stage.retire(newer)


def test_constraints_of_descriptors_are_judged_by_what_engines_announce(stage: Scene) -> None:
    """Add-ons, CSI drivers, GPUs, architecture and runtimes pick the one engine that has them all."""
    drivers = [{"csi_driver_name": "nfs.csi", "csi_driver_endpoint": "unix:///x"}]
    facts = {"supported_addons": ["gpu-x"], "csi_drivers": drivers, "vgpus": 1, "architecture": "arm64"}
    rich = stage.add("C", "rich", **facts)
    plain = stage.add("D", "plain")
    volume = {"volume_id": "v", "csi_driver": "nfs.csi", "mount_path": "/d", "config": {"n": 1}}
    wanted: list[dict[str, Any]] = [
        {"constraints": [{"type": "addons", "needs": ["gpu-x"]}]},
        {"volumes": [volume]},
        {"vgpus": 1},
        {"arch": ["arm64"]},
    ]
    for asked in wanted:
        job_id = stage.run(**asked)
        assert stage.copies(job_id) == ["rich"]
        stage.delete(job_id)
        stage.wait_for(job_id, "STOPPED")
    missing = stage.deploy(plain, vgpus=1)
    stage.wait_for(missing, "PENDING")
    unikernel = stage.deploy(technology="unikernel", image="http://registry/uk.tar.gz", cmd=[])
    stage.wait_for(unikernel, "PENDING")
    for job_id in (missing, unikernel):
        stage.delete(job_id)
    stage.retire(rich)
    stage.retire(plain)


def test_unikernel_whose_image_answers_404_is_not_sent(stage: Scene) -> None:
    """The engine would panic; the instance fails with the reason instead, and the engine lives on."""
    engine = stage.add("C", virtualization=["docker", "unikernel"])
    url = f"http://127.0.0.1:{stage.cluster.ports['gateway']}/missing.tar.gz"
    job_id = stage.deploy(engine, technology="unikernel", image=url, cmd=[])
    failed = wait_until(lambda: found if "404" in (found := stage.instance(job_id))["detail"] else None)
    assert f"{url} answers 404" in failed["detail"]
    assert (engine.crashes, stage.commands(engine, "deploy", job_id)) == ([], 0)
    stage.delete(job_id)
    stage.wait_for(job_id, "STOPPED")
    stage.retire(engine)


def test_move_between_generations_makes_before_it_breaks(stage: Scene) -> None:
    """The copy on the newer engine runs before the one on the older engine is deleted."""
    older, newer = stage.add("A"), stage.add("D")
    job_id = stage.deploy(constraints=[{"type": "direct", "node": f"{older.host};{newer.host}"}])
    stage.wait_for(job_id, "RUNNING")
    source = stage.engines[stage.copies(job_id)[0]]
    target = newer if source is older else older
    body = {"job": job_id, "node_from": source.id, "node_to": target.id}
    assert stage.cluster.http.insist("POST", "/api/move/", body).status == 200
    wait_until(lambda: stage.copies(job_id) == [target.host], what="it moved")
    assert stage.instance(job_id)["state"] == "RUNNING"
    stage.retire(older)
    stage.retire(newer)


def test_changed_specification_waits_for_the_old_copy(stage: Scene) -> None:
    """On the only engine the new copy starts once the old one is gone and its fence is over."""
    engine = stage.add("B")
    job_id = stage.run(engine)
    stage.deploy(engine, job_id=job_id, environment=["SECOND=1"])
    wait_until(lambda: stage.commands(engine, "deploy", job_id) == 2, what="the second deploy")
    stage.wait_for(job_id, "RUNNING")
    assert json.loads(engine.heard[-1][1])["environment"] == ["SECOND=1"]
    assert not [said for said in engine.said if said.status == "FAILED"]
    stage.retire(engine)


def test_unikernels_and_extra_runtimes_list_apart(stage: Scene) -> None:
    """Three lists per period, two of them alike: nothing is lost, a unikernel's slow delete is waited for."""
    engine = stage.add("C", virtualization=["runc", "docker", "unikernel"])
    container = stage.run(engine)
    unikernel = stage.run(engine, technology="unikernel", image="http://registry/uk.tar.gz", cmd=[])
    wait_until(lambda: stage.node(engine)["usage"], what="telemetry")
    stage.delete(unikernel)
    stage.wait_for(unikernel, "STOPPED")
    assert stage.instance(container)["state"] == "RUNNING"
    assert engine.containerd.starts.total() == 2
    stage.retire(engine)


def test_connection_that_breaks_costs_nothing(stage: Scene) -> None:
    """The backlog arrives in random order; a deploy of that time arrives in the end, and nothing is started twice."""
    engine = stage.add("A")
    jobs = [stage.run(engine) for _ in range(3)]
    engine.break_connection()
    jobs += [stage.deploy(engine) for _ in range(3)]
    for job_id in jobs:
        stage.wait_for(job_id, "RUNNING")
    assert set(engine.containerd.starts.values()) == {1}
    stage.retire(engine)


def test_engines_outlive_a_restart_of_broker_and_manager() -> None:
    """The broker is killed, a deploy is ordered meanwhile, the manager is killed: all runs once in the end."""
    with scene() as stage:
        engines = [stage.add(generation) for generation in ALL]
        jobs = [stage.run(engine) for engine in engines]
        stage.cluster.kill("broker")
        jobs += [stage.deploy(engine) for engine in engines]
        stage.cluster.start_part("broker")
        stage.cluster.kill("manager")
        stage.cluster.start_part("manager")
        stage.cluster.wait_until_ready()
        for job_id in jobs:
            stage.wait_for(job_id, "RUNNING")
            assert len(stage.copies(job_id)) == 1
        assert {count for engine in engines for count in engine.containerd.starts.values()} == {1}


def test_id_of_a_host_name_survives_the_loss_of_the_database() -> None:
    """A running engine never registers again: with a fresh store its next start gets the id that it had."""
    with scene() as stage:
        engine = stage.add("C")
        node_id = engine.id
        stage.cluster.kill("manager")
        for path in stage.cluster.folder.glob("cluster.db*"):
            path.unlink()
        stage.cluster.start_part("manager")
        stage.cluster.wait_until_ready()
        assert stage.cluster.node(engine.host) == {}
        engine.sigkill()
        engine.start()
        stage.cluster.wait_until_node_is(engine.host, "READY")
        assert engine.id == node_id
        with closing(sqlite3.connect(stage.cluster.folder / "cluster.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert SCALE < 1


@pytest.mark.parametrize("generation", ALL)
def test_6_logs_are_what_the_engine_tells_or_where_it_keeps_them(stage: Scene, generation: str) -> None:
    """The newer engines send a container's last words; of the older ones machine and container are named."""
    engine = stage.add(generation, LogDirectory="/var/log/engine") if generation in "CD" else stage.add(generation)
    job_id = stage.run(engine)
    path = f"/api/instances/{job_id}/0/logs"
    if "logs" in engine.lists()[0][0]:
        wait_until(lambda: stage.cluster.http.request("GET", path).status == 200, what="its last words are here")
        assert stage.cluster.http.request("GET", path).text.strip()
    else:
        answer = stage.cluster.http.request("GET", path)
        assert answer.status == 404
        assert engine.host in answer.json["detail"]
        assert ".instance.0" in answer.json["detail"]
    stage.delete(job_id)
    stage.wait_for(job_id, "STOPPED")
    stage.retire(engine)


def test_6_runtimes_that_no_job_may_name_are_not_listed(stage: Scene) -> None:
    """An engine's `runc` and `crosvm` are its own business."""
    engine = stage.add("C", virtualization=["docker", "runc", "crosvm"])
    assert stage.node(engine)["technologies"] == ["docker"]
    stage.retire(engine)


@pytest.mark.parametrize("generation", ["A", "C"])
def test_6_short_image_names_reach_an_engine_in_full(stage: Scene, generation: str) -> None:
    """containerd knows no short names."""
    engine = stage.add(generation)
    job_id = stage.run(engine, image="demo/web:1.0")
    [deploy] = [json.loads(payload) for verb, payload in engine.heard if verb == "deploy"]
    assert deploy["image"] == "docker.io/demo/web:1.0"
    stage.delete(job_id)
    stage.wait_for(job_id, "STOPPED")
    stage.retire(engine)


def test_6_deletes_on_an_older_engine_go_out_one_by_one_and_say_so(stage: Scene) -> None:
    """Six deletes at once: each is told once, and those that wait say for whom."""
    engine = stage.add("A")
    jobs = [stage.run(engine) for _ in range(6)]
    for job_id in jobs:
        stage.delete(job_id)
    details = [stage.instance(job_id)["detail"] for job_id in jobs]
    assert any("one after the other" in detail for detail in details)
    explained = [stage.cluster.http.get(f"/api/instances/{job_id}/0/explain")["summary"] for job_id in jobs]
    assert any("one after the other" in text for text in explained) or stage.instance(jobs[-1])["state"] == "STOPPED"
    for job_id in jobs:
        stage.wait_for(job_id, "STOPPED")
        assert stage.commands(engine, "delete", job_id) == 1
    stage.retire(engine)
