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

    cpu_percent: float
    memory_percent: float
    memory_free_bytes: int | None


class Node(_Schema):
    """A machine of the cluster."""

    id: str = Field(examples=[_NODE_ID])
    name: str = Field(examples=["edge-1"])
    state: str = Field(description="REGISTERED, READY, SUSPECT or DOWN", examples=["READY"])
    detail: str
    is_cordoned: bool
    ip: str = Field(examples=["192.168.1.20"])
    port: int = Field(examples=[3000])
    dialect: str = Field(description="seed, worker, engine_a or engine_c", examples=["worker"])
    technologies: list[str] = Field(examples=[["docker", "wasm"]])
    architecture: str = Field(examples=["amd64"])
    addons: list[str]
    csi_drivers: list[str]
    capacity: Amounts
    allocated: Amounts
    usage: NodeUsage | None
    instance_count: int
    heartbeat_at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    registered_at: str | None
    topic_id: str = Field(description="the id under which its telemetry arrives")
    given_id: str = Field(description="the id that it registered with")


class Event(_Schema):
    """An entry of the history."""

    id: int
    at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    actor: str = Field(examples=["root"])
    subject: str = Field(examples=["instance:65f1a3b2c4d5e6f708192a3b/0"])
    kind: str = Field(examples=["placed"])
    state: str = Field(examples=["SCHEDULED"])
    cause: str
    job_id: str
    instance_number: int | None
    node_id: str


class NodeDetail(Node):
    """A node with its last events, oldest first."""

    events: list[Event]


class Placement(_Schema):
    """An instance on a node."""

    role: str = Field(description="CURRENT, SUCCESSOR or RETIRING")
    node_id: str
    generation: int
    state: str
    since: str | None


class Refusal(_Schema):
    """How many nodes a reason ruled out."""

    reason: str = Field(examples=["memory"])
    node_count: int
    detail: str


class InstanceUsage(_Schema):
    """What a worker measured of an instance."""

    cpu_percent: float
    memory_bytes: int
    disk_bytes: int


class Instance(_Schema):
    """A numbered copy of a job."""

    id: str = Field(description="JOB_ID/NUMBER", examples=["65f1a3b2c4d5e6f708192a3b/0"])
    job_id: str
    job_name: str = Field(examples=["web"])
    instance_number: int
    node_id: str = Field(description="node of the current placement; empty: none")
    state: str = Field(examples=["RUNNING"])
    detail: str
    is_desired: bool
    technology: str
    image: str
    placements: list[Placement]
    refusals: list[Refusal]
    attempts: int
    retry_at: str | None
    exit_code: int | None
    usage: InstanceUsage | None
    created_at: str | None
    updated_at: str | None
    version: int


class InstanceDetail(Instance):
    """An instance with its specification as a job document, and its history, oldest first."""

    spec: dict[str, Any] | None
    events: list[Event]


class Update(_Schema):
    """The progress of a rolling update."""

    state: str
    updated_count: int
    total_count: int
    detail: str


class Job(_Schema):
    """A job of the cluster."""

    id: str
    name: str = Field(examples=["web"])
    image: str
    technology: str
    state: str = Field(description="that of the instance furthest from RUNNING")
    instance_count: int
    running_count: int
    created_at: str | None
    update: Update | None


class JobDetail(Job):
    """A job with its specification as a job document, and its instances."""

    spec: dict[str, Any]
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

    node_id: str
    reasons: list[str]
    score: float
    shortfall: str


class Planning(_Schema):
    """What the scheduler thinks of a job now."""

    node_count: int
    fitting_count: int
    refusals: list[Refusal]
    nearest: Verdict | None
    smallest_change: str
    verdicts: list[Verdict]


class Explanation(_Schema):
    """Why an instance is where it is; `planning` is null while the scheduler is away."""

    instance: InstanceDetail
    summary: str
    planning: Planning | None


class Moved(Ok):
    """The move has begun."""

    instance: Instance


class Replicated(Ok):
    """The instances that should run."""

    instances: list[Instance]


class Ready(Ok):
    """The cluster is ready."""

    cluster_name: str
    cluster_id: str


class Part(_Schema):
    """A part that the manager needs."""

    name: str = Field(examples=["broker"])
    is_ready: bool
    detail: str


class ClusterStatus(_Schema):
    """How the cluster stands."""

    cluster_name: str
    cluster_id: str
    connected_to_root: bool
    version: str
    parts: list[Part]
    nodes: dict[str, int] = Field(examples=[{"READY": 2}])
    instances: dict[str, int] = Field(examples=[{"RUNNING": 5}])
    counters: dict[str, int]
