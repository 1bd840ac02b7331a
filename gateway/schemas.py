"""The shapes of requests and answers, for the OpenAPI description and for tests; answers are not validated per request.

Job documents are `cluster.documents.JobDocument`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

JOB_EXAMPLE: Final = {
    "name": "web",
    "image": "docker.io/library/nginx:1.27",
    "technology": "docker",
    "port": "8080:80/tcp",
    "vcpus": 0.5,
    "memory": 100,
    "environment": ["GREETING=hello"],
}
REGISTRATION_EXAMPLE: Final = {"id": "", "name": "edge-1", "ip": "192.168.1.20", "port": "3000"}
MOVE_EXAMPLE: Final = {"job": "65f1a3b2c4d5e6f708192a3b", "node_from": "edge-1", "node_to": "edge-2"}
REPLICATE_EXAMPLE: Final = {"job": "65f1a3b2c4d5e6f708192a3b", "int_replicas": 3}
_NODE_ID: Final = "65f1a3b2c4d5e6f708192a01"
_JOB_ID: Final = "65f1a3b2c4d5e6f708192a3b"


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Problem(BaseModel):
    """Any answer from 400 up (RFC 9457). `reason` is a stable word for programs, `field` what was wrong."""

    type: str = Field(examples=["urn:cluster:problem:invalid_input"])
    title: str = Field(examples=["Invalid input"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["unknown technology 'jvm'; use one of docker, unikernel, wasm"])
    reason: str = Field(examples=["invalid_input"])
    field: str = Field(examples=["technology"])


class Registration(BaseModel):
    """A node's registration: the documented `{id, name, ip, port}`, or an engine's body with `host`."""

    id: str | int | None = Field(default=None, description="empty or absent at a first registration")
    name: str | int | None = Field(default=None, description="name of the machine; engines send `host` instead")
    host: str | None = Field(default=None, description="an engine's name of the machine")
    ip: str = Field(description="a literal IPv4 or IPv6 address")
    port: str | int = Field(description="port of the node's local HTTP, 1..65535")


class Registered(_Schema):
    """What a node needs to know."""

    id: str = Field(description="24 hex digits", examples=[_NODE_ID])
    mqtt_broker_port: str = Field(alias="MQTT_BROKER_PORT", description="a string", examples=["10003"])
    cluster_id: str = Field(examples=["65f1a3b2c4d5e6f7081920cc"])


class Ok(_Schema):
    """It is saved."""

    status: Literal["ok"] = Field(examples=["ok"])


class ScheduledJob(_Schema):
    """The job of a scheduling answer."""

    image: str = Field(examples=["docker.io/library/nginx:1.27"])


class Reason(_Schema):
    """How many nodes a reason ruled out."""

    count: int = Field(examples=[2])
    detail: str = Field(examples=["edge-1 lacks 50 MB of memory"])


class Schedule(_Schema):
    """The workers that were chosen, one per replica. `reasons` is there where some replica found none."""

    workers: list[str] = Field(examples=[[_NODE_ID]])
    job: ScheduledJob
    reasons: dict[str, Reason] | None = None


class Move(BaseModel):
    """Move an instance of a job from a node to another."""

    job: str | int | dict[str, Any] = Field(description="the job's id, or its document with `_id`")
    node_from: str | int = Field(description="id, alias or name of the node that it runs on")
    node_to: str | int | None = Field(default=None, description="the node to move to; without it the scheduler chooses")
    instance_number: int | None = Field(default=None, description="needed where the job has several on `node_from`")


class Replicate(BaseModel):
    """Set the number of instances of a job."""

    job: str | int | dict[str, Any] = Field(description="the job's id, or its document with `_id`")
    int_replicas: int = Field(ge=0, description="the wanted number of instances")


class Amounts(_Schema):
    """Amounts; null is unknown."""

    cpu_millicores: int | None = Field(examples=[4000])
    memory_bytes: int | None = Field(examples=[8589934592])
    storage_bytes: int | None = Field(examples=[None])
    gpus: int | None = Field(examples=[0])


class NodeUsage(_Schema):
    """What a node last measured."""

    cpu_percent: float = Field(examples=[12.5])
    memory_percent: float = Field(examples=[40.0])
    memory_free_bytes: int | None = Field(examples=[5153960755])


class Node(_Schema):
    """A machine of the cluster."""

    id: str = Field(examples=[_NODE_ID])
    name: str = Field(examples=["edge-1"])
    state: str = Field(description="REGISTERED, READY, SUSPECT or DOWN", examples=["READY"])
    detail: str = Field(examples=["its telemetry arrives"])
    is_cordoned: bool
    ip: str = Field(examples=["192.168.1.20"])
    port: int = Field(examples=[3000])
    dialect: str = Field(description="seed, worker, engine_a or engine_c", examples=["worker"])
    technologies: list[str] = Field(examples=[["docker", "wasm"]])
    architecture: str = Field(examples=["amd64"])
    addons: list[str] = Field(examples=[[]])
    csi_drivers: list[str] = Field(examples=[[]])
    capacity: Amounts
    allocated: Amounts
    usage: NodeUsage | None
    instance_count: int = Field(examples=[1])
    heartbeat_at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    registered_at: str | None = Field(examples=["2026-01-31T11:00:00.000Z"])
    topic_id: str = Field(description="the id under which its telemetry arrives", examples=[_NODE_ID])
    given_id: str = Field(description="the id that it registered with")


class Event(_Schema):
    """An entry of the history."""

    id: int = Field(examples=[1769860800000000])
    at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    actor: str = Field(examples=["scheduler"])
    subject: str = Field(examples=["instance:65f1a3b2c4d5e6f708192a3b/0"])
    kind: str = Field(examples=["placed"])
    state: str = Field(examples=["SCHEDULED"])
    cause: str = Field(examples=["least allocated of 3 nodes that fit"])
    job_id: str = Field(examples=[_JOB_ID])
    instance_number: int | None = Field(examples=[0])
    node_id: str = Field(examples=[_NODE_ID])


class Orphan(_Schema):
    """A copy that runs on a node and is not known to the cluster: left alone until it is adopted or ended."""

    job_name: str = Field(examples=["web"])
    instance_number: int = Field(examples=[0])
    technology: str = Field(examples=["docker"])
    status: str = Field(description="the node's own word; empty: not told", examples=["RUNNING"])
    job_id: str = Field(description="empty: not told", examples=[_JOB_ID])
    generation: int | None = Field(examples=[1769860800000])


class NodeDetail(Node):
    """A node with its last events, oldest first, and what runs there unknown to the cluster."""

    events: list[Event]
    orphans: list[Orphan]


class Placement(_Schema):
    """An instance on a node."""

    role: str = Field(description="CURRENT, SUCCESSOR or RETIRING", examples=["CURRENT"])
    node_id: str = Field(examples=[_NODE_ID])
    generation: int = Field(examples=[1769860800000])
    state: str = Field(examples=["RUNNING"])
    since: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])


class Refusal(_Schema):
    """How many nodes a reason ruled out."""

    reason: str = Field(examples=["memory"])
    node_count: int = Field(examples=[1])
    detail: str = Field(examples=["needs 100 MiB; edge-2 has 50 MiB free of 512 MiB"])


class InstanceUsage(_Schema):
    """What a worker measured of an instance."""

    cpu_percent: float = Field(examples=[3.5])
    memory_bytes: int = Field(examples=[52428800])
    disk_bytes: int = Field(examples=[1048576])


class Instance(_Schema):
    """A numbered copy of a job."""

    id: str = Field(description="JOB_ID/NUMBER", examples=["65f1a3b2c4d5e6f708192a3b/0"])
    job_id: str = Field(examples=[_JOB_ID])
    job_name: str = Field(examples=["web"])
    instance_number: int = Field(examples=[0])
    node_id: str = Field(description="node of the current placement; empty: none", examples=[_NODE_ID])
    state: str = Field(examples=["RUNNING"])
    detail: str = Field(examples=["its worker reports that it runs"])
    is_desired: bool = Field(examples=[True])
    technology: str = Field(examples=["docker"])
    image: str = Field(examples=["docker.io/library/nginx:1.27"])
    placements: list[Placement]
    refusals: list[Refusal] = Field(description="why no node could take it, while it is PENDING", examples=[[]])
    attempts: int = Field(description="failed ones in a row", examples=[0])
    restarts: int = Field(
        description="how often its worker started the present copy again, and it was placed anew after a failure",
        examples=[0],
    )
    retry_at: str | None = Field(examples=[None])
    exit_code: int | None = Field(examples=[None])
    usage: InstanceUsage | None
    created_at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    updated_at: str | None = Field(examples=["2026-01-31T12:00:01.000Z"])
    version: int = Field(examples=[4])


class InstanceDetail(Instance):
    """An instance with its specification as a job document, and its history, oldest first."""

    spec: dict[str, Any] | None = Field(examples=[JOB_EXAMPLE])
    events: list[Event]


class Update(_Schema):
    """The progress of a rolling update."""

    state: str = Field(examples=["rolling"])
    updated_count: int = Field(examples=[1])
    total_count: int = Field(examples=[3])
    detail: str = Field(examples=["2 of 3 instances still run the old specification"])


class Job(_Schema):
    """A job of the cluster."""

    id: str = Field(examples=[_JOB_ID])
    name: str = Field(examples=["web"])
    image: str = Field(examples=["docker.io/library/nginx:1.27"])
    technology: str = Field(examples=["docker"])
    state: str = Field(
        description="that of the instance furthest from RUNNING; STOPPED where there is none", examples=["RUNNING"]
    )
    instance_count: int = Field(examples=[1])
    running_count: int = Field(examples=[1])
    created_at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    update: Update | None = Field(examples=[None])
    is_deleted: bool = Field(description="its name means it no longer; it is remembered for a while", examples=[False])


class JobDetail(Job):
    """A job with its specification as a job document, and its instances."""

    spec: dict[str, Any] = Field(examples=[JOB_EXAMPLE])
    instances: list[Instance]


class _Page(_Schema):
    next_page_token: str = Field(description="empty on the last page")


class Nodes(_Page):
    """A page of nodes."""

    nodes: list[Node]


class Jobs(_Page):
    """A page of jobs."""

    jobs: list[Job]


class Instances(_Page):
    """A page of instances."""

    instances: list[Instance]


class Events(_Page):
    """A page of the history, newest first."""

    events: list[Event]


class Verdict(_Schema):
    """What the scheduler thinks of a node."""

    node_id: str = Field(examples=[_NODE_ID])
    reasons: list[str] = Field(examples=[["memory"]])
    score: float
    shortfall: str = Field(examples=["needs 100 MiB; edge-2 has 50 MiB free of 512 MiB"])


class Planning(_Schema):
    """What the scheduler thinks of a job now."""

    node_count: int = Field(examples=[1])
    fitting_count: int = Field(examples=[0])
    refusals: list[Refusal]
    nearest: Verdict | None
    smallest_change: str = Field(examples=["edge-2 would fit: lower the memory demand by 50 MiB"])
    verdicts: list[Verdict]


class Explanation(_Schema):
    """Why an instance is where it is; `planning` is null while the scheduler is away."""

    instance: InstanceDetail
    summary: str = Field(examples=["web (65f1…/0) is PENDING: no node can take it. …"])
    planning: Planning | None


class Moved(Ok):
    """The move has begun."""

    instance: Instance


class Replicated(Ok):
    """The instances that should run."""

    instances: list[Instance]


class Orphaned(Ok):
    """The instances that the orphans have become."""

    instances: list[Instance]


class Ready(Ok):
    """The cluster is ready."""

    cluster_name: str = Field(examples=["factory-1"])
    cluster_id: str = Field(examples=["65f1a3b2c4d5e6f7081920cc"])


class Part(_Schema):
    """A part that the manager needs."""

    name: str = Field(examples=["broker"])
    is_ready: bool = Field(examples=[True])
    detail: str = Field(description="what is wrong, where it is not ready")


class WaitedFor(_Schema):
    """Silent nodes of which nothing is placed anew yet; `left_s` null: until another is READY, or there are none."""

    count: int = Field(examples=[0])
    cause: str = Field(examples=["5 of 10 nodes fell silent together"])
    left_s: float | None = Field(examples=[118.5])
    node_ids: list[str]


class ClusterStatus(_Schema):
    """How the cluster stands."""

    cluster_name: str = Field(examples=["factory-1"])
    cluster_id: str = Field(examples=["65f1a3b2c4d5e6f7081920cc"])
    connected_to_root: bool = Field(examples=[True])
    version: str = Field(examples=["0.1.0"])
    parts: list[Part]
    nodes: dict[str, int] = Field(examples=[{"READY": 2}])
    instances: dict[str, int] = Field(examples=[{"RUNNING": 5}])
    counters: dict[str, int] = Field(examples=[{"mqtt_telemetry": 4711}])
    waited_for: WaitedFor
    quarantined: list[str] = Field(examples=[["job 65f1a3b2c4d5e6f7081920cc"]])
    unsendable: list[str] = Field(examples=[["65f1a3b2c4d5e6f7081920cc/0"]])
