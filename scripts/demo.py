"""`make demo`: a real cluster comes up, runs jobs, and goes away again; exit status 0 only if all of it was seen."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
import urllib.request
from typing import Any

from demo_cluster import Cluster, DemoError, until
from demo_jobs import DemoJob, container_job, unikernel_job, wasm_job

_STARTED = time.monotonic()
_NOT_OFFERED = "does not offer this yet"


def say(text: str) -> None:
    """One step: what is done, or what came back."""
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {text}", flush=True)


def pass_on(line: str) -> None:
    """A line of the cluster's own."""
    print(f"          | {line}", flush=True)


class Demo:
    """The story, step after step; each raises DemoError when it is not seen true."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.nodes: dict[str, dict[str, Any]] = {}

    def bring_up(self) -> None:
        """The cluster is ready and has two workers."""
        say("a cluster comes up on this machine: clusterctl up --workers 2")
        self.cluster.start()
        until(self.cluster.is_ready, 30, "the gateway answers GET /status with 200")
        say("GET /status -> 200: store, broker and scheduler are ready")
        self.cluster.listen()
        self.nodes = until(self._ready_nodes, 20, "two nodes are READY")
        for node in self.nodes.values():
            runs = ", ".join(node.get("technologies", []))
            say(f"worker {node['name']} joined as node {node['id']} and can run {runs}")

    def run(self, job: DemoJob) -> str:
        """The job arrives over HTTP, is placed, commanded, runs and answers; returns its id."""
        job_id = secrets.token_hex(12)
        document = {"_id": job_id, "job_name": job.name, **job.document}
        say(f"-- {job.document['technology']}: a job arrives: POST /api/deploy/{job_id}/0 {_short(document)}")
        self._expect_ok("POST", f"/api/deploy/{job_id}/0", document)
        topic, command = self.cluster.heard("deploy", job_id)
        node = self._node_of_topic(topic)
        say(f"the scheduler planned it over gRPC onto {node['name']}: {self._placing_event(job_id)}")
        say(f"commanded over MQTT on {topic}: {_short(command)}")
        until(lambda: self._state(job_id) == "RUNNING", 30, f"{job.name} is RUNNING")
        say(f"{job.name}/0 is RUNNING on {node['name']}")
        line = until(lambda: self._line_with(job_id, job.proof), 15, f"{job.proof!r} in its log")
        say(f"clusterctl logs {job.name}/0 -> {line!r}")
        if job.port:
            answer = until(lambda: _answer(node["ip"], job.port), 10, f"it answers on {node['ip']}:{job.port}")
            say(f"GET http://{node['ip']}:{job.port}/ -> {answer!r}")
        return job_id

    def move(self, job: DemoJob, job_id: str) -> None:
        """The job goes to the other worker, which runs it before the first one stops."""
        source = self.nodes[self._instance(job_id)["node_id"]]
        target = next(node for node in self.nodes.values() if node["id"] != source["id"])
        say(f"clusterctl move {job.name}/0 --to {target['name']} --wait")
        status, output, errors = self.cluster.ctl("move", f"{job_id}/0", "--to", target["id"], "--wait")
        if _NOT_OFFERED in errors:
            say("this manager does not move instances yet; left out")
            return
        if status != 0:
            raise DemoError(f"clusterctl move ended with {status}: {errors}")
        if self._instance(job_id)["node_id"] != target["id"]:
            raise DemoError(f"{job.name}/0 did not arrive on {target['name']}")
        say(f"moved: {output.splitlines()[-1]}, and left {source['name']} only then")

    def explain(self, job: DemoJob, job_id: str) -> None:
        """The cluster says why the job is where it is."""
        status, output, errors = self.cluster.ctl("explain", f"{job_id}/0", "--output", "json")
        if _NOT_OFFERED in errors:
            say("this manager does not explain yet; left out")
            return
        if status != 0:
            raise DemoError(f"clusterctl explain ended with {status}: {errors}")
        say(f"clusterctl explain {job.name}/0 -> {json.loads(output)['summary'].splitlines()[0]}")

    def delete(self, job: DemoJob, job_id: str) -> None:
        """The job is deleted over HTTP and its worker stops it."""
        say(f"GET /api/delete/{job_id}/0 (so the deployed roots delete)")
        topic = f"nodes/{self._instance(job_id)['node_id']}/controls"
        self._expect_ok("GET", f"/api/delete/{job_id}/0")
        self.cluster.heard("delete", job_id, topic)
        until(lambda: self._state(job_id) in ("STOPPED", ""), 20, f"{job.name} is STOPPED")
        say(f"delete went out on {topic}; {job.name}/0 is STOPPED and its place is free")

    def history(self, job: DemoJob, job_id: str) -> None:
        """What happened, with causes."""
        _, answer = self.cluster.http("GET", f"/api/events?job_id={job_id}&page_size=100")
        words = [event["kind"] for event in reversed(answer["events"]) if event["subject"].startswith("instance:")]
        if not words:
            raise DemoError("the history is empty")
        say(f"the history of {job.name}/0: {' -> '.join(words)}")

    def take_down(self) -> None:
        """Nothing is left."""
        say("Ctrl-C for the cluster")
        self.cluster.stop()
        until(lambda: not self.cluster.leftovers(), 10, f"everything is gone; left: {self.cluster.leftovers()}")
        say("no process and no port of it is left")

    def _expect_ok(self, method: str, path: str, body: object = None) -> None:
        status, answer = self.cluster.http(method, path, body)
        if (status, answer) != (200, {"status": "ok"}):
            raise DemoError(f"{method} {path} was answered with {status} {answer}")
        say(f'-> 200 {{"status": "ok"}}: {"saved, and it will run" if body else "saved"}')

    def _ready_nodes(self) -> dict[str, dict[str, Any]]:
        status, answer = self.cluster.http("GET", "/api/nodes")
        nodes = [node for node in answer["nodes"] if node["state"] == "READY"] if status == 200 else []
        return {node["id"]: node for node in nodes} if len(nodes) == 2 else {}

    def _node_of_topic(self, topic: str) -> dict[str, Any]:
        try:
            return self.nodes[topic.split("/")[1]]
        except KeyError:
            raise DemoError(f"a command went to {topic}, which is no node's topic") from None

    def _instance(self, job_id: str) -> dict[str, Any]:
        status, answer = self.cluster.http("GET", f"/api/instances?job_id={job_id}")
        return answer["instances"][0] if status == 200 and answer["instances"] else {}

    def _state(self, job_id: str) -> str:
        instance = self._instance(job_id)
        if instance.get("state") == "FAILED":
            raise DemoError(f"{instance['job_name']} failed: {instance['detail']}")
        return str(instance.get("state", ""))

    def _placing_event(self, job_id: str) -> str:
        _, answer = self.cluster.http("GET", f"/api/events?job_id={job_id}")
        events = [event for event in answer["events"] if event["node_id"]]
        if not events:
            raise DemoError("no event tells of the placement")
        return f"{events[-1]['kind']} by the {events[-1]['actor']} ({events[-1]['cause'] or 'no cause given'})"

    def _line_with(self, job_id: str, proof: str) -> str:
        _, output, _ = self.cluster.ctl("logs", f"{job_id}/0")
        return next((line for line in output.splitlines() if proof in line), "")


def _answer(ip: str, port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{ip}:{port}/", timeout=2) as response:
            return response.read().decode().strip()
    except OSError:
        return ""


def _short(document: dict[str, Any]) -> str:
    text = json.dumps(document)
    return text if len(text) <= 220 else f"{text[:220]}…"


def tell_story(demo: Demo, jobs: list[DemoJob]) -> None:
    """All steps in order."""
    demo.bring_up()
    ids = [(job, demo.run(job)) for job in jobs]
    demo.move(*ids[0])
    demo.explain(*ids[0])
    for job, job_id in ids:
        demo.delete(job, job_id)
    demo.history(*ids[0])
    demo.take_down()


def main() -> int:
    """Tell the story; 0 only if every step was seen true."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say("what this machine has")
    with container_job(say) as web:
        jobs = [job for job in (wasm_job(), web, unikernel_job(say)) if job]
        cluster = Cluster(web.environment if web else {}, pass_on)
        try:
            tell_story(Demo(cluster), jobs)
        except DemoError as error:
            say(f"FAILED: {error}")
            pass_on(cluster.last_logs())
            return 1
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        finally:
            cluster.stop()
            cluster.remove()
    ran = ", ".join(job.document["technology"] for job in jobs)
    say(f"done: what ran: {ran}; nothing is left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
